"""What samples of latency can tell. Samples of one round belong together, so whole rounds are drawn (bootstrap)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tledge.stats.intervals import Interval

_SEED = 0
_RESAMPLES = 1000
_THIRDS = 3

Rounds: TypeAlias = Sequence[Sequence[float]]
"""Latencies in ms, one sequence per round, all of the same length."""


def median_interval(rounds: Rounds) -> Interval:
    """The median of all samples with its 95 % percentile bootstrap interval over rounds."""
    samples = np.asarray(rounds)
    medians = np.median(samples[_draws(len(samples))], axis=(1, 2))
    return _interval(float(np.median(samples)), medians)


def ratio_interval(base: Rounds, other: Rounds) -> Interval:
    """Median of `base` over that of `other`, above 1 where `other` is faster; their rounds were taken in turn."""
    first, second = np.asarray(base), np.asarray(other)
    drawn = _draws(len(first))
    ratios = np.median(first[drawn], axis=(1, 2)) / np.median(second[drawn], axis=(1, 2))
    return _interval(float(np.median(first) / np.median(second)), ratios)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of one value per round."""
    array = np.asarray(values)
    return _interval(float(array.mean()), array[_draws(len(array))].mean(axis=1))


def half_width_percent(interval: Interval) -> float:
    """How far the farther end of an interval is from its value, in percent of it."""
    return 100 * max(interval.high - interval.value, interval.value - interval.low) / interval.value


def drift(models: Sequence[Rounds]) -> float | None:
    """Latency in the last third of the rounds over that in the first, geometric mean over models; None below 6 rounds.

    All models slow down together when the machine does; one model alone varies by chance.
    """
    part = len(models[0]) // _THIRDS if models else 0
    if part < 2:
        return None
    ratios = [np.median(np.asarray(rounds[-part:])) / np.median(np.asarray(rounds[:part])) for rounds in models]
    return float(np.exp(np.mean(np.log(ratios))))


def _draws(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(_SEED).integers(0, count, (_RESAMPLES, count))


def _interval(value: float, resampled: NDArray[Any]) -> Interval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(value, float(low), float(high))
