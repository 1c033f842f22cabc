"""LogME: how likely labels are under a linear model of features, with no training and no held-out images.

K. You, Y. Liu, J. Wang and M. Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", 2021,
https://arxiv.org/abs/2102.11005; its fixed-point iteration is MacKay's evidence maximisation ("Bayesian Interpolation",
1992).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tledge.core.types import Labels

# The iteration creeps where the labels are hardly explained: stopping at 1e-5 or after 100 steps was off by up to 4e-4.
_MOST_ITERATIONS = 1_000
_TOLERANCE = 1e-7
# Singular values below this share of the largest are rounding errors of float32 features.
_RANK_TOLERANCE = 1e-6
_FLOOR = 1e-10
_SMALLEST = 1e-300


def logme(features: NDArray[np.float32], labels: Labels) -> float:
    """The mean, over classes, of the maximal log evidence per image of predicting the class's 0/1 labels.

    The linear model has weights of prior variance 1/alpha and noise of variance 1/beta; both are set to their most
    likely values. The value is unbounded; higher is better, and only values for the same images compare.

    Args:
        features: (N, D), one row per image, N at least 2; finite, of any scale, otherwise left as the trunk makes them.
        labels: (N,) class indices, at least two classes.

    Returns:
        The score.
    """
    values = np.asarray(features, np.float64)
    # The evidence is the same at any scale, its iteration is not: it starts at 1, and its floors are absolute.
    values = values / max(float(np.sqrt(np.mean(values**2))), _SMALLEST)
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    kept = singular > _RANK_TOLERANCE * max(float(singular[0]), _FLOOR)
    left, squared = left[:, kept], singular[kept] ** 2
    classes = np.unique(labels)
    scores = [_log_evidence(left, squared, (labels == c).astype(np.float64), values.shape[1]) for c in classes]
    return float(np.mean(scores)) / len(labels)


def _log_evidence(left: NDArray[np.float64], squared: NDArray[np.float64], y: NDArray[np.float64], width: int) -> float:
    """Maximal log evidence of one target; `left` (N, R) and `squared` (R,) are singular vectors and values squared.

    In the basis of the singular vectors the posterior is diagonal, so an iteration costs R steps and no inverse.
    """
    n = len(y)
    projected = (left.T @ y) ** 2
    outside = max(float(y @ y - projected.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(_MOST_ITERATIONS):
        ratio = alpha / beta
        effective = float(np.sum(squared / (squared + ratio)))
        weights, residual = _norms(squared, projected, outside, ratio)
        alpha = max(effective, _FLOOR) / max(weights, _FLOOR)
        beta = max(n - effective, _FLOOR) / max(residual, _FLOOR)
        if abs(alpha / beta - ratio) <= _TOLERANCE * ratio:
            break
    weights, residual = _norms(squared, projected, outside, alpha / beta)
    determinant = float(np.sum(np.log(alpha + beta * squared))) + (width - len(squared)) * math.log(alpha)
    return 0.5 * (
        n * math.log(beta)
        + width * math.log(alpha)
        - n * math.log(2 * math.pi)
        - beta * residual
        - alpha * weights
        - determinant
    )


def _norms(
    squared: NDArray[np.float64], projected: NDArray[np.float64], outside: float, ratio: float
) -> tuple[float, float]:
    """Squared norms of the posterior mean of the weights and of the residual it leaves."""
    weights = float(np.sum(squared * projected / (squared + ratio) ** 2))
    residual = float(np.sum(projected * (ratio / (squared + ratio)) ** 2)) + outside
    return weights, residual
