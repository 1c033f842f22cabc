"""Which filters matter: those without which the next layer cannot be told from what it was.

The criterion is that of ThiNet (J.-H. Luo et al., "ThiNet: A Filter Level Pruning Method for Deep Neural Network
Compression", 2017): the error that leaving filters out makes in the *next* layer before its activation function.
As in Y. He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, the filters that stay may be
rescaled to make up for those that go; instead of their LASSO the filters are eliminated one by one by the rule of
B. Hassibi and D. Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1993.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.chain import weighted_layers
from tledge.compression.evidence import Floats, Sampling, gather
from tledge.core.dependencies import require_tensorflow

if TYPE_CHECKING:
    import keras

_PROJECTIONS = 8
_RIDGE = 1e-4


@dataclass(frozen=True)
class Ranking:
    """Filters of one layer.

    `order` lists filters from the first that may go to the last. `error` has one entry more: `error[k]`, in 0..1, is
    the share of the next layer's variation that is lost when the first k of `order` are gone.
    """

    layer: str
    order: NDArray[np.int64]
    error: NDArray[np.float64]

    def keep(self, count: int) -> NDArray[np.int64]:
        """Indices, ascending, of the `count` filters to keep."""
        return np.sort(self.order[len(self.order) - count :])


def rank(model: keras.Model, sampling: Sampling) -> dict[str, Ranking]:
    """Rank the filters of every convolution by what the next layer loses without them.

    Args:
        model: the net before pruning, at the input size of the images.
        sampling: calibration images, disjoint from those that validate the result.
    """
    tf, keras = require_tensorflow()
    layers = weighted_layers(model)
    convolutions = [i for i, layer in enumerate(layers) if type(layer).__name__ == "Conv2D"]
    generator = np.random.default_rng(sampling.seed)
    kernels = [_projected(layers[i + 1], generator) for i in convolutions]
    grams = [np.zeros((n, n)) for n in (layers[i].filters for i in convolutions)]
    call = tf.function(keras.Model(model.input, [layers[i + 1].input for i in convolutions]), reduce_retracing=True)
    for part, images in sampling.batches():
        for at, values in zip(convolutions, call(tf.constant(images, tf.float32)), strict=True):
            rows = gather(layers[at + 1], at + 1, values.numpy(), sampling, part)
            parts = _contributions(rows, kernels[at], layers[at].filters)
            grams[at] += parts.T @ parts
    return {layers[i].name: _eliminate(layers[i].name, gram) for i, gram in zip(convolutions, grams, strict=True)}


def _projected(layer: Any, generator: np.random.Generator) -> Floats:
    # Random directions of the output space keep squared errors in expectation (Johnson and Lindenstrauss 1984) and
    # spare a third dimension of 512 outputs.
    kernel = layer.get_weights()[0].reshape(-1, layer.get_weights()[0].shape[-1])
    if type(layer).__name__ == "Dense":
        return np.asarray(kernel)
    directions = generator.standard_normal((kernel.shape[1], _PROJECTIONS)) / np.sqrt(_PROJECTIONS)
    return np.asarray(kernel @ directions, np.float32)


def _contributions(rows: Floats, kernel: Floats, channels: int) -> Floats:
    """What each channel adds to each output at each place, (places * outputs, channels)."""
    by_channel = rows.reshape(len(rows), -1, channels).transpose(2, 0, 1)
    weights = kernel.reshape(-1, channels, kernel.shape[-1]).transpose(1, 0, 2)
    parts = by_channel @ weights
    # The bias makes up for a mean.
    return np.asarray((parts - parts.mean(axis=1, keepdims=True)).reshape(channels, -1).T)


def _eliminate(layer: str, gram: NDArray[np.float64]) -> Ranking:
    """Remove channel after channel, each time the one whose loss the rest can best make up for."""
    total = max(float(gram.sum()), np.finfo(float).tiny)
    damped = gram + _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-12) * np.eye(len(gram))
    inverse = np.linalg.inv(damped)
    scale = np.ones(len(gram))
    left = np.ones(len(gram), bool)
    order, error = [], [0.0]
    for _ in range(len(gram)):
        diagonal = np.where(left, np.diag(inverse), 1.0)
        loss = np.where(left, scale**2 / diagonal, np.inf)
        gone = int(np.argmin(loss))
        order.append(gone)
        error.append(error[-1] + float(loss[gone]) / total)
        column = inverse[:, gone].copy()
        scale -= column * (scale[gone] / column[gone])
        inverse -= np.outer(column, column / column[gone])
        left[gone] = False
        scale[gone] = 0.0
    return Ranking(layer, np.asarray(order, np.int64), np.clip(np.asarray(error), 0.0, 1.0))
