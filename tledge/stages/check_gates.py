"""Hold one artefact's answers, and the facts about its file, against limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tledge import metrics
from tledge.gates import Gate, Limits, Verdict, judge_at_least, judge_at_most, worst
from tledge.statistics import (
    CONFIDENCE,
    Hits,
    Interval,
    PairedDrop,
    error_ratio,
    images_needed,
    paired_counts,
    paired_drop,
    relative_drop,
)
from tledge.types import Labels, Probabilities

# Answers that agree to a thousandth on every image are the same model up to rounding: only images between two classes
# could flip, and there the reference is a coin toss as well.
_SAME = 1e-3
# Rounding of float sums; integer outputs add half a step of 1/256 per class.
_SUM_TOLERANCE = 0.02
_STEP = 1 / 256
# A class that the reference names this often and the artefact never is gone, not unlucky.
_ENOUGH_TO_MISS = 5


@dataclass(frozen=True)
class RangeFit:
    """How the ranges of a file's integer activations fit those that calibration on the run's images gives.

    `off` of `layers` are too narrow or too wide; `images` calibrated them, 0 if training learned the ranges. That of
    `worst` is `ratio` times as wide as it should be.
    """

    off: int
    layers: int
    images: int
    worst: str
    ratio: float


@dataclass(frozen=True)
class Evidence:
    """What is known of one artefact.

    `answers` and `reference` (N, C) are for the same images in the same order, `labels` (N,) the true classes.
    `int8_share` is None where the file's operators cannot be counted. `latency` is p50 over Keras's with its interval,
    of `latency_n` inferences, None without a measurement. `baseline_hits` is which images the accepted release got
    right, None without a baseline; `same_as_baseline` if it was this very file. `ranges` is None where the file has no
    integer activations, or theirs cannot be known.
    """

    answers: Probabilities
    reference: Probabilities
    labels: Labels
    classes: tuple[str, ...]
    size_bytes: int
    output_dtype: str
    int8_share: float | None = None
    latency: Interval | None = None
    latency_n: int = 0
    baseline_hits: Hits | None = None
    same_as_baseline: bool = False
    ranges: RangeFit | None = None

    @property
    def n(self) -> int:
        """Images."""
        return len(self.labels)

    @property
    def hits(self) -> Hits:
        """Which images the artefact gets right."""
        return np.asarray(self.answers.argmax(axis=1) == self.labels)

    @property
    def reference_hits(self) -> Hits:
        """Which images the reference gets right."""
        return np.asarray(self.reference.argmax(axis=1) == self.labels)

    @property
    def difference(self) -> Probabilities:
        """|artefact - reference|, (N, C); a value that is no number differs by as much as probabilities can."""
        return np.asarray(np.nan_to_num(np.abs(self.answers - self.reference), nan=1.0, posinf=1.0), np.float32)


def evaluate(evidence: Evidence, limits: Limits) -> tuple[Gate, ...]:
    """Every gate with a limit, in the order of the limits, then those that each artefact must pass."""
    declared = (_GATES[name](evidence, limit) for name, limit in limits.items())
    return (*declared, *_sanity(evidence))


def _drop(evidence: Evidence, limit: float) -> Gate:
    drop = paired_drop(evidence.reference_hits, evidence.hits)
    largest = float(evidence.difference.max())
    if largest <= _SAME and drop.lost == drop.won == 0:
        note = f"answers equal to {largest:.1g} on every image"
        return Gate("max_drop", drop.value, limit, drop.low, drop.high, drop.n, "pass", note)
    return _of_drop("max_drop", drop, limit)


def _of_drop(name: str, drop: PairedDrop, limit: float, note: str = "") -> Gate:
    verdict = judge_at_most(drop.low, drop.high, limit)
    notes = [note] if note else []
    if verdict == "undecided":
        needed = images_needed(drop, limit)
        notes.append(f"needs about {needed:,} images" if needed else "too close to the limit for any number of images")
    return Gate(name, drop.value, limit, drop.low, drop.high, drop.n, verdict, ", ".join(notes))


def _of_interval(name: str, found: Interval, limit: float, n: int) -> Gate:
    verdict = judge_at_most(found.low, found.high, limit)
    return Gate(name, found.value, limit, found.low, found.high, n, verdict)


def _relative_drop(evidence: Evidence, limit: float) -> Gate:
    counts = paired_counts(evidence.reference_hits, evidence.hits)
    return _of_interval("max_relative_drop", relative_drop(counts), limit, evidence.n)


def _error_ratio(evidence: Evidence, limit: float) -> Gate:
    counts = paired_counts(evidence.reference_hits, evidence.hits)
    return _of_interval("max_error_ratio", error_ratio(counts), limit, evidence.n)


def _class_recall_drop(evidence: Evidence, limit: float) -> Gate:
    """The verdict is over all classes, value and interval are the worst one's.

    With many classes one interval in twenty misses by chance alone, so each is widened until all hold together in 95 %
    (Bonferroni).
    """
    present = [index for index in range(len(evidence.classes)) if np.any(evidence.labels == index)]
    confidence = 1 - (1 - CONFIDENCE) / len(present)
    drops = {}
    for index in present:
        rows = evidence.labels == index
        drops[index] = paired_drop(evidence.reference_hits[rows], evidence.hits[rows], confidence)
    verdicts: list[Verdict] = [judge_at_most(drop.low, drop.high, limit) for drop in drops.values()]
    index = max(present, key=lambda i: (drops[i].low > limit, drops[i].value, drops[i].high))
    found = drops[index]
    note = f"{evidence.classes[index]}, {verdicts.count('undecided')} of {len(present)} classes undecided"
    return Gate("max_class_recall_drop", found.value, limit, found.low, found.high, found.n, worst(verdicts), note)


def _agreement(evidence: Evidence, limit: float) -> Gate:
    same = metrics.agreement(evidence.answers, evidence.reference)
    verdict = judge_at_least(same.low, same.high, limit)
    return Gate("min_agreement", same.value, limit, same.low, same.high, same.n, verdict)


def _probability_difference(evidence: Evidence, limit: float) -> Gate:
    return _exact("max_probability_difference", float(evidence.difference.max()), limit, evidence.n)


def _mean_probability_difference(evidence: Evidence, limit: float) -> Gate:
    return _exact("max_mean_probability_difference", float(evidence.difference.mean()), limit, evidence.n)


def _size(evidence: Evidence, limit: float) -> Gate:
    return _exact("max_size_mb", evidence.size_bytes / 1e6, limit, 0)


def _int8_share(evidence: Evidence, limit: float) -> Gate:
    share = evidence.int8_share
    if share is None:
        return Gate("min_int8_share", None, limit, None, None, 0, "undecided", "the file's operators cannot be counted")
    return Gate("min_int8_share", share, limit, None, None, 0, "pass" if share >= limit else "fail")


def _latency_ratio(evidence: Evidence, limit: float) -> Gate:
    if evidence.latency is None:
        note = "no measurement of this file beside Keras: run `tledge bench`"
        return Gate("max_latency_ratio", None, limit, None, None, 0, "undecided", note)
    return _of_interval("max_latency_ratio", evidence.latency, limit, evidence.latency_n)


def _baseline_drop(evidence: Evidence, limit: float) -> Gate:
    if evidence.baseline_hits is None:
        note = "the baseline has no file of this name"
        return Gate("max_baseline_drop", None, limit, None, None, 0, "undecided", note)
    drop = paired_drop(evidence.baseline_hits, evidence.hits)
    if evidence.same_as_baseline and drop.lost == drop.won == 0:
        return Gate("max_baseline_drop", drop.value, limit, drop.low, drop.high, drop.n, "pass", "the very same file")
    return _of_drop("max_baseline_drop", drop, limit)


def _sanity(evidence: Evidence) -> tuple[Gate, ...]:
    """What no working classifier does, whatever its accuracy: these need no limit and cannot be turned off."""
    finite = bool(np.isfinite(evidence.answers).all())
    unsummed = float(np.abs(np.nan_to_num(evidence.answers, nan=0.0).sum(axis=1) - 1).max())
    rounded = len(evidence.classes) * _STEP / 2 if evidence.output_dtype != "float32" else 0.0
    named, expected = (
        np.bincount(answers.argmax(axis=1), minlength=len(evidence.classes))
        for answers in (evidence.answers, evidence.reference)
    )
    dead = [evidence.classes[i] for i in np.flatnonzero((named == 0) & (expected >= _ENOUGH_TO_MISS))]
    collapsed = metrics.collapsed(evidence.answers, evidence.reference)
    gates = (
        _exact("non_finite_probabilities", float(not finite), 0.0, evidence.n),
        _exact("probabilities_off_one", unsummed, _SUM_TOLERANCE + rounded, evidence.n),
        _exact("collapsed_to_one_class", float(collapsed), 0.0, evidence.n),
        _exact("dead_classes", float(len(dead)), 0.0, evidence.n, f"never named: {', '.join(dead)}" if dead else ""),
    )
    return gates if evidence.ranges is None else (*gates, _ranges_off(evidence.ranges))


def _ranges_off(fit: RangeFit) -> Gate:
    """Wrong ranges cost accuracy on the images that need them, and those may not be among the ones at hand."""
    if not fit.off:
        return _exact("ranges_off", 0.0, 0.0, fit.images)
    source = "the run's calibration images need" if fit.images else "training learned"
    note = f"{fit.off} of {fit.layers} ranges, {fit.worst}'s is {fit.ratio:.2g} times what {source}: export it again"
    return _exact("ranges_off", float(fit.off), 0.0, fit.images, note)


def _exact(name: str, value: float, limit: float, n: int, note: str = "") -> Gate:
    return Gate(name, value, limit, None, None, n, "pass" if value <= limit else "fail", note)


_GATES: Mapping[str, Callable[[Evidence, float], Gate]] = {
    "max_drop": _drop,
    "max_relative_drop": _relative_drop,
    "max_error_ratio": _error_ratio,
    "max_class_recall_drop": _class_recall_drop,
    "min_agreement": _agreement,
    "max_probability_difference": _probability_difference,
    "max_mean_probability_difference": _mean_probability_difference,
    "max_size_mb": _size,
    "min_int8_share": _int8_share,
    "max_latency_ratio": _latency_ratio,
    "max_baseline_drop": _baseline_drop,
}
