"""Flat nets with some of their layers split into thin ones: which layers that can be, what it costs, the split net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.compression.flat import CORE, INTO, rebuilt, weighted_layers
from tledge.core.dependencies import require_tensorflow

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Ranks:
    """Channels between the parts of one layer: `into` before its kernel, `out` after it.

    `out` is None where there are two parts only: of a dense layer and of a 1x1 convolution.
    """

    into: int
    out: int | None


@dataclass(frozen=True)
class Splittable:
    """A layer that can be split, and what it costs.

    `taps` is the number of places that its kernel covers, 9 of a 3x3 convolution, all of the map for a dense layer
    behind `flatten`. `places` is at how many it is computed, `places_into` at how many its first part is. Of a layer
    that `has_core` a part stays between two thin ones; of others the first part alone is split off.
    """

    name: str
    taps: int
    inputs: int
    outputs: int
    places: int
    places_into: int
    has_core: bool

    @property
    def whole(self) -> Ranks:
        """As many channels as there are."""
        return Ranks(self.inputs, self.outputs if self.has_core else None)

    def parameters(self, ranks: Ranks) -> int:
        """Weights when split."""
        return self.inputs * ranks.into + self._after(ranks)

    def multiply_adds(self, ranks: Ranks) -> int:
        """Multiply-adds for one image when split."""
        return self.places_into * self.inputs * ranks.into + self.places * self._after(ranks)

    def pays(self, ranks: Ranks) -> bool:
        """Whether the parts cost less than the whole."""
        return self.multiply_adds(ranks) < self.places * self.taps * self.inputs * self.outputs

    def _after(self, ranks: Ranks) -> int:
        if ranks.out is None:
            return self.taps * ranks.into * self.outputs
        return self.taps * ranks.into * ranks.out + ranks.out * self.outputs


def splittable(model: keras.Model) -> dict[str, Splittable]:
    """Convolutions and dense layers of a flat net that can be split: all but the first, the last and parts of others.

    Raises:
        SettingsError: the model is no flat net.
    """
    found = {}
    names = {layer.name for layer in model.layers}
    for layer in weighted_layers(model)[1:-1]:
        if layer.name.endswith(INTO) or layer.name + INTO in names:
            continue
        is_convolution = type(layer).__name__ == "Conv2D"
        kernel, before = layer.get_weights()[0], input_map(model, layer.name)
        places_before, places = (int(np.prod(tensor.shape[1:-1])) for tensor in (before, layer.output))
        taps = int(np.prod(layer.kernel_size)) if is_convolution else places_before
        # The first part of a layer without a core takes its strides.
        has_core = is_convolution and taps > 1
        places_into = places if is_convolution and not has_core else places_before
        inputs, outputs = kernel.size // kernel.shape[-1] // taps, kernel.shape[-1]
        found[layer.name] = Splittable(layer.name, taps, inputs, outputs, places, places_into, has_core)
    return found


def input_map(model: keras.Model, name: str) -> keras.KerasTensor:
    """What a layer takes, with its places, (N, h, w, channels): for a dense layer what `flatten` takes; else (N, C)."""
    layer = model.get_layer(name)
    before = _flattened(model).get(name) if type(layer).__name__ == "Dense" else None
    return layer.input if before is None else before.input


def _flattened(model: keras.Model) -> dict[str, Any]:
    """By dense layer that alone reads a flattened map: the layer that flattens it."""
    _, keras = require_tensorflow()
    readers: dict[int, list[Any]] = {}
    for operation in model.operations[1:]:
        for tensor in keras.tree.flatten(operation.input):
            readers.setdefault(id(tensor), []).append(operation)
    found = {}
    for layer in model.layers:
        if type(layer).__name__ == "Flatten" and len(layer.input.shape) == 4:
            reading = readers.get(id(layer.output), [])
            if len(reading) == 1 and type(reading[0]).__name__ == "Dense":
                found[reading[0].name] = layer
    return found


def split(model: keras.Model, ranks: Mapping[str, Ranks]) -> keras.Model:
    """Build a flat net with some layers split; those that are not take over their weights, the parts want a fit.

    Args:
        model: a flat net; left as it is.
        ranks: of some layers of `splittable`.
    """
    _, keras = require_tensorflow()
    before_flatten = {layer.name: name for name, layer in _flattened(model).items() if name in ranks}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name in before_flatten:
            # The map goes into fewer channels before `flatten` loses its places.
            dense = before_flatten[layer.name]
            return layer(keras.layers.Conv2D(ranks[dense].into, 1, padding="same", name=dense + INTO)(*args))
        if layer.name not in ranks or layer.name in before_flatten.values():
            return layer(*args, **kwargs)
        return _parts(layer, ranks[layer.name], *args)

    return rebuilt(model, call, without=ranks)


def _parts(layer: Any, ranks: Ranks, x: Any) -> Any:
    _, keras = require_tensorflow()
    name, activation = layer.name, layer.activation
    if type(layer).__name__ == "Dense":
        return keras.layers.Dense(layer.units, activation=activation, name=name)(
            keras.layers.Dense(ranks.into, name=name + INTO)(x)
        )
    strides = {"strides": layer.strides, "dilation_rate": layer.dilation_rate}
    if ranks.out is None:
        x = keras.layers.Conv2D(ranks.into, 1, padding=layer.padding, name=name + INTO, **strides)(x)
    else:
        x = keras.layers.Conv2D(ranks.into, 1, padding="same", name=name + INTO)(x)
        x = keras.layers.Conv2D(ranks.out, layer.kernel_size, padding=layer.padding, name=name + CORE, **strides)(x)
    return keras.layers.Conv2D(layer.filters, 1, padding="same", activation=activation, name=name)(x)
