"""What a check leaves on disk: `check.json` for programs, `predictions.csv` image by image."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime

from tledge.core.environment import machine, versions
from tledge.core.files import write_csv, write_json
from tledge.core.records import plain
from tledge.core.types import Json
from tledge.evaluation.baseline import Change
from tledge.evaluation.comparison import ArtefactCheck, CheckResult
from tledge.evaluation.gates.gate import Gate
from tledge.stats import metrics

REFERENCE_COLUMN = "reference"


def write_check(result: CheckResult) -> None:
    """Write both files; the verdict comes last, so that it never stands beside answers of an earlier check."""
    folder = result.folder
    folder.check.unlink(missing_ok=True)
    header = ["path", "class", REFERENCE_COLUMN, *(item.name for item in result.artefacts)]
    columns = [result.answers.reference.argmax(axis=1), *(item.predicted for item in result.artefacts)]
    rows = [
        [path, result.classes[label], *(result.classes[column[i]] for column in columns)]
        for i, (path, label) in enumerate(zip(result.images.paths, result.images.labels, strict=True))
    ]
    write_csv(folder.predictions, header, rows)
    write_json(folder.check, as_json(result))


def as_json(result: CheckResult) -> Json:
    """The whole result but the answers."""
    labels, reference = result.images.labels, result.answers.reference
    recalls = metrics.recall_per_class(reference, labels, len(result.classes))
    return {
        "passed": result.passed,
        "verdict": result.verdict,
        "on_undecided": result.settings.on_undecided,
        "n": result.n,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_root": os.path.relpath(result.images.root, result.folder.path),
        "data_fingerprint": result.images.fingerprint,
        "reference_sha256": result.reference_sha256,
        "classes": list(result.classes),
        "reference": {
            **_proportion("accuracy", result.reference_accuracy),
            "recall": dict(zip(result.classes, recalls, strict=True)),
            "confusion": metrics.confusion(reference, labels, len(result.classes)),
            "n": result.n,
        },
        "artefacts": [_artefact(item, result) for item in result.artefacts],
        "missing_from_baseline": list(result.missing),
        "notes": list(result.notes),
        "versions": versions(),
        "machine": plain(machine()),
    }


def _artefact(item: ArtefactCheck, result: CheckResult) -> Json:
    return {
        "name": item.name,
        "path": os.path.relpath(item.path, result.folder.path),
        "sha256": item.sha256,
        "size_bytes": item.size_bytes,
        "runtime": item.runtime,
        "verdict": item.verdict,
        "passed": item.passed,
        "reason": item.reason,
        **_proportion("accuracy", item.accuracy),
        "accuracy_drop": item.drop.value,
        "accuracy_drop_interval_95": [item.drop.low, item.drop.high],
        "lost": item.drop.lost,
        "won": item.drop.won,
        "mcnemar_p": item.drop.p_value,
        **_proportion("agreement", item.agreement),
        "n": result.n,
        "recall": item.recall,
        "confusion": item.confusion,
        "max_probability_difference": item.max_probability_difference,
        "mean_probability_difference": item.mean_probability_difference,
        "gates": [_gate(gate, result) for gate in item.gates],
        "since_baseline": None if item.change is None else _change(item.change),
    }


def _gate(gate: Gate, result: CheckResult) -> Json:
    interval = None if gate.low is None else [gate.low, gate.high]
    passed = gate.verdict == "pass" or (gate.verdict == "undecided" and result.settings.on_undecided == "pass")
    return {
        "name": gate.name,
        "value": gate.value,
        "limit": gate.limit,
        "interval_95": interval,
        "n": gate.n,
        "verdict": gate.verdict,
        "passed": passed,
        "note": gate.note,
    }


def _change(change: Change) -> Json:
    return {
        "accuracy_drop": change.drop.value,
        "accuracy_drop_interval_95": [change.drop.low, change.drop.high],
        "mcnemar_p": change.drop.p_value,
        "improved": change.improved,
        "lost": [asdict(flip) for flip in change.lost],
        "won": [asdict(flip) for flip in change.won],
        "moved": [asdict(flip) for flip in change.moved],
    }


def _proportion(name: str, share: metrics.Proportion) -> Json:
    return {name: share.value, f"{name}_interval_95": [share.low, share.high]}
