"""Gates on the classes that an artefact names: against the reference, against the labels, against the baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tledge.core.limits import RATIOS, Metric
from tledge.evaluation.gates.evidence import Evidence, PairedAnswers
from tledge.evaluation.gates.gate import Gate, GateKind, Verdict, at_least, at_most, worst
from tledge.stats import metrics
from tledge.stats.changes import Changes, change_more_often, largest_drop
from tledge.stats.intervals import CONFIDENCE, Interval, fewest
from tledge.stats.paired import (
    PairedCounts,
    PairedDrop,
    error_ratio,
    images_needed,
    paired_counts,
    paired_drop,
    relative_drop,
)


def _drop(evidence: Evidence, limit: float) -> Gate:
    alone = _of_drop(DROP.metric, paired_drop(evidence.reference_hits, evidence.hits), limit)
    return alone if evidence.unlabelled is None else _with_unlabelled(alone, evidence, evidence.unlabelled, limit)


def _with_unlabelled(alone: Gate, evidence: Evidence, unlabelled: PairedAnswers, limit: float) -> Gate:
    """The verdict of the labelled images, or, where these cannot tell, a pass if too few answers change to lose more.

    Where the drop is beyond the limit, a pass takes one of two errors: Tango's upper end below the drop, or the bound
    of the changed answers below their share, which is no less than the drop. Each has a probability of 2.5 % (Tango's
    nominally), so both together at most 5 % (Boole's inequality), though labelled images count in both. The interval
    stays that of the labelled images.
    """
    if alone.verdict != "undecided":
        return replace(alone, note="the labelled images decide")
    labelled, others = evidence.changes, unlabelled.changes
    if change_more_often(labelled, others):
        note = (
            f"{alone.note}; the images without labels do not count, since they seem to be of another kind: answers to "
            f"{_of(others)} of them change, and to {_of(labelled)} labelled ones"
        )
        return replace(alone, note=note)
    both = labelled.with_others(others)
    bound = largest_drop(both)
    counted = f"{_of(both)} answers change, {others.n:,.0f} of them without labels"
    if bound <= limit:
        note = f"the images without labels decide: {counted}, so at most {bound:.3g} can be lost"
        return replace(alone, verdict="pass", note=note)
    enough = None
    if both.changed < limit * both.n:
        enough = fewest(lambda n: largest_drop(both.scaled_to(n)) <= limit, int(both.n))
    way = f"or {enough - int(labelled.n):,} without labels" if enough else "and none without labels would decide"
    return replace(alone, note=f"{alone.note}, {way} ({counted}: up to {bound:.3g})")


def _of(changes: Changes) -> str:
    return f"{changes.changed:,.0f} of {changes.n:,.0f}"


def _of_drop(metric: Metric, drop: PairedDrop, limit: float) -> Gate:
    verdict = at_most(drop.low, drop.high, limit)
    note = _need(metric, limit, images_needed(drop, limit)) if verdict == "undecided" else ""
    return Gate(metric.key, drop.value, limit, drop.low, drop.high, drop.n, verdict, note)


def _need(metric: Metric, limit: float, images: int | None, of: str = "images") -> str:
    if images:
        return f"needs about {images:,} {of}"
    if limit == metric.best:
        # One more image may always be the first that differs.
        return f"no number of {of} shows that nothing differs: bound probability_difference instead"
    return f"too close to the limit for any number of {of}"


def _relative_drop(evidence: Evidence, limit: float) -> Gate:
    if not evidence.reference_hits.any():
        note = "the reference is right on no image, so there is no share of its accuracy to lose"
        return Gate(RELATIVE_DROP.metric.key, None, limit, None, None, evidence.n, "undecided", note)
    return _of_counts(RELATIVE_DROP.metric, relative_drop, evidence, limit)


def _error_ratio(evidence: Evidence, limit: float) -> Gate:
    return _of_counts(ERROR_RATIO.metric, error_ratio, evidence, limit)


def _of_counts(metric: Metric, measure: Callable[[PairedCounts], Interval], evidence: Evidence, limit: float) -> Gate:
    counts = paired_counts(evidence.reference_hits, evidence.hits)

    def verdict_of(n: int) -> Verdict:
        found = measure(counts.scaled_to(n))
        return at_most(found.low, found.high, limit)

    found, verdict = measure(counts), verdict_of(counts.n)
    note = ""
    if verdict == "undecided":
        note = _need(metric, limit, fewest(lambda n: verdict_of(n) != "undecided", evidence.n))
    return Gate(metric.key, found.value, limit, found.low, found.high, evidence.n, verdict, note)


def _class_recall_drop(evidence: Evidence, limit: float) -> Gate:
    """The verdict is over all classes, value and interval are the worst one's.

    With many classes one interval in twenty misses by chance alone, so each is widened until all hold together in 95 %
    (Bonferroni).
    """
    present = [index for index in range(len(evidence.classes)) if np.any(evidence.labels == index)]
    confidence = 1 - (1 - CONFIDENCE) / len(present)
    drops: dict[int, PairedDrop] = {}
    for index in present:
        rows = evidence.labels == index
        drops[index] = paired_drop(evidence.reference_hits[rows], evidence.hits[rows], confidence)
    verdicts = {index: at_most(drop.low, drop.high, limit) for index, drop in drops.items()}
    verdict = worst(list(verdicts.values()))
    shown = max((i for i in present if verdicts[i] == verdict), key=lambda i: (drops[i].value, drops[i].high))
    undecided = [drops[i] for i in present if verdicts[i] == "undecided"]
    note = f"{evidence.classes[shown]}, {len(undecided)} of {len(present)} classes undecided"
    metric = CLASS_RECALL_DROP.metric
    if verdict == "undecided":
        # Many classes share their counts, and the same counts need the same number.
        needed = [images_needed(drop, limit, confidence) for drop in set(undecided)]
        most = None if None in needed else max(n for n in needed if n)
        note += f", {_need(metric, limit, most, 'images of a class')}"
    found = drops[shown]
    return Gate(metric.key, found.value, limit, found.low, found.high, found.n, verdict, note)


def _agreement(evidence: Evidence, limit: float) -> Gate:
    same, metric = metrics.agreement(evidence.answers, evidence.reference), AGREEMENT.metric

    def verdict_of(n: int) -> Verdict:
        found = metrics.proportion(round(same.value * n), n)
        return at_least(found.low, found.high, limit)

    verdict = verdict_of(same.n)
    note = ""
    if verdict == "undecided":
        note = _need(metric, limit, fewest(lambda n: verdict_of(n) != "undecided", same.n))
    return Gate(metric.key, same.value, limit, same.low, same.high, same.n, verdict, note)


def _disagreement(evidence: Evidence, limit: float) -> Gate:
    metric, unlabelled = DISAGREEMENT.metric, evidence.unlabelled
    if unlabelled is None:
        return Gate(metric.key, None, limit, None, None, 0, "undecided", "no images without labels: --unlabelled DIR")
    changes = unlabelled.changes

    def outcome(n: int) -> tuple[Interval, Verdict]:
        found = metrics.proportion(round(changes.scaled_to(n).changed), n)
        return Interval(found.value, found.low, found.high), at_most(found.low, found.high, limit)

    n = len(unlabelled.reference)
    found, verdict = outcome(n)
    note = ""
    if unlabelled.alike:
        verdict, note = "pass", unlabelled.alike_in_words
    elif verdict == "undecided":
        note = _need(metric, limit, fewest(lambda n: outcome(n)[1] != "undecided", n), "images without labels")
    return Gate(metric.key, found.value, limit, found.low, found.high, n, verdict, note)


def _resize_drop(evidence: Evidence, limit: float) -> Gate:
    """The verdict is over all ways to resize, value and interval are the worst one's; widened as for classes."""
    metric = RESIZE_DROP.metric
    if not evidence.resized:
        return Gate(metric.key, None, limit, None, None, 0, "undecided", "not measured: --resize-robustness")
    confidence = 1 - (1 - CONFIDENCE) / len(evidence.resized)
    drops = {name: paired_drop(evidence.hits, hits, confidence) for name, hits in evidence.resized.items()}
    verdicts = {name: at_most(drop.low, drop.high, limit) for name, drop in drops.items()}
    verdict = worst(list(verdicts.values()))
    shown = max((way for way in drops if verdicts[way] == verdict), key=lambda way: (drops[way].value, drops[way].high))
    undecided = [drops[way] for way in drops if verdicts[way] == "undecided"]
    note = f"{shown}, {len(undecided)} of {len(drops)} ways to resize undecided"
    if verdict == "undecided":
        needed = [images_needed(drop, limit, confidence) for drop in set(undecided)]
        most = None if None in needed else max(n for n in needed if n)
        note += f", {_need(metric, limit, most)}"
    found = drops[shown]
    return Gate(metric.key, found.value, limit, found.low, found.high, found.n, verdict, note)


def _baseline_drop(evidence: Evidence, limit: float) -> Gate:
    key = BASELINE_DROP.metric.key
    if evidence.baseline_hits is None:
        return Gate(key, None, limit, None, None, 0, "undecided", "the baseline has no file of this name")
    drop = paired_drop(evidence.baseline_hits, evidence.hits)
    if evidence.same_as_baseline and drop.lost == drop.won == 0:
        return Gate(key, drop.value, limit, drop.low, drop.high, drop.n, "pass", "the very same file")
    return _of_drop(BASELINE_DROP.metric, drop, limit)


DROP = GateKind(
    Metric("drop", "accuracy of the reference minus that of the artefact", closed=True, old_name="max_drop"),
    _drop,
    of_sample=True,
)
RELATIVE_DROP = GateKind(
    Metric(
        "relative_drop", "that drop as a share of the reference's accuracy", closed=True, old_name="max_relative_drop"
    ),
    _relative_drop,
    of_sample=True,
)
ERROR_RATIO = GateKind(
    Metric(
        "error_ratio",
        "errors of the artefact for one error of the reference",
        RATIOS,
        lowest=1.0,
        highest=float("inf"),
        closed=True,
        old_name="max_error_ratio",
    ),
    _error_ratio,
    of_sample=True,
)
CLASS_RECALL_DROP = GateKind(
    Metric("class_recall_drop", "largest drop of one class's recall", closed=True, old_name="max_class_recall_drop"),
    _class_recall_drop,
    of_sample=True,
)
AGREEMENT = GateKind(
    Metric(
        "agreement",
        "share of images on which both name the same class",
        lower_is_better=False,
        closed=True,
        old_name="min_agreement",
    ),
    _agreement,
    of_sample=True,
)
DISAGREEMENT = GateKind(
    Metric(
        "disagreement",
        "share of images without labels on which both name different classes",
        closed=True,
        old_name="max_disagreement",
    ),
    _disagreement,
)
RESIZE_DROP = GateKind(
    Metric(
        "resize_drop",
        "largest drop of the artefact's accuracy where an app resizes in another way",
        closed=True,
        old_name="max_resize_drop",
    ),
    _resize_drop,
)
BASELINE_DROP = GateKind(
    Metric("baseline_drop", "accuracy in the baseline minus accuracy now", closed=True, old_name="max_baseline_drop"),
    _baseline_drop,
)
