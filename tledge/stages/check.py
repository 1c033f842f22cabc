"""Stage 3: is every artefact as accurate as the reference, in its own runtime, on the same pixels?"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tledge import metrics
from tledge.artefacts import RunArtefact, open_artefacts
from tledge.environment import machine, versions
from tledge.errors import ArtefactError, SettingsError
from tledge.files import write_json
from tledge.manifest import Manifest, read_manifest, verify_reference
from tledge.rundir import RunDir, open_run, require_writable
from tledge.runners import Runner, open_runner
from tledge.stages.check_images import CheckImages, other_images, run_images
from tledge.types import Json, Probabilities

Progress = Callable[[str, int, int], None]

DEFAULT_MAX_DROP = 0.02
_BATCH = 16
# A drop of exactly the limit passes; accuracies are quotients, so leave room for their last bit.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Gate:
    """One limit with the value it was held against; `n` images stand behind the value."""

    name: str
    value: float
    limit: float
    n: int
    passed: bool


@dataclass(frozen=True)
class ArtefactCheck:
    """How one artefact compares with the reference. Shares are in 0..1, drop is reference minus artefact."""

    name: str
    path: str
    sha256: str
    size_bytes: int
    runtime: str
    accuracy: metrics.Proportion
    accuracy_drop: float
    agreement: metrics.Proportion
    recall: dict[str, float | None]
    confusion: list[list[int]]
    max_probability_difference: float
    mean_probability_difference: float
    gates: tuple[Gate, ...]
    passed: bool


@dataclass(frozen=True)
class CheckResult:
    """The verdict over all artefacts of one check."""

    run: RunDir
    n: int
    reference_accuracy: metrics.Proportion
    artefacts: tuple[ArtefactCheck, ...]
    passed: bool


def check(
    run_path: Path,
    *,
    artefacts: Sequence[Path] = (),
    data: Path | None = None,
    max_drop: float | None = None,
    progress: Progress = lambda *_: None,
) -> CheckResult:
    """Compare artefacts with the reference and write `check.json`.

    Args:
        run_path: the run.
        artefacts: files to check; empty for every artefact of the run.
        data: another folder of labelled images; None for the run's own test subset.
        max_drop: largest allowed drop of accuracy, 0..1; None for each recipe's own, or else 0.02.
        progress: called with (what, images done, images in all).

    Raises:
        RunError, DataError, ArtefactError: what is to be compared is missing, damaged or of another run.
    """
    require_share(max_drop)
    run = open_run(run_path)
    require_writable(run)
    manifest = read_manifest(run)
    verify_reference(run, manifest)
    opened = tuple(open_artefacts(run, manifest, artefacts))
    reference_runner = open_runner(run.reference)
    side = reference_runner.image_size_px
    images = run_images(run, manifest, side) if data is None else other_images(data, manifest, side)
    for artefact, runner in opened:
        _require_same_shape(artefact, runner, manifest)
    reference, answers = _predict(reference_runner, [runner for _, runner in opened], images, progress)
    checks = tuple(
        _compare(artefact, runner, answer, reference, images, manifest, max_drop)
        for (artefact, runner), answer in zip(opened, answers, strict=True)
    )
    accuracy = metrics.accuracy(reference, images.labels)
    result = CheckResult(run, len(images.labels), accuracy, checks, all(c.passed for c in checks))
    write_json(run.check, _json(result, manifest, images, reference))
    return result


def require_share(max_drop: float | None) -> None:
    """Check a limit before slow work.

    Raises:
        SettingsError: not between 0 and 1.
    """
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise SettingsError(f"expected --max-drop between 0 and 1 (0.02 is two points), but got {max_drop}; change it")


def _require_same_shape(artefact: RunArtefact, runner: Runner, manifest: Manifest) -> None:
    found = (runner.image_size_px, runner.classes, runner.labels)
    expected = (manifest.image_size_px, len(manifest.classes), tuple(manifest.classes))
    if found != expected:
        raise ArtefactError(
            f"expected size, classes and labels {expected} in {artefact.path.name}, but found {found}; export it again"
        )


def _predict(
    reference: Runner, runners: Sequence[Runner], images: CheckImages, progress: Progress
) -> tuple[Probabilities, list[Probabilities]]:
    """Every model's answers, one pass over the images."""
    n = len(images.labels)
    first: list[Probabilities] = []
    others: list[list[Probabilities]] = [[] for _ in runners]
    everything = np.arange(n)
    same = images.pixels is images.reference_pixels
    for_reference = None if same else images.reference_pixels.batches(everything, _BATCH)
    for batch in images.pixels.batches(everything, _BATCH):
        first.append(reference.predict(batch if for_reference is None else next(for_reference)))
        for answers, runner in zip(others, runners, strict=True):
            answers.append(runner.predict(batch))
        progress("checking", sum(map(len, first)), n)
    return np.concatenate(first), [np.concatenate(answers) for answers in others]


def _compare(
    artefact: RunArtefact,
    runner: Runner,
    answers: Probabilities,
    reference: Probabilities,
    images: CheckImages,
    manifest: Manifest,
    max_drop: float | None,
) -> ArtefactCheck:
    n = len(images.labels)
    accuracy = metrics.accuracy(answers, images.labels)
    drop = metrics.accuracy(reference, images.labels).value - accuracy.value
    limit = max_drop if max_drop is not None else artefact.max_drop
    limit = DEFAULT_MAX_DROP if limit is None else limit
    collapsed = metrics.collapsed(answers, reference)
    finite = bool(np.isfinite(answers).all())
    gates = (
        Gate("max_drop", drop, limit, n, drop <= limit + _ROUNDING),
        Gate("collapsed_to_one_class", float(collapsed), 0.0, n, not collapsed),
        Gate("non_finite_probabilities", float(not finite), 0.0, n, finite),
    )
    # A model that returns NaN fails its gate; its differences are as large as probabilities allow.
    difference = np.nan_to_num(np.abs(answers - reference), nan=1.0, posinf=1.0)
    recalls = metrics.recall_per_class(answers, images.labels, len(manifest.classes))
    return ArtefactCheck(
        name=artefact.name,
        path=os.path.relpath(artefact.path),
        sha256=artefact.sha256,
        size_bytes=artefact.size_bytes,
        runtime=runner.runtime,
        accuracy=accuracy,
        accuracy_drop=drop,
        agreement=metrics.agreement(answers, reference),
        recall=dict(zip(manifest.classes, recalls, strict=True)),
        confusion=metrics.confusion(answers, images.labels, len(manifest.classes)),
        max_probability_difference=float(difference.max()),
        mean_probability_difference=float(difference.mean()),
        gates=gates,
        passed=all(gate.passed for gate in gates),
    )


def _proportion(name: str, share: metrics.Proportion) -> dict[str, object]:
    return {name: share.value, f"{name}_interval_95": [share.low, share.high]}


def _json(result: CheckResult, manifest: Manifest, images: CheckImages, reference: Probabilities) -> Json:
    classes = len(manifest.classes)
    recalls = metrics.recall_per_class(reference, images.labels, classes)
    artefacts = []
    for item in result.artefacts:
        values = asdict(item) | _proportion("accuracy", item.accuracy) | _proportion("agreement", item.agreement)
        path = os.path.relpath(item.path, result.run.path)
        artefacts.append(values | {"path": path, "n": result.n, "gates": [asdict(gate) for gate in item.gates]})
    return {
        "passed": result.passed,
        "n": result.n,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data_root": os.path.relpath(images.root, result.run.path),
        "data_fingerprint": images.fingerprint,
        "model_sha256": manifest.model_sha256,
        "classes": manifest.classes,
        "reference": {
            **_proportion("accuracy", result.reference_accuracy),
            "recall": dict(zip(manifest.classes, recalls, strict=True)),
            "confusion": metrics.confusion(reference, images.labels, classes),
            "n": result.n,
        },
        "artefacts": artefacts,
        "versions": versions(),
        "machine": machine(),
    }
