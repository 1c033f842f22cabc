"""Gates: which limits there are, what a limit may be, and the verdict of one against the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tledge.core.errors import SettingsError

Verdict = Literal["pass", "fail", "undecided"]
OnUndecided = Literal["pass", "fail"]
Limits = Mapping[str, float]
"""Limits by gate name, checked by `require_limits`."""

DEFAULT_LIMITS: Limits = {"max_drop": 0.02}


@dataclass(frozen=True)
class GateKind:
    """What a limit of this name bounds; the limit lies in `lowest`..`highest`."""

    meaning: str
    lowest: float
    highest: float


KINDS: Mapping[str, GateKind] = {
    "max_drop": GateKind("accuracy of the reference minus that of the artefact", 0.0, 1.0),
    "max_relative_drop": GateKind("that drop as a share of the reference's accuracy", 0.0, 1.0),
    "max_error_ratio": GateKind("errors of the artefact for one error of the reference", 1.0, math.inf),
    "max_class_recall_drop": GateKind("largest drop of one class's recall", 0.0, 1.0),
    "min_agreement": GateKind("share of images on which both name the same class", 0.0, 1.0),
    "max_probability_difference": GateKind("largest difference of one probability on one image", 0.0, 1.0),
    "max_mean_probability_difference": GateKind("mean difference of all probabilities", 0.0, 1.0),
    "max_size_mb": GateKind("file size in megabytes (10^6 bytes)", 0.0, math.inf),
    "min_int8_share": GateKind("share of operators that compute on 8-bit integers", 0.0, 1.0),
    "max_latency_ratio": GateKind("p50 of the artefact over p50 of the Keras model, from bench.json", 0.0, math.inf),
    "max_baseline_drop": GateKind("accuracy in the baseline minus accuracy now", 0.0, 1.0),
}


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


def require_limits(limits: Limits, where: str) -> None:
    """Check limits before slow work.

    Args:
        limits: by gate name.
        where: how a message calls their source, such as `--gate`.

    Raises:
        SettingsError: unknown name or a limit out of range.
    """
    for name, limit in limits.items():
        if name not in KINDS:
            raise SettingsError(f"expected a gate ({', '.join(KINDS)}) in {where}, but got {name!r}; rename it")
        kind = KINDS[name]
        number = isinstance(limit, int | float) and not isinstance(limit, bool)
        if not (number and kind.lowest <= limit <= kind.highest and math.isfinite(limit)):
            upper = "" if math.isinf(kind.highest) else f" and at most {kind.highest:g}"
            raise SettingsError(
                f"expected {name} ({kind.meaning}) of at least {kind.lowest:g}{upper} in {where}, but got {limit!r}; "
                "change it"
            )


def parse_limits(given: Sequence[str]) -> dict[str, float]:
    """Read `NAME=LIMIT` as given on a command line.

    Raises:
        SettingsError: malformed, unknown, out of range or given twice.
    """
    limits: dict[str, float] = {}
    for text in given:
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            number = float(value)
        except ValueError:
            raise SettingsError(f"expected --gate NAME=LIMIT, such as max_drop=0.02, but got {text!r}") from None
        if name in limits:
            raise SettingsError(f"expected each gate once, but got {name} again; leave one out")
        limits[name] = number
    require_limits(limits, "--gate")
    return limits


def judge_at_most(low: float, high: float, limit: float) -> Verdict:
    """Pass if the whole interval is within the limit, fail if it is wholly beyond, else the data cannot tell."""
    if high <= limit:
        return "pass"
    return "fail" if low > limit else "undecided"


def judge_at_least(low: float, high: float, limit: float) -> Verdict:
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
