"""What a search looks for: conditions on latency, size, accuracy and speed-up, written as one line of text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tledge.core.errors import SettingsError
from tledge.stats.metrics import ROUNDING

_SHAPE = re.compile(r"([a-z0-9]+)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*(%|[a-zµ]*)", re.IGNORECASE)


@dataclass(frozen=True)
class _Metric:
    """Units with their factors to the base unit (the first), whether one must be given, and the range of limits.

    `lower_is_better` decides which comparisons make sense; `relative` how a miss is counted.
    """

    units: Mapping[str, float]
    needs_unit: bool
    lower_is_better: bool
    relative: bool
    lowest: float
    highest: float
    range: str


_TIMES = {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}
_SIZES = {"B": 1.0, "kB": 1e3, "MB": 1e6}
_SHARES = {"": 1.0, "%": 0.01, "point": 0.01, "points": 0.01}
_METRICS: Mapping[str, _Metric] = {
    "p50": _Metric(_TIMES, True, True, True, 0.0, math.inf, "above 0"),
    "p90": _Metric(_TIMES, True, True, True, 0.0, math.inf, "above 0"),
    "size": _Metric(_SIZES, True, True, True, 0.0, math.inf, "above 0"),
    "drop": _Metric(_SHARES, False, True, False, 0.0, 1.0, "between 0 and 1 (0.01, 1 % and 1 point are the same)"),
    "accuracy": _Metric(_SHARES, False, False, False, 0.0, 1.0, "between 0 and 1 (0.95 and 95 % are the same)"),
    "speedup": _Metric({"": 1.0, "x": 1.0}, False, False, True, 0.0, math.inf, "above 0"),
}
METRICS = tuple(_METRICS)


@dataclass(frozen=True)
class Condition:
    """One limit on one metric.

    `metric` is one of `METRICS`; `comparison` is `<` or `<=`, for accuracy and speedup `>` or `>=`. `limit` is in
    milliseconds for p50 and p90, bytes for size, 0..1 for drop and accuracy, a ratio for speedup.

    Raises:
        SettingsError: unknown metric, a comparison that goes the wrong way, or a limit that nothing can meet or that
            everything meets.
    """

    metric: str
    comparison: str
    limit: float

    def __post_init__(self) -> None:
        kind = _metric(self.metric)
        offered = ("<", "<=") if kind.lower_is_better else (">", ">=")
        if self.comparison not in offered:
            raise SettingsError(
                f"expected {self.metric} {' or '.join(offered)} a value, but got {self.metric} {self.comparison}; "
                "turn the comparison"
            )
        best = kind.lowest if kind.lower_is_better else kind.highest
        perfect = not kind.relative and self.limit == best and self.comparison.endswith("=")
        if not (kind.lowest < self.limit < kind.highest or perfect):
            raise SettingsError(
                f"expected a limit {kind.range} for {self.metric}, but got {self.metric} {self.comparison} "
                f"{self.limit:g}, which no file or every file meets; change it"
            )

    def __str__(self) -> str:
        """The condition as a person writes it, in a unit that suits."""
        return f"{self.metric} {self.comparison} {shown(self.metric, self.limit, 10)}"

    def holds(self, value: float) -> bool:
        """Whether a value, in the unit of `limit`, meets the condition."""
        sign = 1 if self.comparison[0] == "<" else -1
        slack = ROUNDING if self.comparison.endswith("=") else -ROUNDING
        return sign * (value - self.limit) <= slack

    def miss(self, value: float) -> float:
        """How far a value is off, 0.0 if it holds.

        Returns:
            For p50, p90, size and speedup by which ratio minus 1 (0.2: a fifth too much); for drop and accuracy the
            difference (0.2: twenty points).
        """
        if self.holds(value):
            return 0.0
        if not _METRICS[self.metric].relative:
            return abs(value - self.limit)
        above, below = (value, self.limit) if self.comparison[0] == "<" else (self.limit, value)
        return above / max(below, ROUNDING) - 1

    def verdict(self, value: float) -> str:
        """In words how a value compares with the limit."""
        found = f"{self.metric} is {shown(self.metric, value)}"
        if self.holds(value):
            return f"{found}: {self} holds"
        over = self.miss(value)
        by = f"{over:.0%}" if _METRICS[self.metric].relative else f"{100 * over:.3g} points"
        return f"{found}: misses {self} by {by}"


@dataclass(frozen=True)
class Goal:
    """Conditions that all must hold, each metric at most once.

    Raises:
        SettingsError: no condition, or two on one metric.
    """

    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        metrics = [condition.metric for condition in self.conditions]
        if not metrics:
            raise SettingsError('expected a goal such as "p50 < 10 ms, drop < 0.01", but got none; write a condition')
        if twice := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
            raise SettingsError(f"expected each metric once in a goal, but got {', '.join(twice)} again; keep one")

    def __str__(self) -> str:
        """The goal in the form that `parse_goal` reads."""
        return ", ".join(map(str, self.conditions))

    def on(self, metric: str) -> Condition | None:
        """The condition on a metric, None if there is none."""
        return next((condition for condition in self.conditions if condition.metric == metric), None)

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether values by metric, in the units of `Condition.limit`, meet every condition."""
        return not self.missed(values)

    def missed(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Metrics whose condition the values do not meet."""
        return tuple(c.metric for c in self.conditions if not c.holds(values[c.metric]))


def parse_goal(text: str) -> Goal:
    """Read a goal: comma-separated conditions `metric < value [unit]`, for example `p50 < 10 ms, drop <= 1 %`.

    Args:
        text: metrics p50, p90 (ms, us, s), size (B, kB, MB of the file), drop, accuracy (0..1, %, points) and speedup
            against the original Keras model (a ratio); capitals do not matter.

    Raises:
        SettingsError: what cannot be read, an unknown metric or unit, a missing unit, or an impossible limit.
    """
    return Goal(tuple(_condition(part.strip()) for part in text.split(",") if part.strip()))


def shown(metric: str, value: float, digits: int = 4) -> str:
    """A value with its unit, as `parse_goal` reads it, with at most that many significant digits."""
    if metric in ("p50", "p90"):
        return f"{value:.{digits}g} ms"
    if metric == "size":
        unit = next((unit for unit in ("MB", "kB") if value >= _SIZES[unit]), "B")
        return f"{value / _SIZES[unit]:.{digits}g} {unit}"
    return f"{value:.{digits}g}x" if metric == "speedup" else f"{value:.{digits}g}"


def _metric(name: str) -> _Metric:
    if name not in _METRICS:
        raise SettingsError(f"expected one of {', '.join(_METRICS)} in a goal, but got {name!r}; correct it")
    return _METRICS[name]


def _condition(text: str) -> Condition:
    parts = _SHAPE.fullmatch(text)
    if parts is None:
        raise SettingsError(
            f'expected a condition such as "p50 < 10 ms" or "drop <= 0.01" in the goal, but got {text!r}; rewrite it'
        )
    name, comparison, number, unit = parts.groups()
    name = name.lower()
    kind = _metric(name)
    try:
        value = float(number)
    except ValueError:
        raise SettingsError(f"expected a number in {text!r}, but got {number!r}; write it as 10 or 0.01") from None
    factors = {known.lower(): factor for known, factor in kind.units.items()}
    if unit.lower() not in factors:
        units = ", ".join(known for known in kind.units if known)
        wanted = f"a unit ({units})" if kind.needs_unit else f"no unit or one of {units}"
        raise SettingsError(f"expected {wanted} after the number in {text!r}, but got {unit or 'none'}; correct it")
    return Condition(name, comparison, round(value * factors[unit.lower()], 12))  # 95 * 0.01 is not quite 0.95
