"""Give the weights that remain the values that best reproduce the original's outputs, layer by layer.

Y. He, X. Zhang and J. Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", 2017: least squares from what
the pruned net's layer sees to what the original's layer computed before its activation function, so that each layer
also corrects the errors of those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.chain import Keep, weighted_layers
from tledge.compression.evidence import Floats, Sampling, input_rows

if TYPE_CHECKING:
    import keras

_RIDGE = 1e-3


def reconstruct(model: keras.Model, keep: Keep, targets: Mapping[str, Floats], sampling: Sampling) -> None:
    """Refit all weights of a narrowed model in place, from the first layer to the last.

    The ridge pulls towards the weights as they are (after `narrow`: the original's), so a direction that the images
    say nothing about keeps its value. With fewer images than inputs, as in `fc1`, the equivalent dual form is solved.

    Args:
        model: from `narrow`.
        keep: the same as for `narrow`.
        targets: `pre_activations` of the original at the same input size.
        sampling: the same as for `targets`.
    """
    layers = weighted_layers(model)
    for number, layer in enumerate(layers):
        target = targets[layer.name]
        if layer.name in keep:
            target = target[:, keep[layer.name]]
        refit(model, number, target, sampling)


def refit(model: keras.Model, number: int, target: Floats, sampling: Sampling) -> None:
    """Refit one weighted layer in place so that its outputs before activation come close to `target`.

    Args:
        model: its layers before that one are taken as they are.
        number: position among the weighted layers.
        target: (rows, outputs), rows as from `input_rows`.
        sampling: images and places of the rows.
    """
    kernel, _ = _matrix(weighted_layers(model)[number])
    fit = _fit_dual if len(kernel) > len(target) else _fit
    fit(model, number, target, sampling)


def _matrix(layer: Any) -> tuple[Floats, Floats]:
    kernel, bias = layer.get_weights()
    return kernel.reshape(-1, kernel.shape[-1]), bias


def _fit(model: keras.Model, number: int, target: Floats, sampling: Sampling) -> None:
    """Normal equations for the correction, summed batch by batch: memory is that of one batch and one matrix."""
    from scipy.linalg import solve

    layer = weighted_layers(model)[number]
    kernel, bias = _matrix(layer)
    size = len(kernel) + 1
    gram, right, done = np.zeros((size, size)), np.zeros((size, len(bias))), 0
    for rows in input_rows(model, number, sampling):
        missing = target[done : done + len(rows)] - rows @ kernel - bias
        extended = np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)
        gram += extended.T @ extended
        right += extended.T @ missing
        done += len(rows)
    correction = solve(gram + _damping(gram) * np.eye(size), right, assume_a="pos")
    _correct(layer, correction)


def _fit_dual(model: keras.Model, number: int, target: Floats, sampling: Sampling) -> None:
    from scipy.linalg import solve

    layer = weighted_layers(model)[number]
    kernel, bias = _matrix(layer)
    rows = np.concatenate(list(input_rows(model, number, sampling)))
    missing = target - rows @ kernel - bias
    extended = np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1).astype(np.float64)
    gram = extended @ extended.T
    dual = solve(gram + _damping(gram) * np.eye(len(gram)), missing, assume_a="pos")
    _correct(layer, extended.T @ dual)


def _damping(gram: NDArray[np.float64]) -> float:
    return max(_RIDGE * float(np.trace(gram)) / len(gram), 1e-9)


def _correct(layer: Any, correction: NDArray[np.float64]) -> None:
    kernel, bias = layer.get_weights()
    kernel = kernel + correction[:-1].reshape(kernel.shape)
    layer.set_weights([kernel.astype(np.float32), (bias + correction[-1]).astype(np.float32)])
