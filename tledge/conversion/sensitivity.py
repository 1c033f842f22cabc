"""How much each layer, computed in int8 while all others stay in float, disturbs the model's answers.

H. Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020, quantize
one layer at a time to rank layers, then leave the most sensitive ones in float until the accuracy is met. The
disturbance is measured as in N. P. Pandey et al., "A Practical Mixed Precision Algorithm for Post-Training
Quantization", 2023: the signal-to-quantization-noise ratio of the logits, which a few unlabelled images settle, whereas
the accuracy would need many labelled ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.conversion.calibration import Range
from tledge.core.dependencies import require_tensorflow
from tledge.core.types import Images
from tledge.model.graph import Graph, Value
from tledge.model.ranges import LEVELS

# The first layers' activations of four 224 px images take 50 MB.
_BATCH = 4
_LOSSLESS_DB = 200.0


def layer_sqnr_db(graph: Graph, images: Images, weight_levels: int) -> dict[str, float]:
    """Signal-to-quantization-noise ratio of the logits for each layer alone in int8.

    A layer in int8 has its weights rounded per output channel (symmetric), its input and its output per tensor
    (asymmetric, from the least to the largest value on `images`), as in the exported files.

    Args:
        graph: what `inference_graph` returns.
        images: (N, H, W, C) uint8, N at least 1; calibration images.
        weight_levels: largest magnitude of an integer weight: 127 for 8 bits, 63 for 7.

    Returns:
        By convolution or dense layer, in the order of the calls: decibels, the lower the worse; at most 200.
    """
    names = graph.matrix_layers
    limits = _limits(graph, images)
    kernels = {
        call.name: _rounded_kernel(call.kind, call.layer.kernel.numpy(), weight_levels)
        for call in graph.calls
        if call.name in names
    }
    noise = dict.fromkeys(names, 0.0)
    signal = 0.0
    for values in _forward(graph, images):
        expected = _centred(values[graph.logits])
        signal += float(np.square(expected).sum())
        for name in names:
            rounded = _with_layer_rounded(graph, values, limits, name, kernels[name])
            noise[name] += float(np.square(_centred(rounded) - expected).sum())
    return {name: min(_LOSSLESS_DB, _decibels(signal, value)) for name, value in noise.items()}


def _forward(graph: Graph, images: Images) -> Iterator[dict[Value, Any]]:
    """Batch by batch every tensor of the graph."""
    tf, _ = require_tensorflow()
    for start in range(0, len(images), _BATCH):
        yield graph.values(tf.constant(images[start : start + _BATCH].astype(np.float32)))


def _with_layer_rounded(
    graph: Graph, values: Mapping[Value, Any], limits: Mapping[Value, Range], name: str, kernel: NDArray[np.float32]
) -> Any:
    """The logits when one layer computes in int8, by a rounded kernel; only what depends on it is computed again."""
    _, keras = require_tensorflow()
    changed: dict[Value, Any] = {}
    activated = graph.activated[name]
    for call in graph.calls:
        if call.name == name:
            [pixels] = call.inputs
            with keras.StatelessScope(state_mapping=[(call.layer.kernel, kernel)]):
                result = call.apply({pixels: _rounded(values[pixels], limits[pixels])})
        elif any(value in changed for value in call.inputs):
            result = call.apply({**values, **changed})
        else:
            continue
        if call is activated:
            result = _rounded(result, limits[call.output])
        changed.update(zip(call.outputs, keras.tree.flatten(result), strict=True))
        if graph.logits in changed:
            break
    return changed[graph.logits]


def _limits(graph: Graph, images: Images) -> dict[Value, Range]:
    """Least and largest value of every tensor, 0 included."""
    tf, _ = require_tensorflow()
    limits: dict[Value, Range] = {}
    for values in _forward(graph, images):
        for value, tensor in values.items():
            low, high = limits.get(value, (0.0, 0.0))
            limits[value] = min(low, float(tf.reduce_min(tensor))), max(high, float(tf.reduce_max(tensor)))
    return limits


def _rounded(x: Any, limits: Range) -> Any:
    tf, _ = require_tensorflow()
    low, high = limits
    scale = (high - low) / LEVELS
    if not scale:
        return x  # nothing but zeros
    zero = round(-low / scale)
    return (tf.clip_by_value(tf.round(x / scale) + zero, 0, LEVELS) - zero) * scale


def _rounded_kernel(kind: str, kernel: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    # A depthwise kernel (3, 3, in, multiplier) has its output channels in the last two axes.
    outputs = 2 if kind == "DepthwiseConv2D" else 1
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - outputs)))
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32) / levels
    return np.asarray(np.round(kernel / scale) * scale, np.float32)


def _centred(logits: Any) -> NDArray[np.float64]:
    # Softmax ignores what all classes have in common.
    values = np.asarray(logits, np.float64).reshape(len(logits), -1)
    return np.asarray(values - values.mean(axis=1, keepdims=True))


def _decibels(signal: float, noise: float) -> float:
    return 10 * float(np.log10(signal / noise)) if signal and noise else _LOSSLESS_DB
