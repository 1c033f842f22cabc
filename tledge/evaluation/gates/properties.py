"""Gates on what needs no estimate, differences of probabilities and properties of the file, and on its latency."""

from __future__ import annotations

from tledge.core.limits import KILOBYTES, MEGABYTES, RATIOS, Metric
from tledge.evaluation.gates.evidence import Evidence
from tledge.evaluation.gates.gate import Gate, GateKind, at_most, exact

_UNBOUNDED = float("inf")


def _probability_difference(evidence: Evidence, limit: float) -> Gate:
    return exact(PROBABILITY_DIFFERENCE.metric.key, float(evidence.difference.max()), limit, evidence.n)


def _mean_probability_difference(evidence: Evidence, limit: float) -> Gate:
    return exact(MEAN_PROBABILITY_DIFFERENCE.metric.key, float(evidence.difference.mean()), limit, evidence.n)


def _size(evidence: Evidence, limit: float) -> Gate:
    return exact(SIZE.metric.key, evidence.size_bytes / 1e6, limit, 0)


def _flash(evidence: Evidence, limit: float) -> Gate:
    return exact(
        FLASH.metric.key, evidence.size_bytes / 1e3, limit, 0, "bytes of the file; the interpreter's come on top"
    )


def _arena(evidence: Evidence, limit: float) -> Gate:
    key, arena_bytes = ARENA.metric.key, evidence.arena_bytes
    if arena_bytes is None:
        return Gate(key, None, limit, None, None, 0, "undecided", "LiteRT Micro opens .tflite files alone")
    return exact(key, arena_bytes / 1e3, limit, 0)


def _int8_share(evidence: Evidence, limit: float) -> Gate:
    key, share = INT8_SHARE.metric.key, evidence.int8_share
    if share is None:
        return Gate(key, None, limit, None, None, 0, "undecided", "the file's operators cannot be counted")
    return Gate(key, share, limit, None, None, 0, "pass" if share >= limit else "fail")


def _latency_ratio(evidence: Evidence, limit: float) -> Gate:
    key, found = LATENCY_RATIO.metric.key, evidence.latency
    if found is None:
        note = "no measurement of this file beside Keras: run `tledge bench`"
        return Gate(key, None, limit, None, None, 0, "undecided", note)
    verdict = at_most(found.low, found.high, limit)
    note = "measure longer: `tledge bench --until-stable`" if verdict == "undecided" else ""
    return Gate(key, found.value, limit, found.low, found.high, evidence.latency_n, verdict, note)


PROBABILITY_DIFFERENCE = GateKind(
    Metric(
        "probability_difference",
        "largest difference of one probability on one image",
        closed=True,
        old_name="max_probability_difference",
    ),
    _probability_difference,
)
MEAN_PROBABILITY_DIFFERENCE = GateKind(
    Metric(
        "mean_probability_difference",
        "mean difference of all probabilities",
        closed=True,
        old_name="max_mean_probability_difference",
    ),
    _mean_probability_difference,
)
SIZE = GateKind(
    Metric("size", "size of the file", MEGABYTES, highest=_UNBOUNDED, closed=True, old_name="max_size_mb"), _size
)
FLASH = GateKind(
    Metric(
        "flash",
        "constant data of the model in a microcontroller's flash: the bytes of the file",
        KILOBYTES,
        highest=_UNBOUNDED,
        closed=True,
        old_name="max_flash_kb",
    ),
    _flash,
)
ARENA = GateKind(
    Metric(
        "arena",
        "memory that LiteRT Micro needs for tensors and its own data",
        KILOBYTES,
        highest=_UNBOUNDED,
        closed=True,
        old_name="max_arena_kb",
    ),
    _arena,
)
INT8_SHARE = GateKind(
    Metric(
        "int8_share",
        "share of operators that compute on 8-bit integers",
        lower_is_better=False,
        closed=True,
        old_name="min_int8_share",
    ),
    _int8_share,
)
LATENCY_RATIO = GateKind(
    Metric(
        "latency_ratio",
        "p50 of the artefact over p50 of the Keras model, from bench.json",
        RATIOS,
        highest=_UNBOUNDED,
        closed=True,
        old_name="max_latency_ratio",
    ),
    _latency_ratio,
)
