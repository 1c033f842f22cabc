"""The form of a model that every method works on: preprocessing, then one flat net of plain layers.

Models inside models are unwrapped, batch normalization and activations sit in the layer before them where that is the
same function, and every layer is called once. Chains are such nets without branches; `tledge.compression.chain` makes
them narrower.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.image_size import ImageSize, image_size
from tledge.model.graph import MATRIX_LAYERS, Call, Graph, Value, activation_of, graph_of
from tledge.model.inference import (
    activations_split,
    copied_layer,
    normalization_folded,
    pixel_map,
    separable_split,
    split_at_first_convolution,
    without_inert,
)
from tledge.model.preprocessing import PREPROCESSING, preprocessing_layer

if TYPE_CHECKING:
    import keras

PREDICTION = "prediction"
"""Name of the last layer, which makes probabilities."""
ACTIVATIONS = ("linear", "relu", "softmax")
"""What a convolution or dense layer may have inside; others become layers of their own."""
WEIGHTED = ("Conv2D", "Dense")
"""Kinds of layers that methods make cheaper."""
CHAINED = (*WEIGHTED, "MaxPooling2D", "Flatten", "GlobalAveragePooling2D")
"""Kinds of layers of the chain that tledge trains."""

INTO, CORE = "_into", "_core"
"""What the names of the layers end in that splitting one adds before it; the last part keeps its name."""

_HEAD_NAMES = {"Flatten": "flatten", "GlobalAveragePooling2D": "gap"}


def flat(model: keras.Model) -> keras.Model:
    """Write a model as a flat net, where it is the same function; others stay, and `not_flat` says why.

    Preprocessing becomes one layer, batch normalization and activations go into the layer before them, dropout goes. In
    a chain the head's layers get the names that they have in tledge's own models.
    """
    _, keras = require_tensorflow()
    each_once = all(len(layer.get("inbound_nodes", ())) <= 1 for layer in model.get_config()["layers"])
    if each_once and not_a_chain(model) is None and model.layers[-1].name == PREDICTION:
        return model
    graph = activations_split(separable_split(without_inert(graph_of(model))), ACTIVATIONS)
    graph = _activations_joined(normalization_folded(graph))
    start, calls = graph.input, graph.calls
    matrix, offset = np.eye(graph.input_shape[-1]), np.zeros(graph.input_shape[-1])
    parts = split_at_first_convolution(graph)
    if parts is None and not_flat(model) is None:
        return model  # something else reads the pixels too
    if parts is not None:
        affine = pixel_map(parts[0])
        if affine is None:
            return model
        start, calls, (matrix, offset) = parts[0].output, parts[1], affine
    pixels = keras.Input(graph.input_shape, name="input")
    values: dict[Value, Any] = {start: preprocessing_layer(graph.input_shape, matrix.T, offset)(pixels)}
    kinds = [call.kind for call in calls]
    is_chain = graph.is_chain and set(kinds) <= {*CHAINED}
    heads = {kind: name for kind, name in _HEAD_NAMES.items() if is_chain and kinds.count(kind) == 1}
    taken = {"input", PREPROCESSING, PREDICTION}
    for call in calls:
        name = PREDICTION if graph.output in call.outputs else _free(heads.get(call.kind, call.name), taken)
        copy = _named(call, name)
        taken.add(name)
        values.update(zip(call.outputs, keras.tree.flatten(copy.apply(values)), strict=True))
        _take_over_weights(call.layer, copy.layer)
    return keras.Model(pixels, values[graph.output], name=model.name)


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"{name}.own"
    return name


def _named(call: Call, name: str) -> Call:
    bias = {"use_bias": True} if call.kind in MATRIX_LAYERS else {}
    return replace(call, layer=copied(call.layer, {"name": name, **bias}))


def _take_over_weights(source: Any, target: Any) -> None:
    weights = source.get_weights() if hasattr(source, "get_weights") else []
    if type(source).__name__ in MATRIX_LAYERS and len(weights) == 1:
        weights.append(np.zeros(target.get_weights()[1].shape, np.float32))
    if weights:
        target.set_weights(weights)


def _activations_joined(graph: Graph) -> Graph:
    """Put activations with a layer of their own into the convolution or dense layer before them."""
    calls: list[Call] = []
    makers: dict[Value, int] = {}
    for call in graph.calls:
        activation = activation_of(call)
        place = makers.get(call.inputs[0]) if len(call.inputs) == 1 else None
        before = None if place is None else calls[place]
        if (
            place is not None
            and before is not None
            and activation in ACTIVATIONS
            and before.kind in WEIGHTED
            and before.layer.activation.__name__ == "linear"
            and call.inputs == before.outputs
            and graph.only_reader(before.output) is not None
        ):
            layer = copied_layer(before.layer, {"activation": activation}, before.layer.get_weights())
            calls[place] = replace(before, layer=layer, outputs=call.outputs)
        else:
            place = len(calls)
            calls.append(call)
        makers.update(dict.fromkeys(call.outputs, place))
    return replace(graph, calls=tuple(calls))


def not_flat(model: keras.Model) -> str | None:
    """Why a model is not the form that `flat` makes, None if it is."""
    calls: list[Any] = getattr(model, "operations", [])
    begins_so = len(calls) > 2 and calls[1].name == PREPROCESSING and type(calls[1]).__name__ == "EinsumDense"
    if not begins_so or calls[-1].name != PREDICTION:
        return (
            "expected an image classifier with one factor and offset by channel as its preprocessing and a convolution "
            f"behind it, but {model.name} begins with something else; optimize a model that tledge trained, or adopt "
            "one of that form"
        )
    return None


def not_a_chain(model: keras.Model) -> str | None:
    """Why a model is no chain of the layers that tledge trains, None if it is one."""
    if reason := not_flat(model):
        return reason
    for layer in model.operations[2:]:
        kind = type(layer).__name__
        if kind not in CHAINED:
            return (
                f"expected a chain of {', '.join(CHAINED)} layers behind the preprocessing, but {layer.name} is a "
                f"{kind}; use a method that takes branches and other layers, such as low-rank"
            )
        if kind in WEIGHTED and not _is_usual(layer):
            return (
                "expected convolutions without groups or dilation and dense layers behind them, with a bias and the "
                f"activations {', '.join(ACTIVATIONS)}, but {layer.name} is not one; use another method, such as "
                "low-rank"
            )
    return None


def _is_usual(layer: Any) -> bool:
    if type(layer).__name__ == "Dense":
        plain = len(layer.input.shape) == 2
    else:
        plain = layer.groups == 1 and tuple(layer.dilation_rate) == (1, 1)
    return plain and layer.use_bias and layer.activation.__name__ in ACTIVATIONS


def weighted_layers(model: keras.Model) -> list[Any]:
    """Convolutions without groups and dense layers that see a vector, each after those that it reads.

    Raises:
        SettingsError: the model is no flat net.
    """
    if reason := not_flat(model):
        raise SettingsError(reason)
    return [layer for layer in model.layers[2:] if _is_weighted(layer)]


def _is_weighted(layer: Any) -> bool:
    kind = type(layer).__name__
    return (kind == "Conv2D" and layer.groups == 1) or (kind == "Dense" and len(layer.input.shape) == 2)


def input_size(model: keras.Model) -> ImageSize:
    """The size of a model's input."""
    height, width = model.input_shape[1:3]
    return image_size(int(height), int(width))


@dataclass(frozen=True)
class LayerCost:
    """One layer that multiplies: multiply-adds for one image, and number of weights and biases."""

    name: str
    multiply_adds: int
    parameters: int


def layer_costs(model: keras.Model) -> tuple[LayerCost, ...]:
    """Cost of every convolution and dense layer of a flat net, in its order; the rest costs next to nothing.

    Raises:
        SettingsError: the model is no flat net.
    """
    if reason := not_flat(model):
        raise SettingsError(reason)
    costs = []
    for layer in model.layers[2:]:
        if type(layer).__name__ in MATRIX_LAYERS:
            places = int(np.prod(layer.output.shape[1:-1]))
            costs.append(LayerCost(layer.name, layer.get_weights()[0].size * places, layer.count_params()))
    return tuple(costs)


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of convolutions and dense layers for one image."""
    return sum(cost.multiply_adds for cost in layer_costs(model))


def parameters(model: keras.Model) -> int:
    """Number of weights and biases of convolutions and dense layers."""
    return sum(cost.parameters for cost in layer_costs(model))


def bridges(model: keras.Model) -> set[int]:
    """Identities of the tensors of a net that all paths from its input to its output go through."""
    _, keras = require_tensorflow()
    read = [[id(tensor) for tensor in keras.tree.flatten(operation.input)] for operation in model.operations]
    last_read = {tensor: place for place, tensors in enumerate(read) for tensor in tensors}
    found: set[int] = set()
    waiting: set[int] = set()
    for place, operation in enumerate(model.operations):
        waiting |= {id(tensor) for tensor in keras.tree.flatten(operation.output)}
        waiting = {tensor for tensor in waiting if last_read.get(tensor, -1) > place}
        found |= waiting if len(waiting) == 1 else set()
    return found


def copied(layer: Any, changes: Mapping[str, Any]) -> Any:
    """A new layer of the same kind and configuration but for `changes`, without the weights."""
    return type(layer).from_config({**layer.get_config(), **changes})


def rebuilt(model: keras.Model, call: Callable[..., Any], without: Collection[str] = ()) -> keras.Model:
    """Build a flat net again from copies of its layers and take over the weights.

    Args:
        model: a flat net; left as it is.
        call: called with (copy of a layer, what it reads …) and returns what stands for the layer's output.
        without: names of layers whose weights are not taken over.
    """
    _, keras = require_tensorflow()
    result = keras.models.clone_model(model, clone_function=lambda layer: copied(layer, {}), call_function=call)
    for layer in model.layers:
        if layer.weights and layer.name not in without:
            result.get_layer(layer.name).set_weights(layer.get_weights())
    return result


def duplicate(model: keras.Model) -> keras.Model:
    """A flat net of its own with the same weights."""
    return rebuilt(model, lambda layer, *args, **kwargs: layer(*args, **kwargs))
