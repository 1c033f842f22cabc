"""A chain whose large layers are split: a 1x1 convolution into fewer channels, the kernel, a 1x1 convolution out again.

The split on the side of the outputs is that of X. Zhang et al., "Accelerating Very Deep Convolutional Networks for
Classification and Detection", 2016; on both sides it has the form of Y.-D. Kim et al., "Compression of Deep
Convolutional Neural Networks for Fast and Low Power Mobile Applications", 2016 (Tucker-2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.compression.chain import copied, weighted_layers
from tledge.core.dependencies import require_tensorflow
from tledge.model.vgg16 import PREPROCESSING

if TYPE_CHECKING:
    import keras

INTO, CORE = "_into", "_core"
"""What the names of the two added layers end in; the last part keeps the name, width and activation of the whole."""


@dataclass(frozen=True)
class Ranks:
    """Channels between the parts of one layer: `into` before its kernel, `out` after it, None in a dense layer."""

    into: int
    out: int | None


@dataclass(frozen=True)
class Splittable:
    """A layer that can be split, and what it costs.

    `taps` is the number of places that its kernel covers, 9 of a 3x3 convolution, all of the map for a dense layer
    behind `flatten`. `places` is at how many it is computed, `places_into` at how many its first part is.
    """

    name: str
    taps: int
    inputs: int
    outputs: int
    places: int
    places_into: int

    @property
    def whole(self) -> Ranks:
        """As many channels as there are."""
        return Ranks(self.inputs, None if self.is_dense else self.outputs)

    @property
    def is_dense(self) -> bool:
        """Whether it is a dense layer; its outputs are few, so only its inputs are split off."""
        return self.places == 1 and self.places_into == self.taps

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
    """Layers of a chain that can be split: all but the first, which has 3 inputs, the last, and what is thin already.

    Raises:
        SettingsError: the model is not the chain that tledge trains.
    """
    found = {}
    names = {layer.name for layer in model.layers}
    for layer in weighted_layers(model)[1:-1]:
        if type(layer).__name__ == "Dense" and layer.name + INTO in names:
            continue
        kernel = layer.get_weights()[0]
        if type(layer).__name__ == "Dense":
            taps = int(np.prod(input_map(model, layer.name).shape[1:3]))
            found[layer.name] = Splittable(layer.name, taps, len(kernel) // taps, kernel.shape[-1], 1, taps)
        elif layer.kernel_size != (1, 1):
            places = int(np.prod(layer.output.shape[1:3]))
            taps, (inputs, outputs) = int(np.prod(layer.kernel_size)), kernel.shape[2:]
            found[layer.name] = Splittable(layer.name, taps, inputs, outputs, places, places)
    return found


def input_map(model: keras.Model, name: str) -> keras.KerasTensor:
    """What a layer takes, with its places, (N, h, w, channels): for a dense layer what `flatten` takes."""
    names = [layer.name for layer in model.layers]
    before = model.layers[names.index(name) - 1]
    return before.input if type(before).__name__ == "Flatten" else model.get_layer(name).input


def split(model: keras.Model, ranks: Mapping[str, Ranks]) -> keras.Model:
    """Build the chain with some layers split; those that are not take over their weights, the parts want a fit.

    Args:
        model: a chain that tledge trained.
        ranks: of some layers of `splittable`.
    """
    _, keras = require_tensorflow()
    pixels = keras.Input(model.input_shape[1:], name="input")
    x = copied(model.layers[1], {})(pixels)
    chain = model.layers[2:]
    for layer, following in zip(chain, [*chain[1:], None], strict=True):
        # The map goes into fewer channels before `flatten` loses its places.
        dense = following if type(layer).__name__ == "Flatten" else None
        if dense is not None and dense.name in ranks:
            x = keras.layers.Conv2D(ranks[dense.name].into, 1, padding="same", name=dense.name + INTO)(x)
        is_convolution = type(layer).__name__ == "Conv2D"
        x = _parts(layer, ranks[layer.name], x) if is_convolution and layer.name in ranks else copied(layer, {})(x)
    result = keras.Model(pixels, x, name=model.name)
    result.get_layer(PREPROCESSING).set_weights(model.layers[1].get_weights())
    for layer in weighted_layers(model):
        if layer.name not in ranks:
            result.get_layer(layer.name).set_weights(layer.get_weights())
    return result


def _parts(layer: Any, ranks: Ranks, x: Any) -> Any:
    _, keras = require_tensorflow()
    x = keras.layers.Conv2D(ranks.into, 1, padding="same", name=layer.name + INTO)(x)
    x = keras.layers.Conv2D(ranks.out, layer.kernel_size, padding=layer.padding, name=layer.name + CORE)(x)
    return keras.layers.Conv2D(layer.filters, 1, padding="same", activation=layer.activation, name=layer.name)(x)
