"""The form of a model that gets exported: the same function, cheaper to convert and to run.

What training alone needs is left out. Arithmetic that follows from other arithmetic is folded into weights where the
function stays the same: batch normalization into the convolution before it, preprocessing into the first one. What
remains of the preprocessing is at most one addition per pixel, which every runtime offers in float and in int8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.model.graph import MATRIX_LAYERS, Call, Graph, Value, activation_of, graph_of
from tledge.model.normalization import normalization_as_affine

if TYPE_CHECKING:
    import keras

PIXEL_OFFSET = "subtract_mean"
"""Name of the addition that is left of the preprocessing."""

_INERT = (
    "ActivityRegularization",
    "AlphaDropout",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "SpatialDropout2D",
)
_KEPT_INSIDE = ("linear", "relu")  # every converter fuses a ReLU into the layer
_PIXEL_TOLERANCE = 1e-5
_PIXEL_BYTES = 255.0


def load_graph(path: Path) -> Graph:
    """The graph of a `.keras` file that `tledge` wrote, as `inference_graph` returns it."""
    _, keras = require_tensorflow()
    return inference_graph(keras.models.load_model(path, compile=False, safe_mode=True))


def inference_graph(model: keras.Model) -> Graph:
    """Turn a model into the graph that is converted.

    Args:
        model: as for `graph_of`; its weights stay as they are, folded ones are those of copies.

    Returns:
        A graph with the same outputs up to the rounding of float32.

    Raises:
        ArtefactError: see `graph_of`.
    """
    graph = without_inert(graph_of(model))
    for call in graph.calls:
        compute_in_float32(call)
    graph = activations_split(_global_maximum_as_pooling(separable_split(graph)))
    return _pixels_folded(_numbers_folded(normalization_folded(graph)))


def compute_in_float32(call: Call) -> None:
    """Let a layer that was trained with mixed precision compute in float32, as its variables are.

    Files say themselves what they compute in, and so does a reference.
    """
    _, keras = require_tensorflow()
    policy = getattr(call.layer, "dtype_policy", None)
    if policy is not None and str(policy.name).startswith("mixed"):
        call.layer.dtype_policy = keras.DTypePolicy("float32")


def without_inert(graph: Graph) -> Graph:
    """Leave out what does nothing at inference: dropout, noise, random augmentation."""
    renamed: dict[Value, Value] = {}
    calls = []
    for call in graph.calls:
        if _is_inert(call):
            renamed[call.output] = renamed.get(call.inputs[0], call.inputs[0])
        else:
            calls.append(call.reading(renamed))
    return replace(graph, calls=tuple(calls), output=renamed.get(graph.output, graph.output))


def _is_inert(call: Call) -> bool:
    if len(call.outputs) != 1:
        return False
    # Random layers of Keras augment in training only; RandomCrop also crops at inference.
    random = call.kind.startswith("Random") and call.kind != "RandomCrop"
    return call.kind in _INERT or random or activation_of(call) == "linear"


def _global_maximum_as_pooling(graph: Graph) -> Graph:
    """Write the maximum over an image as a pooling of its size, which every runtime has in int8 too."""
    _, keras = require_tensorflow()
    if not any(call.kind == "GlobalMaxPooling2D" for call in graph.calls):
        return graph
    values = graph.values(np.zeros((1, *graph.input_shape), np.float32))
    last = graph.last_number
    calls: list[Call] = []
    for call in graph.calls:
        if call.kind != "GlobalMaxPooling2D" or call.layer.data_format != "channels_last":
            calls.append(call)
            continue
        layer = keras.layers.MaxPooling2D(tuple(values[call.inputs[0]].shape[1:3]), name=call.name)
        if call.layer.keepdims:
            calls.append(replace(call, layer=layer))
            continue
        last += 1
        calls.append(replace(call, layer=layer, outputs=(Value(last),)))
        flat = keras.layers.Flatten(name=f"{call.name}.flatten")
        calls.append(Call(flat.name, flat, (Value(last),), {}, call.outputs))
    return replace(graph, calls=tuple(calls))


def separable_split(graph: Graph) -> Graph:
    """Write a separable convolution as the two that it is: normalization then goes into the second.

    Converters make two operators of it as well, and ranges, layers in float and a diagnosis know layers by name.
    """
    pairs: dict[int, tuple[Any, Any]] = {}
    last = graph.last_number
    calls: list[Call] = []
    for call in graph.calls:
        layer = call.layer
        if call.kind != "SeparableConv2D" or layer.data_format != "channels_last":
            calls.append(call)
            continue
        if id(layer) not in pairs:
            pairs[id(layer)] = _pair_of(call)
        depthwise, pointwise = pairs[id(layer)]
        last += 1
        calls.append(Call(f"{call.name}.depthwise", depthwise, call.inputs, {}, (Value(last),)))
        calls.append(Call(call.name, pointwise, (Value(last),), {}, call.outputs))
    return replace(graph, calls=tuple(calls))


def _pair_of(call: Call) -> tuple[Any, Any]:
    """A depthwise convolution and one of 1 x 1 that compute what a separable convolution does."""
    _, keras = require_tensorflow()
    layer = call.layer
    first, *others = layer.get_weights()
    depthwise = keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        dtype="float32",
        name=f"{call.name}.depthwise",
    )
    pointwise = keras.layers.Conv2D(
        layer.filters, 1, use_bias=layer.use_bias, activation=layer.activation, dtype="float32", name=call.name
    )
    for part, weights in ((depthwise, [first]), (pointwise, others)):
        part.build((None, None, None, weights[0].shape[2]))  # channels alone decide the weights
        part.set_weights(weights)
    return depthwise, pointwise


def activations_split(graph: Graph, kept: Collection[str] = _KEPT_INSIDE) -> Graph:
    """Give activations a call of their own, so that what goes into them can be seen, but for those that are `kept`."""
    _, keras = require_tensorflow()
    last = graph.last_number
    calls: list[Call] = []
    for call in graph.calls:
        activation: Any = getattr(call.layer, "activation", None)
        if call.kind not in MATRIX_LAYERS or activation.__name__ in kept:
            calls.append(call)
            continue
        last += 1
        linear = copied_layer(call.layer, {"activation": "linear"}, call.layer.get_weights())
        name = f"{call.name}.{activation.__name__}"
        after = keras.layers.Activation(activation, name=name)
        calls.append(replace(call, layer=linear, outputs=(Value(last),)))
        calls.append(Call(name, after, (Value(last),), {}, call.outputs))
    return replace(graph, calls=tuple(calls))


def normalization_folded(graph: Graph) -> Graph:
    """Fold batch normalization into the layer before it; elsewhere it becomes one multiplication and one addition."""
    _, keras = require_tensorflow()
    graph = _folded_behind(graph, _normalization)
    calls = []
    for call in graph.calls:
        if (affine := _normalization(call)) is not None:
            factor, offset = affine
            layer = keras.layers.Rescaling(factor.tolist(), offset.tolist(), name=call.name)
            call = replace(call, layer=layer, kwargs={})
        calls.append(call)
    return replace(graph, calls=tuple(calls))


def _numbers_folded(graph: Graph) -> Graph:
    """Fold a number that is added to a layer's output, or multiplied with it, into the layer.

    TensorFlow's converter does so by itself, and what a file's layer puts out would not be what the model's does. The
    hard sigmoids of MobileNetV3, relu6(x + 3) / 6, are made so.
    """
    return _folded_behind(graph, _factor_and_summand)


def _folded_behind(graph: Graph, affine_of: Callable[[Call], tuple[Any, Any] | None]) -> Graph:
    """Fold calls into the layer that they alone read: those that multiply and add, by channel or all alike.

    `affine_of` gives what a call multiplies with and then adds, None for a call that does something else.
    """
    shared = _shared_layers(graph)
    calls = {call.name: call for call in graph.calls}
    makers = {value: call for call in graph.calls for value in call.outputs}
    for call in graph.calls:
        affine = affine_of(call)
        before = None if affine is None else makers.get(call.inputs[0])
        if affine is None or before is None or not _takes_factor(before, shared):
            continue
        if graph.only_reader(before.output) is not None:
            calls[before.name] = makers[call.output] = _scaled_by(before, *affine, call.outputs)
            del calls[call.name]
    return replace(graph, calls=tuple(calls.values()))


def _normalization(call: Call) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """What batch normalization over channels multiplies with and adds; None for any other call."""
    layer = call.layer
    if call.kind != "BatchNormalization" or layer.axis not in (-1, 3) or len(layer.moving_mean.shape) != 1:
        return None
    gamma, beta = layer.gamma if layer.scale else np.ones(1), layer.beta if layer.center else np.zeros(1)
    parts = [np.asarray(part, np.float64) for part in (gamma, beta, layer.moving_mean, layer.moving_variance)]
    return normalization_as_affine(parts[0], parts[1], parts[2], parts[3], layer.epsilon)


def _takes_factor(call: Call, shared: set[int]) -> bool:
    is_linear = call.kind in MATRIX_LAYERS and call.layer.activation.__name__ == "linear"
    return is_linear and id(call.layer) not in shared


def _scaled_by(call: Call, factor: Any, offset: Any, outputs: tuple[Value, ...]) -> Call:
    """A convolution or dense layer whose output is multiplied and added to, by channel, in its weights."""
    kernel, *rest = call.layer.get_weights()
    # A depthwise kernel (3, 3, in, multiplier) has its output channels in the last two axes.
    shape = kernel.shape[2:] if call.kind == "DepthwiseConv2D" else kernel.shape[-1:]
    per_output = np.broadcast_to(np.asarray(factor, np.float64), math.prod(shape))
    bias = rest[0] if rest else np.zeros(len(per_output), np.float32)
    weights = [kernel * per_output.reshape(shape), bias * per_output + offset]
    layer = copied_layer(call.layer, {"use_bias": True}, [np.asarray(part, np.float32) for part in weights])
    return replace(call, layer=layer, outputs=outputs)


def _factor_and_summand(call: Call) -> tuple[float, float] | None:
    """The numbers of an operation that multiplies with a number or adds one; None for any other call."""
    if call.kind == "Rescaling":
        scale, offset = call.layer.scale, call.layer.offset
        return (float(scale), float(offset)) if _are_numbers(scale, offset) else None
    if len(call.inputs) != 1 or len(call.args) != 2:
        return None
    first, second = call.args
    number = second if isinstance(first, Value) else first
    if not _are_numbers(number) or (call.kind not in ("Add", "Multiply") and number is first):
        return None
    of_kind = {"Add": (1.0, number), "Subtract": (1.0, -number), "Multiply": (number, 0.0)}
    if call.kind in ("Divide", "TrueDivide") and number:
        return 1.0 / number, 0.0
    return of_kind.get(call.kind)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _shared_layers(graph: Graph) -> set[int]:
    seen: set[int] = set()
    twice: set[int] = set()
    for call in graph.calls:
        (twice if id(call.layer) in seen else seen).add(id(call.layer))
    return twice


def split_at_first_convolution(graph: Graph) -> tuple[Graph, tuple[Call, ...]] | None:
    """What happens to the pixels before the first convolution (and the zeros put around them), and all calls after.

    None if there is nothing before it, or if several tensors made there are read behind it.
    """
    index = next((i for i, call in enumerate(graph.calls) if call.kind in MATRIX_LAYERS), None)
    if not index:
        return None
    padding = graph.calls[index - 1].kind == "ZeroPadding2D"
    before, rest = graph.calls[: index - padding], graph.calls[index - padding :]
    made = {graph.input, *(value for call in before for value in call.outputs)}
    read = {value for call in rest for value in call.inputs if value in made}
    if not before or len(read) != 1 or graph.output in made:
        return None
    return replace(graph, calls=before, output=read.pop()), rest


def _pixels_folded(graph: Graph) -> Graph:
    """Fold what happens to every pixel by itself before the first convolution into that convolution.

    A preprocessing that computes `A x + b` for each pixel x equals `x + c` with A c = b, followed by the convolution
    with A in its kernel; zeros that pad stay zeros. A may scale and swap channels, which keeps both forms exact.
    """
    _, keras = require_tensorflow()
    parts = split_at_first_convolution(graph)
    affine = None if parts is None else pixel_map(parts[0])
    if parts is None or affine is None:
        return graph
    prefix, rest = parts
    matrix, offset = affine
    place = int(rest[0].kind == "ZeroPadding2D")
    conv = rest[place]
    # A filter has to see all channels for those to be mixed in it, and be the only one that does.
    takes_all = conv.kind == "Conv2D" and conv.layer.groups == 1 and id(conv.layer) not in _shared_layers(graph)
    if not takes_all or graph.only_reader(prefix.output) is None:
        return graph
    kernel, *bias = conv.layer.get_weights()
    folded = copied_layer(conv.layer, {}, [np.asarray(np.einsum("hwjo,ji->hwio", kernel, matrix), np.float32), *bias])
    # Where A has one entry a row, so has its inverse.
    shift = np.linalg.solve(matrix, offset)
    first, start = [], graph.input
    if np.abs(shift).max() > 0:
        start = Value(graph.last_number + 1)
        layer = keras.layers.Rescaling(1.0, shift.tolist(), name=PIXEL_OFFSET)
        first = [Call(PIXEL_OFFSET, layer, (graph.input,), {}, (start,))]
    renamed = {prefix.output: start}
    calls = [call.reading(renamed) for call in rest]
    calls[place] = replace(calls[place], layer=folded)
    return replace(graph, calls=(*first, *calls))


def pixel_map(prefix: Graph) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The A and b that a graph applies to every pixel; None if it does something else."""
    height, width, channels = prefix.input_shape

    def of(images: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(prefix.run(images), np.float64)

    basis = np.zeros((channels + 1, height, width, channels), np.float32)
    for channel in range(channels):
        basis[channel + 1, ..., channel] = _PIXEL_BYTES
    found = of(basis)
    if found.shape != basis.shape:
        return None
    offset = found[0, 0, 0]
    matrix = (found[1:, 0, 0] - offset).T / _PIXEL_BYTES
    largest = np.abs(matrix).max()
    matrix[np.abs(matrix) < 1e-6 * largest] = 0.0
    if not largest or not ((matrix != 0).sum(axis=0) == 1).all() or not ((matrix != 0).sum(axis=1) == 1).all():
        return None
    matrix[np.abs(matrix - 1) < 1e-6] = 1.0  # the difference of two rounded numbers is not quite what was multiplied by
    random = np.random.default_rng(0).uniform(0, _PIXEL_BYTES, (2, *prefix.input_shape)).astype(np.float32)
    expected = np.asarray(random, np.float64) @ matrix.T + offset
    is_affine = np.abs(of(random) - expected).max() <= _PIXEL_TOLERANCE * np.abs(expected).max()
    return (matrix, offset) if is_affine else None


def copied_layer(layer: Any, changed: Mapping[str, Any], weights: Sequence[NDArray[np.float32]]) -> Any:
    """A layer of the same configuration but for what is `changed`, with these weights."""
    copy = type(layer).from_config(layer.get_config() | changed)
    copy.build(layer.get_build_config()["input_shape"])
    copy.set_weights(list(weights))
    return copy
