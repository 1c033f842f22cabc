"""Numbers about predictions: accuracy with its interval, agreement, recall, differences of probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tledge.core.types import Labels, Probabilities
from tledge.stats.intervals import Interval, wilson_interval

# Standard deviations for 95 %, in as many digits as the intervals in earlier check.json have.
_Z = 1.959964
# Rounding of float sums.
_SUM_TOLERANCE = 0.02


@dataclass(frozen=True)
class Proportion:
    """A share of `n` trials with its 95 % Wilson score interval (Wilson 1927); all in 0..1."""

    value: float
    low: float
    high: float
    n: int


def proportion(successes: int, n: int) -> Proportion:
    """Share of successes with its 95 % Wilson score interval; `n` must be positive."""
    low, high = wilson_interval(successes, n)
    return Proportion(successes / n, float(low), float(high), n)


def accuracy(probabilities: Probabilities, labels: Labels) -> Proportion:
    """Top-1 accuracy of (N, C) probabilities against (N,) class indices."""
    hits = int(np.count_nonzero(probabilities.argmax(axis=1) == labels))
    return proportion(hits, len(labels))


def agreement(first: Probabilities, second: Probabilities) -> Proportion:
    """Share of images on which two models name the same top-1 class."""
    same = int(np.count_nonzero(first.argmax(axis=1) == second.argmax(axis=1)))
    return proportion(same, len(first))


def recall_per_class(probabilities: Probabilities, labels: Labels, classes: int) -> list[float | None]:
    """Recall of each class in 0..1; None for a class that no image shows."""
    hits = probabilities.argmax(axis=1) == labels
    return [float(hits[labels == index].mean()) if np.any(labels == index) else None for index in range(classes)]


def mean_recall(predicted: NDArray[np.int64], labels: NDArray[np.int64], times: float = 1.0) -> Interval:
    """Mean of the recalls of the classes that images show: `low` above 1 / classes is no guess, `high` what it may be.

    Whoever names classes without looking, in whatever shares q, has a mean recall of 1 / classes; by chance it varies
    around it by the deviation sqrt(sum of q (1 - q) / n) / classes, n being the images of each class. That is what
    `low` leaves room for. `high` puts the upper ends of the recalls' Wilson intervals together as G. Zou and A. Donner,
    "Construction of confidence limits about effect measures", 2008, do: who names one class only does not vary, and may
    still know more than few images of the others show.

    Args:
        predicted: class indices (N,).
        labels: true ones (N,), N at least 1.
        times: as if there were so many times the images, with the same shares; to plan ahead.
    """
    present, counts = np.unique(labels, return_counts=True)
    recalls = [np.mean(predicted[labels == index] == index) for index in present]
    named = np.asarray([np.mean(predicted == index) for index in present])
    n = counts * times
    deviation = math.sqrt(float(np.sum(named * (1 - named) / n))) / len(present)
    value, shares = float(np.mean(recalls)), np.asarray(recalls)
    _, highest = wilson_interval(shares * n, n, _Z)
    above = math.sqrt(float(np.sum((highest - shares) ** 2))) / len(present)
    return Interval(value, max(value - _Z * deviation, 0.0), min(value + above, 1.0))


def confusion(probabilities: Probabilities, labels: Labels, classes: int) -> list[list[int]]:
    """Counts with true classes as rows and predicted classes as columns."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, probabilities.argmax(axis=1)), 1)
    return [[int(count) for count in row] for row in table]


def sums_off(probabilities: Probabilities, reference: Probabilities, step: float) -> tuple[float, float]:
    """How far the sums of probabilities are from what they should be, and how far they may be.

    In floats every image's sum to 1. In integers rounding alone moves the sum of many classes: most of a thousand
    probabilities round to 0. There the middle sum over the images is held against that of the reference's
    probabilities, rounded alike.

    Args:
        probabilities: (N, C), what is no number counts as 0.
        reference: (N, C) to the same images.
        step: between two neighbouring values of an integer output; 0 for floats.

    Returns:
        (value, limit); the value is the largest distance over images for floats.
    """
    sums = np.nan_to_num(probabilities, nan=0.0).sum(axis=1)
    if not step:
        return float(np.abs(sums - 1).max()), _SUM_TOLERANCE
    expected = float(np.median((np.round(reference / step) * step).sum(axis=1)))
    images, classes = probabilities.shape
    # Two sums of values rounded by chance differ by step * sqrt(classes / 6); and another model than the reference,
    # as an int8 one is, loses somewhat more or less to rounding.
    by_chance = 4 * step * math.sqrt(classes / 6 / images)
    return abs(float(np.median(sums)) - expected), _SUM_TOLERANCE + by_chance + abs(1 - expected) / 4
