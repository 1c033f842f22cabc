"""What a gate is, and its verdict: pass, fail, or undecided where the images cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tledge.core.limits import Metric
from tledge.evaluation.gates.evidence import Evidence

Verdict = Literal["pass", "fail", "undecided"]
OnUndecided = Literal["pass", "fail"]
Limits = Mapping[str, float]
"""Limits by gate name, as `parse_limits` returns them."""


@dataclass(frozen=True)
class Gate:
    """One limit with the value it was held against.

    `n` images (for `max_latency_ratio`: measured inferences) stand behind the value; 0 for a property of the file.
    `low` and `high` are its 95 % interval, None where the value is exact or a maximum. A value is None if it could not
    be had. `note` says what the numbers do not: which class, how many images would decide.
    """

    name: str
    value: float | None
    limit: float
    low: float | None
    high: float | None
    n: int
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True)
class GateKind:
    """A gate before it has a limit.

    `metric` is what a limit asks for; the gate's name is `metric.key`. `evaluate` holds evidence against a limit, which
    it gets in the metric's own unit. `of_sample` if it asks what other images would show, so that answers equal to the
    reference's pass however few images there are.
    """

    metric: Metric
    evaluate: Callable[[Evidence, float], Gate]
    of_sample: bool = False


def at_most(low: float, high: float, limit: float) -> Verdict:
    """Pass if the whole interval is within the limit, fail if it is wholly beyond, else the data cannot tell.

    An interval that ends at the limit is within it, whether the limit was written with `<` or with `<=`: the end of an
    interval is no value that was measured.
    """
    if high <= limit:
        return "pass"
    return "fail" if low > limit else "undecided"


def at_least(low: float, high: float, limit: float) -> Verdict:
    """The same for a limit from below."""
    if low >= limit:
        return "pass"
    return "fail" if high < limit else "undecided"


def exact(name: str, value: float, limit: float, n: int, note: str = "") -> Gate:
    """A gate whose value is no estimate: pass up to the limit, else fail."""
    return Gate(name, value, limit, None, None, n, "pass" if value <= limit else "fail", note)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Fail if one fails, else undecided if one is, else pass."""
    return "fail" if "fail" in verdicts else "undecided" if "undecided" in verdicts else "pass"
