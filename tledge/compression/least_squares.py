"""Least squares with a ridge, summed batch by batch: which weights reproduce a layer's outputs best.

Y. He, X. Zhang and J. Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", 2017: least squares from what
the compressed net's layer sees to what the original's layer computed before its activation function, so that each layer
also corrects the errors of those before it. The ridge pulls towards the weights as they are, so a direction that the
images say nothing about keeps its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.activations import Floats, Sampling, input_rows
from tledge.compression.flat import weighted_layers

if TYPE_CHECKING:
    import keras

Matrix = NDArray[np.float64]

_RIDGE = 1e-3
# Splitting a layer leaves fewer directions to tell apart, and each is fitted from what thinner layers hand on.
_REGRESSION_RIDGE = 1e-2


def damped(gram: Matrix, ridge: float, smallest: float) -> Matrix:
    """A Gram matrix plus a share `ridge`, at least `smallest`, of its mean diagonal on the diagonal."""
    size = len(gram)
    return np.asarray(gram + max(ridge * float(np.trace(gram)) / size, smallest) * np.eye(size))


def solve_ridge(gram: Matrix, right: NDArray[Any], ridge: float, smallest: float) -> Matrix:
    """Solve `damped(gram, ridge, smallest) @ x = right`."""
    from scipy.linalg import solve

    return np.asarray(solve(damped(gram, ridge, smallest), right, assume_a="pos"))


def refit(model: keras.Model, number: int, target: Floats, sampling: Sampling) -> None:
    """Refit one weighted layer in place so that its outputs before activation come close to `target`.

    With fewer images than inputs, as in `fc1`, the equivalent dual form is solved.

    Args:
        model: its layers before that one are taken as they are.
        number: position among the weighted layers.
        target: (rows, outputs), rows as from `input_rows`.
        sampling: images and places of the rows.
    """
    layer = weighted_layers(model)[number]
    kernel, bias = layer.get_weights()
    flat = kernel.reshape(-1, kernel.shape[-1])
    rows = input_rows(model, number, sampling)
    find = _dual_correction if len(flat) > len(target) else _correction
    correction = find(rows, target, flat, bias)
    kernel = kernel + correction[:-1].reshape(kernel.shape)
    layer.set_weights([kernel.astype(np.float32), (bias + correction[-1]).astype(np.float32)])


def _correction(batches: Iterator[Floats], target: Floats, kernel: Floats, bias: Floats) -> Matrix:
    """What to add to kernel and, last row, bias, by normal equations: memory is that of one batch and one matrix."""
    size = len(kernel) + 1
    gram, right, done = np.zeros((size, size)), np.zeros((size, len(bias))), 0
    for rows in batches:
        missing = target[done : done + len(rows)] - rows @ kernel - bias
        extended = np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)
        gram += extended.T @ extended
        right += extended.T @ missing
        done += len(rows)
    return solve_ridge(gram, right, _RIDGE, 1e-9)


def _dual_correction(batches: Iterator[Floats], target: Floats, kernel: Floats, bias: Floats) -> Matrix:
    rows = np.concatenate(list(batches))
    missing = target - rows @ kernel - bias
    extended = np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1).astype(np.float64)
    return np.asarray(extended.T @ solve_ridge(extended @ extended.T, missing, _RIDGE, 1e-9))


class Moments:
    """First and second moment of rows that come batch by batch.

    Summed as differences to the first batch's mean: of rows that hardly differ, sums of squares in float32 would leave
    nothing of the covariance.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.count = 0
        self._shift: Floats | None = None
        self._sum = np.zeros(channels)
        self._squares = np.zeros((channels, channels))

    def add(self, rows: Floats) -> Floats:
        """Take (rows, channels) into account; returns them as differences to the first batch's mean."""
        if self._shift is None:
            self._shift = rows.mean(axis=0)
        rows = rows - self._shift
        self.count += len(rows)
        self._sum += rows.sum(axis=0)
        self._squares += rows.T @ rows
        return rows

    def mean(self) -> Matrix:
        """Mean row, (channels,)."""
        assert self._shift is not None
        return self._shift + self.mean_difference()

    def mean_difference(self) -> Matrix:
        """Mean of what `add` returned, (channels,)."""
        return self._sum / self.count

    def second(self) -> Matrix:
        """Mean of the rows' outer products, (channels, channels)."""
        mean = self.mean()
        return self.covariance() + np.outer(mean, mean)

    def covariance(self) -> Matrix:
        """The same after the mean was subtracted."""
        mean = self.mean_difference()
        return self._squares / self.count - np.outer(mean, mean)


class Regression:
    """Regression towards given weights, summed batch by batch: memory is that of one batch and one matrix."""

    def __init__(self, start: Matrix) -> None:
        self._start = start
        self._moments = Moments(len(start))
        self._products = np.zeros_like(start)
        self._targets = np.zeros(start.shape[1])

    def add(self, rows: Floats, targets: Floats) -> None:
        """Take rows (rows, inputs) and their targets (rows, outputs) into account."""
        self._products += self._moments.add(rows).T @ targets
        self._targets += targets.sum(axis=0)

    def mean_row(self) -> Matrix:
        """Mean of the rows, (inputs,)."""
        return self._moments.mean()

    def mean_target(self) -> Matrix:
        """Mean of the targets, (outputs,)."""
        return self._targets / self._moments.count

    def covariance(self) -> Matrix:
        """Of the rows, (inputs, inputs)."""
        return self._moments.covariance()

    def solve(self) -> tuple[Matrix, Matrix]:
        """Weights (inputs, outputs) and bias (outputs,)."""
        gram, moments = self.covariance(), self._moments
        products = self._products / moments.count - np.outer(moments.mean_difference(), self.mean_target())
        weights = self._start + solve_ridge(gram, products - gram @ self._start, _REGRESSION_RIDGE, 1e-12)
        return weights, self.mean_target() - self.mean_row() @ weights
