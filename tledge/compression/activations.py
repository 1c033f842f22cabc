"""What layers compute on calibration images: activations at sampled places, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.flat import weighted_layers
from tledge.core.dependencies import require_tensorflow
from tledge.core.types import Images
from tledge.model.forward import compiled

if TYPE_CHECKING:
    import keras

BATCH = 8
POSITIONS = 48
_FEWEST_POSITIONS = 4
_MOST_BYTES = 600e6
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """Which places of which images are looked at, the same for every model of one input size.

    `images` are (N, H, W, 3) uint8. Of each map at most `positions` places per image are sampled, without repetition,
    from a generator seeded by (`seed`, layer).
    """

    images: Images
    seed: int
    positions: int = POSITIONS

    def for_model(self, model: keras.Model) -> Sampling:
        """The same with so few places that what all layers of a flat net compute there fits into memory."""
        channels = max(1, sum(layer.output.shape[-1] for layer in weighted_layers(model)))
        fitting = int(_MOST_BYTES / (4 * channels * len(self.images)))
        return replace(self, positions=min(self.positions, max(fitting, _FEWEST_POSITIONS)))

    def places(self, layer: int, height: int, width: int) -> NDArray[np.int64]:
        """Places (N, P, 2) as (row, column) in a map of that size for the layer with that number."""
        generator = np.random.default_rng((self.seed, layer))
        count = min(self.positions, height * width)
        flat = np.stack([generator.choice(height * width, count, replace=False) for _ in range(len(self.images))])
        return np.stack(np.divmod(flat, width), axis=-1)

    def values_of(self, model: keras.Model, tensors: Any) -> Iterator[tuple[slice, Any]]:
        """Values of one tensor of a model, or of several, batch by batch, each with its position among the images."""
        return values_of(model.input, tensors, self.images)


def values_of(source: Any, tensors: Any, values: NDArray[Any]) -> Iterator[tuple[slice, Any]]:
    """Values of tensors of a net, batch by batch, each with its position.

    Args:
        source: the tensor that `values` are given for.
        tensors: one that is computed from it, or several.
        values: (N, …).
    """
    _, keras = require_tensorflow()
    call = compiled(keras.Model(source, tensors))
    for start in range(0, len(values), BATCH):
        part = slice(start, start + BATCH)
        found = call(values[part])
        # Keras takes a list of one apart.
        yield part, [found] if isinstance(tensors, list) and not isinstance(found, list) else found


def pre_activations(model: keras.Model, sampling: Sampling) -> dict[str, Floats]:
    """Outputs of every weighted layer before its activation function, at the sampled places.

    Returns:
        By layer: (N * P, filters) of a convolution, (N, units) of a dense layer.
    """
    layers = weighted_layers(model)
    found: dict[str, list[Floats]] = {layer.name: [] for layer in layers}
    for part, inputs in sampling.values_of(model, [layer.input for layer in layers]):
        for number, (layer, values) in enumerate(zip(layers, inputs, strict=True)):
            rows = gather(layer, number, values, sampling, part)
            kernel, bias = layer.get_weights()
            found[layer.name].append(rows @ kernel.reshape(-1, kernel.shape[-1]) + bias)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def input_rows(model: keras.Model, number: int, sampling: Sampling) -> Iterator[Floats]:
    """What the weighted layer with that number sees at the sampled places, batch by batch.

    Yields:
        (B * P, 9 * channels) of a 3x3 convolution, (B, inputs) of a dense layer; columns in the order of its kernel.
    """
    layer = weighted_layers(model)[number]
    for part, values in sampling.values_of(model, layer.input):
        yield gather(layer, number, values, sampling, part)


def outputs(model: keras.Model, number: int, sampling: Sampling) -> Iterator[Floats]:
    """What the weighted layer with that number computes before its activation function, batch by batch."""
    kernel, bias = weighted_layers(model)[number].get_weights()
    for rows in input_rows(model, number, sampling):
        yield rows @ kernel.reshape(-1, kernel.shape[-1]) + bias


def at_places(values: Floats, number: int, sampling: Sampling, part: slice) -> Floats:
    """What a map (B, H, W, C) holds at the places sampled for that layer, (B * P, C); vectors (B, C) as they are."""
    if values.ndim == 2:
        return values
    places = sampling.places(number, *values.shape[1:3])[part]
    found = values[np.arange(len(values))[:, None], places[:, :, 0], places[:, :, 1]]
    return np.asarray(found.reshape(-1, values.shape[-1]))


def gather(layer: Any, number: int, values: Floats, sampling: Sampling, part: slice) -> Floats:
    """Rows that the layer's kernel multiplies, cut out of its input (B, H, W, C) or (B, inputs)."""
    if values.ndim == 2:
        return values
    height, width = layer.kernel_size
    down, right = layer.dilation_rate
    places = sampling.places(number, *values.shape[1:3])[part]
    above, left = down * (height // 2), right * (width // 2)
    padded = np.pad(values, ((0, 0), (above, above), (left, left), (0, 0)))
    image = np.arange(len(values))[:, None, None, None]
    rows = places[:, :, 0, None, None] + down * np.arange(height)[:, None]
    columns = places[:, :, 1, None, None] + right * np.arange(width)
    patches = padded[image, rows, columns]
    return np.asarray(patches.reshape(-1, height * width * values.shape[-1]))
