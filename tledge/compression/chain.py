"""The model as a chain of layers: what each costs, how its parts follow each other, and how to build it narrower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.image_size import ImageSize, height_width, image_size, short_text
from tledge.model.graph import Call, Graph, activation_of, graph_of
from tledge.model.inference import (
    copied_layer,
    normalization_folded,
    pixel_map,
    split_at_first_convolution,
    without_inert,
)
from tledge.model.preprocessing import PREPROCESSING, preprocessing_layer
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX

if TYPE_CHECKING:
    import keras

Keep = Mapping[str, NDArray[np.int64]]
"""By layer: indices of the filters or units that stay, ascending. A layer that is not named keeps all."""

PREDICTION = "prediction"
INTO, CORE = "_into", "_core"
"""What the names of the layers end in that splitting one adds before it; the last part keeps its name."""
_WITH_WEIGHTS = ("Conv2D", "Dense")
_ACTIVATIONS = ("linear", "relu", "softmax")
_HEAD_NAMES = {"Flatten": "flatten", "GlobalAveragePooling2D": "gap"}
_TAKEN_IN = (
    "BatchNormalization",
    "Activation",
    "ReLU",
    "Softmax",
    "Dropout",
    "Rescaling",
    "Normalization",
    "EinsumDense",
)
_KINDS = ("Conv2D", "MaxPooling2D", "Flatten", "GlobalAveragePooling2D", "Dense")


@dataclass(frozen=True)
class LayerCost:
    """One convolution or dense layer: multiply-adds for one image, and number of weights and biases."""

    name: str
    multiply_adds: int
    parameters: int


def layer_costs(model: keras.Model) -> tuple[LayerCost, ...]:
    """Cost of every convolution and dense layer, in the order of the chain; the rest of VGG16 costs next to nothing."""
    costs = []
    for layer in weighted_layers(model):
        kernel = layer.get_weights()[0]
        places = int(np.prod(layer.output.shape[1:-1]))
        costs.append(LayerCost(layer.name, kernel.size * places, kernel.size + kernel.shape[-1]))
    return tuple(costs)


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of convolutions and dense layers for one image."""
    return sum(cost.multiply_adds for cost in layer_costs(model))


def parameters(model: keras.Model) -> int:
    """Number of weights and biases of convolutions and dense layers."""
    return sum(cost.parameters for cost in layer_costs(model))


def weighted_layers(model: keras.Model) -> list[Any]:
    """Convolutions and dense layers in the order of the chain.

    Raises:
        SettingsError: the model is not the chain that tledge trains.
    """
    if reason := not_a_chain(model):
        raise SettingsError(reason)
    return [layer for layer in model.layers[2:] if type(layer).__name__ in _WITH_WEIGHTS]


def input_size(model: keras.Model) -> ImageSize:
    """The size of a model's input."""
    height, width = model.input_shape[1:3]
    return image_size(int(height), int(width))


def not_a_chain(model: keras.Model) -> str | None:
    """Why a model is not the chain that tledge trains, None if it is."""
    head, preprocessing, *chain = model.layers
    begins_so = type(head).__name__ == "InputLayer" and preprocessing.name == PREPROCESSING
    if begins_so and all(type(layer).__name__ in _KINDS for layer in chain):
        weighted = [layer for layer in chain if type(layer).__name__ in _WITH_WEIGHTS]
        unusual = next((layer for layer in weighted if not (_is_usual(layer) and layer.use_bias)), None)
        return unusual and (
            f"expected convolutions and dense layers with a bias, without groups or dilation, and with the activations "
            f"{', '.join(_ACTIVATIONS)}, but {unusual.name} is not one; optimize another model"
        )
    kinds = (*_KINDS, *_TAKEN_IN)
    # What could be taken into other layers does not stand in the way; what cannot does.
    others = [layer for layer in model.layers[1:] if type(layer).__name__ not in kinds] or [preprocessing]
    other = next((layer for layer in others if not type(layer).__name__.startswith("Random")), others[0])
    return (
        f"expected a chain of {', '.join(_KINDS)} layers behind the preprocessing, but {other.name} is a "
        f"{type(other).__name__}; optimize a model that tledge trained, or an adopted one without branches"
    )


def as_chain(model: keras.Model) -> keras.Model:
    """Write an adopted model as the chain that tledge trains, where it is the same function; others stay.

    Preprocessing becomes one layer, batch normalization and activations go into the layer before them, dropout goes,
    and the head's layers get the names that they have in tledge's own models.
    """
    _, keras = require_tensorflow()
    each_once = all(len(layer.get("inbound_nodes", ())) <= 1 for layer in model.get_config()["layers"])
    if each_once and not_a_chain(model) is None and model.layers[-1].name == PREDICTION:
        return model
    graph = _activations_joined(normalization_folded(without_inert(graph_of(model))))
    parts = split_at_first_convolution(graph)
    calls = graph.calls if parts is None else parts[1]
    affine = (np.eye(3), np.zeros(3)) if parts is None else pixel_map(parts[0])
    if affine is None or not graph.is_chain or not all(_is_standard(call) for call in calls):
        return model
    matrix, offset = affine
    pixels = keras.Input(graph.input_shape, name="input")
    x = preprocessing_layer(graph.input_shape, matrix.T, offset)(pixels)
    for call in calls:
        name = PREDICTION if call is calls[-1] else _HEAD_NAMES.get(call.kind, call.name)
        bias = {"use_bias": True} if call.kind in _WITH_WEIGHTS else {}
        layer = type(call.layer).from_config(call.layer.get_config() | {"name": name} | bias)
        x = layer(x)
        kernel_and_bias = call.layer.get_weights()
        if len(kernel_and_bias) == 1:
            kernel_and_bias.append(np.zeros(kernel_and_bias[0].shape[-1], np.float32))
        layer.set_weights(kernel_and_bias)
    return keras.Model(pixels, x, name=model.name)


def _is_standard(call: Call) -> bool:
    if call.kind not in _KINDS or len(call.layer.get_weights()) > 2:
        return False
    return call.kind not in _WITH_WEIGHTS or _is_usual(call.layer)


def _is_usual(layer: Any) -> bool:
    """Whether a convolution or dense layer computes what the methods work out for one."""
    plain = type(layer).__name__ == "Dense" or (layer.groups == 1 and tuple(layer.dilation_rate) == (1, 1))
    return plain and layer.activation.__name__ in _ACTIVATIONS


def _activations_joined(graph: Graph) -> Graph:
    """Put activations with a layer of their own into the convolution or dense layer before them."""
    calls: list[Call] = []
    for call in graph.calls:
        before = calls[-1] if calls else None
        activation = activation_of(call)
        if (
            before is not None
            and activation in _ACTIVATIONS
            and before.kind in _WITH_WEIGHTS
            and before.layer.activation.__name__ == "linear"
            and call.inputs == before.outputs
            and graph.only_reader(before.output) is not None
        ):
            layer = copied_layer(before.layer, {"activation": activation}, before.layer.get_weights())
            calls[-1] = replace(before, layer=layer, outputs=call.outputs)
        else:
            calls.append(call)
    return replace(graph, calls=tuple(calls))


def narrow(model: keras.Model, keep: Keep, image_size_px: ImageSize | None = None) -> keras.Model:
    """Build the same chain with fewer filters, or for another input size, and take over the weights that remain.

    A filter that goes takes with it the next layer's input channel: for `fc1` behind `flatten` its rows at every
    place, for `prediction` behind `gap` its row. If the input size changes the map that `fc1` sees, its kernel is
    resampled bilinearly over the places and scaled to their number, which is a start and wants a refit.

    Args:
        model: a chain that tledge trained.
        keep: filters by layer; `prediction` cannot be cut.
        image_size_px: of its input, None for the model's own.

    Raises:
        SettingsError: unknown layer, indices out of range, not ascending or none, or an input below 32 px.
    """
    _, keras = require_tensorflow()
    layers = weighted_layers(model)
    _validate(layers, keep)
    size = image_size_px or input_size(model)
    if min(height_width(size)) < MIN_IMAGE_SIZE_PX:
        raise SettingsError(
            f"expected an image size of at least {MIN_IMAGE_SIZE_PX} px, but got {short_text(size)} px; choose more"
        )
    shape = (*height_width(size), 3)
    pixels = keras.Input(shape, name="input")
    x = copied(model.layers[1], {"output_shape": shape})(pixels)
    for layer in model.layers[2:]:
        width = {"Conv2D": "filters", "Dense": "units"}.get(type(layer).__name__)
        changes = {width: len(keep[layer.name])} if width and layer.name in keep else {}
        x = copied(layer, changes)(x)
    result = keras.Model(pixels, x, name=model.name)
    result.get_layer(PREPROCESSING).set_weights(model.layers[1].get_weights())
    _copy_weights(model, result, keep)
    return result


def copied(layer: Any, changes: Mapping[str, Any]) -> Any:
    """A new layer of the same kind and configuration but for `changes`, without the weights."""
    return type(layer).from_config({**layer.get_config(), **changes})


def _validate(layers: list[Any], keep: Keep) -> None:
    widths = {layer.name: layer.get_weights()[0].shape[-1] for layer in layers[:-1]}
    for name, kept in keep.items():
        if name not in widths:
            raise SettingsError(f"expected layers of {', '.join(widths)} to narrow, but got {name}; leave it out")
        if not len(kept) or np.any(np.diff(kept) <= 0) or kept[0] < 0 or kept[-1] >= widths[name]:
            raise SettingsError(
                f"expected ascending filter indices from 0 to {widths[name] - 1} for {name}, but got {list(kept)[:8]}; "
                "keep at least one, each once"
            )


def _copy_weights(source: keras.Model, target: keras.Model, keep: Keep) -> None:
    incoming: NDArray[np.int64] | None = None
    places: tuple[int, int] | None = None
    new_places: tuple[int, int] | None = None
    for layer in source.layers[2:]:
        copy = target.get_layer(layer.name)
        if type(layer).__name__ == "Flatten":
            places, new_places = layer.input.shape[1:3], copy.input.shape[1:3]
        if type(layer).__name__ not in _WITH_WEIGHTS:
            continue
        kernel, bias = layer.get_weights()
        if places is not None and new_places is not None:
            kernel = _rows_of_places(kernel, places, new_places, incoming)
            places = None
        elif incoming is not None:
            kernel = np.take(kernel, incoming, axis=-2)
        incoming = keep.get(layer.name)
        if incoming is not None:
            kernel, bias = kernel[..., incoming], bias[incoming]
        copy.set_weights([kernel, bias])


def _rows_of_places(
    kernel: NDArray[np.float32],
    places: tuple[int, int],
    new_places: tuple[int, int],
    incoming: NDArray[np.int64] | None,
) -> NDArray[np.float32]:
    from scipy.ndimage import zoom

    maps = kernel.reshape(*places, -1, kernel.shape[-1])
    if incoming is not None:
        maps = maps[:, :, incoming]
    if places != new_places:
        ratio = (new_places[0] / places[0], new_places[1] / places[1])
        maps = zoom(maps, (*ratio, 1, 1), order=1, grid_mode=True, mode="nearest") / (ratio[0] * ratio[1])
    return np.asarray(maps, np.float32).reshape(-1, kernel.shape[-1])
