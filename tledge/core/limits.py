"""Limits on what a file may be or do, as text: `drop < 0.02, p50 < 10 ms, size < 2 MB, agreement > 98 %`.

Conditions are joined by commas. Each is a metric, a comparison, a number and, where the metric has one, a unit;
capitals do not matter. `--gate`, `--max-drop`, `--goal` and the recipes' `[check]` are read here; which metrics can be
asked for differs from place to place, so each place hands in its own. A metric may have an older spelling, such as
`max_drop=0.02`, which means `drop <= 0.02`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from tledge.core.errors import SettingsError

Comparison = Literal["<", "<=", ">", ">="]

ROUNDING = 1e-9
"""Shares are quotients, 0.99 - 0.98 is not quite 0.01: room for the last bits where one is held against a limit."""

_SHAPE = re.compile(r"([a-z]\w*)\s*(<=|>=|<|>|=)\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*(%|[a-zµ]*)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Units:
    """What may stand behind a number.

    `factors` give one unit in the metric's own, in which limits and values are kept; "" is in there if a unit may be
    left out. `shown` are those in which values are printed, from large to small.
    """

    factors: Mapping[str, float]
    shown: tuple[str, ...]

    def text(self, value: float, digits: int = 4) -> str:
        """A value in a unit that suits, with at most that many significant digits."""
        unit = next((unit for unit in self.shown if value >= self.factors[unit]), self.shown[-1])
        space = " " if unit.isalpha() and unit != "x" else ""
        return f"{value / self.factors[unit]:.{digits}g}{space}{unit}"


MILLISECONDS = Units({"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3}, ("ms",))
BYTES = Units({"B": 1.0, "kB": 1e3, "MB": 1e6}, ("MB", "kB", "B"))
MEGABYTES = Units({"MB": 1.0, "kB": 1e-3, "B": 1e-6}, ("MB", "kB", "B"))
KILOBYTES = Units({"kB": 1.0, "MB": 1e3, "B": 1e-3, "KiB": 1.024, "MiB": 1048.576}, ("MB", "kB", "B"))
SHARES = Units({"": 1.0, "%": 0.01, "point": 0.01, "points": 0.01}, ("",))
RATIOS = Units({"": 1.0, "x": 1.0}, ("x",))


@dataclass(frozen=True)
class Metric:
    """What a limit can be on.

    `meaning` is for people. Limits lie in `lowest`..`highest`, in the first of the `units`; at these two ends only if
    `closed`, for places where a limit that every file keeps turns something off. `lower_is_better` says which
    comparisons make sense. `old_name` is that of the older spelling `old_name=NUMBER`, empty if there is none.
    """

    name: str
    meaning: str
    units: Units = SHARES
    lower_is_better: bool = True
    lowest: float = 0.0
    highest: float = 1.0
    closed: bool = False
    old_name: str = ""

    @property
    def key(self) -> str:
        """The name in JSON and in tables of limits: the old one, where there is one, so that files stay readable."""
        return self.old_name or self.name

    @property
    def comparisons(self) -> tuple[Comparison, Comparison]:
        """Those that make sense, the strict one first."""
        return ("<", "<=") if self.lower_is_better else (">", ">=")

    @property
    def best(self) -> float:
        """The end of the range that is hardest to keep."""
        return self.lowest if self.lower_is_better else self.highest

    def require(self, comparison: str, limit: object, where: str) -> float:
        """Refuse a limit that makes no sense; `where` is how a message calls the place it was given at.

        Returns:
            The limit.

        Raises:
            SettingsError: no number, a comparison that goes the wrong way, a limit that nothing can meet, or, unless
                the range is closed, one that everything meets.
        """
        if comparison not in self.comparisons:
            raise SettingsError(
                f"expected {self.name} {' or '.join(self.comparisons)} a value in {where}, but got {self.name} "
                f"{comparison}; turn the comparison"
            )
        hint = ""
        if isinstance(limit, int | float) and not isinstance(limit, bool):
            if self._says_something(limit, strict=not comparison.endswith("=")):
                return limit
            hint = f" ({limit:g} % is {limit / 100:g})" if self.units is SHARES and limit >= 1 else ""
        raise SettingsError(
            f"expected {self.name} ({self.meaning}) {self._range} in {where}, but got {self.name} {comparison} "
            f"{limit!r}{hint}; change it"
        )

    def _says_something(self, limit: float, *, strict: bool) -> bool:
        if not math.isfinite(limit) or not self.lowest <= limit <= self.highest:
            return False
        if limit == self.best:
            # A share may be 0 or 1; nothing is as small or as fast as 0.
            return not strict and (self.closed or self.units is SHARES)
        return self.closed or limit not in (self.lowest, self.highest)

    @property
    def _range(self) -> str:
        if math.isinf(self.highest):
            return f"of at least {self.lowest:g}" if self.closed else f"above {self.lowest:g}"
        between = f"of at least {self.lowest:g} and at most {self.highest:g}"
        return between if self.closed else f"between {self.lowest:g} and {self.highest:g}"


@dataclass(frozen=True)
class Condition:
    """One limit on one metric, in the metric's own unit.

    Raises:
        SettingsError: what `Metric.require` refuses.
    """

    kind: Metric
    comparison: Comparison
    limit: float

    def __post_init__(self) -> None:
        self.kind.require(self.comparison, self.limit, "a limit")

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return self.kind.name

    def __str__(self) -> str:
        """The condition as a person writes it, in a unit that suits."""
        return f"{self.metric} {self.comparison} {self.kind.units.text(self.limit, 10)}"

    def holds(self, value: float) -> bool:
        """Whether a value, in the unit of `limit`, meets the condition."""
        sign = 1 if self.kind.lower_is_better else -1
        slack = ROUNDING if self.comparison.endswith("=") else -ROUNDING
        return sign * (value - self.limit) <= slack

    def miss(self, value: float) -> float:
        """How far a value is off, 0.0 if it holds.

        Returns:
            For a share the difference (0.2: twenty points), else by which ratio minus 1 (0.2: a fifth too much).
        """
        if self.holds(value):
            return 0.0
        if self.kind.units is SHARES:
            return abs(value - self.limit)
        above, below = (value, self.limit) if self.kind.lower_is_better else (self.limit, value)
        return above / max(below, ROUNDING) - 1

    def verdict(self, value: float) -> str:
        """In words how a value compares with the limit."""
        found = f"{self.metric} is {self.kind.units.text(value)}"
        if self.holds(value):
            return f"{found}: {self} holds"
        over = self.miss(value)
        by = f"{100 * over:.3g} points" if self.kind.units is SHARES else f"{over:.0%}"
        return f"{found}: misses {self} by {by}"


def parse(text: str, metrics: Iterable[Metric], where: str) -> tuple[Condition, ...]:
    """Read conditions, for example `p50 < 10 ms, drop <= 1 %`.

    Args:
        text: comma-separated; may be empty.
        metrics: that can be asked for.
        where: how a message calls the place, such as `--gate`.

    Raises:
        SettingsError: what cannot be read, an unknown metric or unit, a missing unit, or an impossible limit.
    """
    known = tuple(metrics)
    return tuple(_condition(part.strip(), known, where) for part in text.split(",") if part.strip())


def _condition(text: str, metrics: tuple[Metric, ...], where: str) -> Condition:
    parts = _SHAPE.fullmatch(text)
    if parts is None:
        raise SettingsError(f'expected a condition such as "drop < 0.02" in {where}, but got {text!r}; rewrite it')
    name, comparison, number, unit = (part.lower() for part in parts.groups())
    kind = find(name, metrics, where)
    if (comparison == "=") != (name == kind.old_name):
        example = f"{kind.name} {kind.comparisons[0]} {number} {unit}".rstrip()
        raise SettingsError(f'expected a condition such as "{example}" in {where}, but got {text!r}; rewrite it')
    try:
        value = float(number)
    except ValueError:
        raise SettingsError(f"expected a number in {text!r}, but got {number!r}; write it as 10 or 0.01") from None
    factors = {known.lower(): factor for known, factor in kind.units.factors.items()}
    if comparison == "=":
        # The older spelling names the unit, if at all, and allows the limit itself.
        factors[""], comparison = 1.0, kind.comparisons[1]
    if unit not in factors:
        units = ", ".join(known for known in kind.units.factors if known)
        wanted = f"no unit or one of {units}" if "" in factors else f"a unit ({units})"
        raise SettingsError(f"expected {wanted} after the number in {text!r}, but got {unit or 'none'}; correct it")
    if factors[unit] != 1:
        value = round(value * factors[unit], 12)  # 95 * 0.01 is not quite 0.95
    kind.require(comparison, value, where)
    return Condition(kind, cast(Comparison, comparison), value)


def find(name: str, metrics: Iterable[Metric], where: str) -> Metric:
    """The metric of a name, new or old.

    Raises:
        SettingsError: it cannot be asked for there.
    """
    known = tuple(metrics)
    for metric in known:
        if name in (metric.name, metric.old_name):
            return metric
    raise SettingsError(
        f"expected one of {', '.join(metric.name for metric in known)} in {where}, but got {name!r}; correct it"
    )
