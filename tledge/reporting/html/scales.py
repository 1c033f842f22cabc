"""From numbers to places in a figure, and the round numbers that stand at its axes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1, 2, 5, 10)
_LOG_FROM_RATIO = 5.0
_PADDING = 0.06


@dataclass(frozen=True)
class Scale:
    """Values `low` to `high` lie between the places `start` and `end`, in proportion or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; one that is out of range stands at the edge."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, most: int = 6) -> tuple[tuple[float, str], ...]:
        """Places of round numbers, with their text."""
        values = self._log_ticks(most) if self.is_log else _round_numbers(self.low, self.high, most)
        return tuple((self(value), f"{value:.6g}") for value in values)

    def _log_ticks(self, most: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [step * 10.0**power for power in powers for step in steps]
            inside = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
            if len(inside) <= most:
                break
        return inside


def linear(values: Iterable[float], start: float, end: float, *, within: tuple[float, float] | None = None) -> Scale:
    """A scale that holds all values with some room around them, but none beyond the limits `within`."""
    found = list(values)
    low, high = min(found), max(found)
    room = _PADDING * (high - low) or abs(high) * _PADDING or 0.5
    low, high = low - room, high + room
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    return Scale(low, high, start, end)


def positive(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale for latencies and sizes: from 0, or by the logarithm where they differ by a factor of 5 or more."""
    found = [value for value in values if value > 0] or [1.0]
    low, high = min(found), max(found)
    if high / low >= _LOG_FROM_RATIO:
        room = (high / low) ** _PADDING
        return Scale(low / room, high * room, start, end, is_log=True)
    return Scale(0.0, high * (1 + _PADDING), start, end)


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten (Heckbert, Nice numbers for graph labels, 1990)."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in _STEPS if step * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]
