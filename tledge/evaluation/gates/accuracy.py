"""Hold one artefact's answers, and the facts about its file, against limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from tledge.evaluation.gates.evidence import Evidence
from tledge.evaluation.gates.gate import KINDS, Gate, Limits, Verdict, exact, judge_at_least, judge_at_most, worst
from tledge.stats import metrics
from tledge.stats.paired import (
    CONFIDENCE,
    Interval,
    PairedCounts,
    PairedDrop,
    error_ratio,
    fewest,
    images_needed,
    paired_counts,
    paired_drop,
    relative_drop,
)

# Answers whose total variation is a thousandth at most on every image are the same model up to rounding: only images
# between two classes could flip, and there the reference is a coin toss as well. Single probabilities would not do: of
# a thousand classes all are small.
_SAME = 1e-3
# Gates that ask what other images would show.
_OF_SAMPLE = ("max_drop", "max_relative_drop", "max_error_ratio", "max_class_recall_drop", "min_agreement")


def evaluate(evidence: Evidence, limits: Limits) -> tuple[Gate, ...]:
    """Every gate with a limit, in the order of the limits."""
    declared = [_GATES[name](evidence, limit) for name, limit in limits.items()]
    largest = evidence.largest_variation
    if largest <= _SAME and np.array_equal(evidence.answers.argmax(axis=1), evidence.reference.argmax(axis=1)):
        note = f"answers equal to {largest:.1g} on every image"
        declared = [replace(gate, verdict="pass", note=note) if gate.name in _OF_SAMPLE else gate for gate in declared]
    return tuple(declared)


def _drop(evidence: Evidence, limit: float) -> Gate:
    return _of_drop("max_drop", paired_drop(evidence.reference_hits, evidence.hits), limit)


def _of_drop(name: str, drop: PairedDrop, limit: float) -> Gate:
    verdict = judge_at_most(drop.low, drop.high, limit)
    note = _need(name, limit, images_needed(drop, limit)) if verdict == "undecided" else ""
    return Gate(name, drop.value, limit, drop.low, drop.high, drop.n, verdict, note)


def _need(name: str, limit: float, images: int | None, of: str = "images") -> str:
    if images:
        return f"needs about {images:,} {of}"
    kind = KINDS[name]
    if limit == (kind.highest if name == "min_agreement" else kind.lowest):
        # One more image may always be the first that differs.
        return f"no number of {of} shows that nothing differs: bound max_probability_difference instead"
    return f"too close to the limit for any number of {of}"


def _relative_drop(evidence: Evidence, limit: float) -> Gate:
    if not evidence.reference_hits.any():
        note = "the reference is right on no image, so there is no share of its accuracy to lose"
        return Gate("max_relative_drop", None, limit, None, None, evidence.n, "undecided", note)
    return _of_counts("max_relative_drop", relative_drop, evidence, limit)


def _error_ratio(evidence: Evidence, limit: float) -> Gate:
    return _of_counts("max_error_ratio", error_ratio, evidence, limit)


def _of_counts(name: str, measure: Callable[[PairedCounts], Interval], evidence: Evidence, limit: float) -> Gate:
    counts = paired_counts(evidence.reference_hits, evidence.hits)

    def judged(n: int) -> Verdict:
        found = measure(counts.scaled_to(n))
        return judge_at_most(found.low, found.high, limit)

    found, verdict = measure(counts), judged(counts.n)
    note = ""
    if verdict == "undecided":
        note = _need(name, limit, fewest(lambda n: judged(n) != "undecided", evidence.n))
    return Gate(name, found.value, limit, found.low, found.high, evidence.n, verdict, note)


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
    verdicts = {index: judge_at_most(drop.low, drop.high, limit) for index, drop in drops.items()}
    verdict = worst(list(verdicts.values()))
    shown = max((i for i in present if verdicts[i] == verdict), key=lambda i: (drops[i].value, drops[i].high))
    undecided = [drops[i] for i in present if verdicts[i] == "undecided"]
    note = f"{evidence.classes[shown]}, {len(undecided)} of {len(present)} classes undecided"
    if verdict == "undecided":
        # Many classes share their counts, and the same counts need the same number.
        needed = [images_needed(drop, limit, confidence) for drop in set(undecided)]
        most = None if None in needed else max(n for n in needed if n)
        note += f", {_need('max_class_recall_drop', limit, most, 'images of a class')}"
    found = drops[shown]
    return Gate("max_class_recall_drop", found.value, limit, found.low, found.high, found.n, verdict, note)


def _agreement(evidence: Evidence, limit: float) -> Gate:
    same = metrics.agreement(evidence.answers, evidence.reference)

    def judged(n: int) -> Verdict:
        found = metrics.proportion(round(same.value * n), n)
        return judge_at_least(found.low, found.high, limit)

    verdict = judged(same.n)
    note = ""
    if verdict == "undecided":
        note = _need("min_agreement", limit, fewest(lambda n: judged(n) != "undecided", same.n))
    return Gate("min_agreement", same.value, limit, same.low, same.high, same.n, verdict, note)


def _probability_difference(evidence: Evidence, limit: float) -> Gate:
    return exact("max_probability_difference", float(evidence.difference.max()), limit, evidence.n)


def _mean_probability_difference(evidence: Evidence, limit: float) -> Gate:
    return exact("max_mean_probability_difference", float(evidence.difference.mean()), limit, evidence.n)


def _size(evidence: Evidence, limit: float) -> Gate:
    return exact("max_size_mb", evidence.size_bytes / 1e6, limit, 0)


def _int8_share(evidence: Evidence, limit: float) -> Gate:
    share = evidence.int8_share
    if share is None:
        return Gate("min_int8_share", None, limit, None, None, 0, "undecided", "the file's operators cannot be counted")
    return Gate("min_int8_share", share, limit, None, None, 0, "pass" if share >= limit else "fail")


def _latency_ratio(evidence: Evidence, limit: float) -> Gate:
    if evidence.latency is None:
        note = "no measurement of this file beside Keras: run `tledge bench`"
        return Gate("max_latency_ratio", None, limit, None, None, 0, "undecided", note)
    found = evidence.latency
    verdict = judge_at_most(found.low, found.high, limit)
    note = "measure longer: `tledge bench --until-stable`" if verdict == "undecided" else ""
    return Gate("max_latency_ratio", found.value, limit, found.low, found.high, evidence.latency_n, verdict, note)


def _baseline_drop(evidence: Evidence, limit: float) -> Gate:
    if evidence.baseline_hits is None:
        note = "the baseline has no file of this name"
        return Gate("max_baseline_drop", None, limit, None, None, 0, "undecided", note)
    drop = paired_drop(evidence.baseline_hits, evidence.hits)
    if evidence.same_as_baseline and drop.lost == drop.won == 0:
        return Gate("max_baseline_drop", drop.value, limit, drop.low, drop.high, drop.n, "pass", "the very same file")
    return _of_drop("max_baseline_drop", drop, limit)


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
