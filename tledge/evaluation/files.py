"""What a check leaves on disk: `check.json` for programs, `predictions.csv` image by image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from msgspec import structs

from tledge.core.environment import machine, versions
from tledge.core.files import sha256_file
from tledge.core.records import write_record
from tledge.core.types import Probabilities
from tledge.evaluation.baseline import Change, Flip
from tledge.evaluation.gates.gate import Gate
from tledge.evaluation.results import ArtefactCheck, CheckResult, Disagreement, HostCheck, Resized
from tledge.runs.check_json import (
    ChangedImage,
    CheckedArtefact,
    CheckedDisagreement,
    CheckedGate,
    CheckedHost,
    CheckedReference,
    CheckedResizing,
    CheckedThere,
    CheckedUnlabelled,
    CheckFile,
    FlippedImage,
    SinceBaseline,
)
from tledge.runs.images import UnlabelledImages
from tledge.runs.predictions import REFERENCE_COLUMN, Answered, Predictions, write_predictions
from tledge.runs.rundir import RunDir
from tledge.stats import metrics


def write_check(result: CheckResult) -> None:
    """Write both files; the verdict comes last, so that it never stands beside answers of an earlier check."""
    folder = result.folder
    folder.check.unlink(missing_ok=True)
    answers = {REFERENCE_COLUMN: _answered(result, result.answers.reference)}
    for where, one in (("", result), *((f" on {host.name}", host.result) for host in result.hosts)):
        for item, found in zip(one.artefacts, one.answers.candidates, strict=True):
            answers[f"{item.name}{where}"] = _answered(result, found)
    labels = [result.classes[label] for label in result.images.labels]
    write_predictions(folder.predictions, Predictions(result.images.paths, labels, answers))
    record = as_record(result)
    write_record(folder.check, structs.replace(record, predictions_sha256=sha256_file(folder.predictions)))


def _answered(result: CheckResult, answers: Probabilities) -> Answered:
    return Answered([result.classes[i] for i in answers.argmax(axis=1)], answers.max(axis=1).tolist())


def as_record(result: CheckResult) -> CheckFile:
    """The whole result but the answers."""
    labels, reference = result.images.labels, result.answers.reference
    recalls = metrics.recall_per_class(reference, labels, len(result.classes))
    return CheckFile(
        passed=result.passed,
        verdict=result.verdict,
        on_undecided=result.settings.on_undecided,
        n=result.n,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data_root=os.path.relpath(result.images.root, result.folder.path),
        data_fingerprint=result.images.fingerprint,
        reference_sha256=result.reference_sha256,
        classes=result.classes,
        reference=CheckedReference(
            accuracy=result.reference_accuracy.value,
            accuracy_interval_95=(result.reference_accuracy.low, result.reference_accuracy.high),
            recall=dict(zip(result.classes, recalls, strict=True)),
            confusion=_rows(metrics.confusion(reference, labels, len(result.classes))),
            n=result.n,
            resized=_resized(result.reference_resized),
        ),
        artefacts=tuple(_artefact(item, result) for item in result.artefacts),
        missing_from_baseline=result.missing,
        notes=result.notes,
        versions=versions(),
        machine=machine(),
        unlabelled=None if result.unlabelled is None else _unlabelled(result.unlabelled, result.folder),
        hosts=tuple(_host(host) for host in result.hosts),
    )


def _host(host: HostCheck) -> CheckedHost:
    return CheckedHost(
        on=host.on,
        passed=host.result.passed,
        verdict=host.result.verdict,
        environment=host.environment,
        artefacts=tuple(
            CheckedThere(**structs.asdict(_artefact(item, host.result)), against_here=against)
            for item, against in zip(host.result.artefacts, host.against_here, strict=True)
        ),
        notes=host.result.notes,
    )


def _artefact(item: ArtefactCheck, result: CheckResult) -> CheckedArtefact:
    return CheckedArtefact(
        name=item.name,
        path=os.path.relpath(item.path, result.folder.path),
        sha256=item.sha256,
        size_bytes=item.size_bytes,
        runtime=item.runtime,
        verdict=item.verdict,
        passed=item.passed,
        reason=item.reason,
        accuracy=item.accuracy.value,
        accuracy_interval_95=(item.accuracy.low, item.accuracy.high),
        accuracy_drop=item.drop.value,
        accuracy_drop_interval_95=(item.drop.low, item.drop.high),
        lost=item.drop.lost,
        won=item.drop.won,
        mcnemar_p=item.drop.p_value,
        agreement=item.agreement.value,
        agreement_interval_95=(item.agreement.low, item.agreement.high),
        n=result.n,
        recall=item.recall,
        confusion=_rows(item.confusion),
        max_probability_difference=item.max_probability_difference,
        mean_probability_difference=item.mean_probability_difference,
        gates=tuple(_gate(gate, result) for gate in item.gates),
        since_baseline=None if item.change is None else _change(item.change),
        unlabelled=None if item.disagreement is None else _disagreement(item.disagreement),
        resized=_resized(item.resized),
    )


def _resized(ways: Sequence[Resized]) -> tuple[CheckedResizing, ...]:
    return tuple(
        CheckedResizing(
            resizer=way.resizer,
            accuracy=way.accuracy.value,
            accuracy_interval_95=(way.accuracy.low, way.accuracy.high),
            accuracy_drop=way.drop.value,
            accuracy_drop_interval_95=(way.drop.low, way.drop.high),
            lost=way.drop.lost,
            won=way.drop.won,
            flips=_images(way.flips),
        )
        for way in ways
    )


def _disagreement(found: Disagreement) -> CheckedDisagreement:
    return CheckedDisagreement(
        n=found.share.n,
        changed=found.changed,
        disagreement=found.share.value,
        disagreement_interval_95=(found.share.low, found.share.high),
        examples=tuple(ChangedImage(**asdict(each)) for each in found.examples),
    )


def _unlabelled(images: UnlabelledImages, folder: RunDir) -> CheckedUnlabelled:
    return CheckedUnlabelled(
        data_root=os.path.relpath(images.root, folder.path),
        data_fingerprint=images.fingerprint,
        n=images.n,
        copies=images.copies,
    )


def _gate(gate: Gate, result: CheckResult) -> CheckedGate:
    return CheckedGate(
        name=gate.name,
        value=gate.value,
        limit=gate.limit,
        interval_95=None if gate.low is None else (gate.low, gate.high),
        n=gate.n,
        verdict=gate.verdict,
        passed=gate.verdict == "pass" or (gate.verdict == "undecided" and result.settings.on_undecided == "pass"),
        note=gate.note,
    )


def _change(change: Change) -> SinceBaseline:
    return SinceBaseline(
        accuracy_drop=change.drop.value,
        accuracy_drop_interval_95=(change.drop.low, change.drop.high),
        mcnemar_p=change.drop.p_value,
        improved=change.improved,
        lost=_images(change.lost),
        won=_images(change.won),
        moved=_images(change.moved),
    )


def _images(flips: Sequence[Flip]) -> tuple[FlippedImage, ...]:
    return tuple(FlippedImage(**asdict(flip)) for flip in flips)


def _rows(confusion: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in confusion)
