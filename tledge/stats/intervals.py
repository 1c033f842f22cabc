"""What an interval is, Wilson's for a share, and how many images would decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
_Z = 1.959963984540054  # standard deviations of a normal variable that hold so much of it
_MOST_IMAGES = 10_000_000


@dataclass(frozen=True)
class Interval:
    """A value in its 95 % interval (or another confidence, where said)."""

    value: float
    low: float
    high: float


def wilson_interval(successes: ArrayLike, n: ArrayLike, z: float = _Z) -> tuple[NDArray[Any], NDArray[Any]]:
    """Score interval of a share (E. Wilson 1927), also of several shares at once.

    The same as SciPy's `binomtest(…).proportion_ci(method="wilson")`, which takes whole numbers only: to plan ahead,
    as if there were more images, takes fractions.

    Args:
        successes: of the trials, not below 0 and not above `n`.
        n: trials, above 0.
        z: standard deviations of a normal variable that hold the wanted confidence; 95 % unless said otherwise.

    Returns:
        (low, high) in 0..1.
    """
    hits, trials = np.asarray(successes), np.asarray(n)
    share = hits / trials
    spread = 2 * (trials + z**2)
    center = (2 * trials * share + z**2) / spread
    half = z / spread * np.sqrt(4 * trials * share * (1 - share) + z**2)
    return np.where(hits == 0, 0.0, center - half), np.where(hits == trials, 1.0, center + half)


def fewest(decided: Callable[[int], bool], n: int) -> int | None:
    """The least number of images above `n` that decides, found by doubling and halving; None if 10 million do not."""
    high = n
    while not decided(high):
        high *= 2
        if high > _MOST_IMAGES:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high
