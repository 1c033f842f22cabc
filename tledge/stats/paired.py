"""Two models on the same images: what their difference can be, given that the images are a sample.

Everything here rests on four counts: images that both get right, that only the first (`lost`) or only the second
(`won`) gets right, and that neither does. Images that both get right or wrong say nothing about a difference, so a
paired comparison needs far fewer images than two separate accuracies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tledge.stats.intervals import CONFIDENCE, Interval, fewest

Hits = NDArray[np.bool_]
"""(N,), whether a model names the right class of each image."""

_DRAWS = 20_000
_SEED = 20_231
_FAR = 1e6  # standard deviations: certain, yet finite for the root finder


@dataclass(frozen=True)
class PairedCounts:
    """How many images each of two models gets right."""

    both: int
    lost: int
    won: int
    neither: int

    @property
    def n(self) -> int:
        """Images in all."""
        return self.both + self.lost + self.won + self.neither

    def scaled_to(self, n: int) -> PairedCounts:
        """About the same shares of about `n` images."""
        both, lost, won, neither = (round(each * n / self.n) for each in (self.both, self.lost, self.won, self.neither))
        return PairedCounts(both, lost, won, neither)


@dataclass(frozen=True)
class PairedDrop:
    """Accuracy of the first model minus that of the second on the same `n` images, in -1..1, with its interval.

    `lost` images were right and became wrong, `won` the reverse. `p_value` is that of McNemar's exact test that losing
    and winning are equally likely.
    """

    value: float
    low: float
    high: float
    n: int
    lost: int
    won: int
    p_value: float


def paired_counts(first: Hits, second: Hits) -> PairedCounts:
    """Count the images by who gets them right; both (N,), N at least 1."""
    return PairedCounts(
        both=int(np.count_nonzero(first & second)),
        lost=int(np.count_nonzero(first & ~second)),
        won=int(np.count_nonzero(~first & second)),
        neither=int(np.count_nonzero(~first & ~second)),
    )


def paired_drop(first: Hits, second: Hits, confidence: float = CONFIDENCE) -> PairedDrop:
    """Drop of accuracy from the first model to the second, with Tango's interval and McNemar's exact p-value."""
    counts = paired_counts(first, second)
    low, high = tango_interval(counts.lost, counts.won, counts.n, confidence)
    value = (counts.lost - counts.won) / counts.n
    return PairedDrop(value, low, high, counts.n, counts.lost, counts.won, mcnemar_p(counts.lost, counts.won))


def mcnemar_p(lost: int, won: int) -> float:
    """Exact two-sided p-value that an image that changes is lost as often as won (McNemar 1947)."""
    from scipy.stats import binomtest

    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def tango_interval(lost: float, won: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval for the difference of two paired proportions, `(lost - won) / n`.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", 1998. Unlike a bootstrap it does not shrink to a point where no image changed: of 0 changes in n images
    it makes about ±z²/n.

    Args:
        lost: images that only the first model gets right; a fraction is allowed, to plan ahead.
        won: images that only the second gets right.
        n: images in all, above 0.
        confidence: 0..1.

    Returns:
        (low, high) in -1..1.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf(0.5 + confidence / 2))
    value = (lost - won) / n

    def excess(difference: float, sign: float) -> float:
        return _score(lost, won, n, difference) - sign * z

    # The score falls as the difference grows; at the value itself it is 0.
    high = brentq(excess, value, 1.0, args=(-1.0,)) if value < 1 else 1.0
    low = brentq(excess, -1.0, value, args=(1.0,)) if value > -1 else -1.0
    return float(low), float(high)


def _score(lost: float, won: float, n: float, difference: float) -> float:
    """Tango's statistic for one hypothetical difference: standard normal if that is the true one."""
    a = 2.0 * n
    b = -lost - won + (2.0 * n - lost + won) * difference
    c = -won * difference * (1.0 - difference)
    only_won = (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * only_won + difference * (1.0 - difference))
    distance = lost - won - n * difference
    if variance <= 0.0:
        # At differences of 1 and -1, and at 0 when no image changed, nothing is left to vary.
        return 0.0 if distance == 0.0 else math.copysign(_FAR, distance)
    return distance / math.sqrt(variance)


def relative_drop(counts: PairedCounts) -> Interval:
    """Drop as a share of the first model's accuracy, which must not be 0."""
    right, kept = counts.both + counts.lost, counts.both + counts.won
    cells = _posterior(counts)
    drawn = 1.0 - (cells[:, 0] + cells[:, 2]) / (cells[:, 0] + cells[:, 1])
    return _interval(1.0 - kept / right, drawn)


def error_ratio(counts: PairedCounts) -> Interval:
    """Errors of the second model for one error of the first.

    Half an image is added to both, so that the ratio exists when the first model makes no error.
    """
    first, second = counts.won + counts.neither, counts.lost + counts.neither
    cells = _posterior(counts)
    return _interval((second + 0.5) / (first + 0.5), (cells[:, 1] + cells[:, 3]) / (cells[:, 2] + cells[:, 3]))


def _posterior(counts: PairedCounts) -> NDArray[np.float64]:
    """Draws of the four shares, (draws, 4): both, lost, won, neither.

    A Bayesian bootstrap (D. Rubin 1981) with Jeffreys' prior of half an image per cell, which keeps empty cells
    possible; A. Agresti and Y. Min, "Frequentist performance of Bayesian confidence intervals for comparing proportions
    in 2 x 2 contingency tables", 2005, found such intervals to cover well. The seed is fixed: same counts, same result.
    """
    prior = np.asarray([counts.both, counts.lost, counts.won, counts.neither]) + 0.5
    return np.random.default_rng(_SEED).dirichlet(prior, _DRAWS)


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(drawn, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def images_needed(drop: PairedDrop, limit: float, confidence: float = CONFIDENCE) -> int | None:
    """How many images would decide whether the drop is within `limit`, if the shares of lost and won images stayed.

    Returns:
        The number, or None if the measured drop is so close to the limit that no affordable number would.
    """

    def decided(n: int) -> bool:
        low, high = tango_interval(drop.lost * n / drop.n, drop.won * n / drop.n, n, confidence)
        return high <= limit or low > limit

    return fewest(decided, drop.n)
