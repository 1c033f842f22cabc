"""Batch normalization at inference as one multiplication and one addition."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def normalization_as_affine(
    gamma: NDArray[Any], beta: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any], epsilon: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What batch normalization multiplies with and then adds, by channel (Ioffe and Szegedy 2015).

    Args:
        gamma, beta: (C,) or (1,), ones and zeros where it does not scale or shift.
        mean, variance: (C,), the moving averages.
        epsilon: added to the variance.
    """
    scale = np.asarray(gamma / np.sqrt(variance + epsilon), np.float64)
    return scale, np.asarray(beta - mean * scale, np.float64)
