"""How much each layer, computed in int8 while all others stay in float, disturbs the model's answers.

H. Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020, quantize
one layer at a time to rank layers, then leave the most sensitive ones in float until the accuracy is met. The
disturbance is measured as in N. P. Pandey et al., "A Practical Mixed Precision Algorithm for Post-Training
Quantization", 2023: the signal-to-quantization-noise ratio of the logits, which a few unlabelled images settle, whereas
the accuracy would need many labelled ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.core.types import Images
from tledge.model.inference import matrix_layers
from tledge.model.ranges import LEVELS

if TYPE_CHECKING:
    import keras

# The first layers' activations of four 224 px images take 50 MB.
_BATCH = 4
_LOSSLESS_DB = 200.0


def layer_sqnr_db(model: keras.Model, images: Images, weight_levels: int) -> dict[str, float]:
    """Signal-to-quantization-noise ratio of the logits for each layer alone in int8.

    A layer in int8 has its weights rounded per output channel (symmetric), its input and its output per tensor
    (asymmetric, from the least to the largest value on `images`), as in the exported files.

    Args:
        model: what `inference_model` returns.
        images: (N, S, S, 3) uint8, N at least 1; calibration images.
        weight_levels: largest magnitude of an integer weight: 127 for 8 bits, 63 for 7.

    Returns:
        By convolution or dense layer, in the model's order: decibels, the lower the worse; at most 200.
    """
    chain = [_Step(layer) for layer in model.layers[1:]]
    limits = _limits(chain, images)
    noise = dict.fromkeys(matrix_layers(model), 0.0)
    signal = 0.0
    for tensors in _forward(chain, images):
        expected = _centred(tensors[-1])
        signal += float(np.square(expected).sum())
        for index, step in enumerate(chain):
            if step.kernel is None:
                continue
            x = _rounded(tensors[index], limits[index])
            x = _rounded(step(x, _rounded_kernel(step.kernel, weight_levels)), limits[index + 1])
            for later in chain[index + 1 :]:
                x = later(x)
            noise[step.name] += float(np.square(_centred(x) - expected).sum())
    return {name: min(_LOSSLESS_DB, _decibels(signal, value)) for name, value in noise.items()}


class _Step:
    """One layer of the chain, which can be run with another kernel; the softmax at the end is left out."""

    def __init__(self, layer: Any) -> None:
        self.name: str = layer.name
        self.kernel: np.ndarray[Any, Any] | None = None
        self._layer = layer
        if type(layer).__name__ in ("Conv2D", "Dense"):
            self.kernel, self._bias = layer.get_weights()

    def __call__(self, x: Any, kernel: np.ndarray[Any, Any] | None = None) -> Any:
        if self.kernel is None:
            return self._layer(x)
        tf, _ = require_tensorflow()
        weights = self.kernel if kernel is None else kernel
        if weights.ndim == 4:
            product = tf.nn.conv2d(x, weights, self._layer.strides, self._layer.padding.upper())
        else:
            product = tf.matmul(x, weights)
        relu = self._layer.activation.__name__ == "relu"
        return tf.nn.relu(product + self._bias) if relu else product + self._bias


def _forward(chain: list[_Step], images: Images) -> Iterator[list[Any]]:
    """Batch by batch the input of every step and, last, the logits."""
    tf, _ = require_tensorflow()
    for start in range(0, len(images), _BATCH):
        tensors = [tf.constant(images[start : start + _BATCH].astype(np.float32))]
        for step in chain:
            tensors.append(step(tensors[-1]))
        yield tensors


def _limits(chain: list[_Step], images: Images) -> list[tuple[float, float]]:
    """Least and largest value of every tensor of `_forward`, 0 included."""
    tf, _ = require_tensorflow()
    limits = [(0.0, 0.0)] * (len(chain) + 1)
    for tensors in _forward(chain, images):
        limits = [
            (min(low, float(tf.reduce_min(x))), max(high, float(tf.reduce_max(x))))
            for (low, high), x in zip(limits, tensors, strict=True)
        ]
    return limits


def _rounded(x: Any, limits: tuple[float, float]) -> Any:
    tf, _ = require_tensorflow()
    low, high = limits
    scale = (high - low) / LEVELS
    if not scale:
        return x  # nothing but zeros
    zero = round(-low / scale)
    return (tf.clip_by_value(tf.round(x / scale) + zero, 0, LEVELS) - zero) * scale


def _rounded_kernel(kernel: np.ndarray[Any, Any], levels: int) -> np.ndarray[Any, Any]:
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32) / levels
    return np.asarray(np.round(kernel / scale) * scale, np.float32)


def _centred(logits: Any) -> np.ndarray[Any, Any]:
    # Softmax ignores what all classes have in common.
    values = np.asarray(logits, np.float64)
    return np.asarray(values - values.mean(axis=1, keepdims=True))


def _decibels(signal: float, noise: float) -> float:
    return 10 * float(np.log10(signal / noise)) if signal and noise else _LOSSLESS_DB
