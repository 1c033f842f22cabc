"""What the calibration images show about a model: activations at sampled places, within bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.chain import weighted_layers
from tledge.core.dependencies import require_tensorflow
from tledge.core.types import Images

if TYPE_CHECKING:
    import keras

BATCH = 8
POSITIONS = 48
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """Which places of which images are looked at, the same for every model of one input size.

    `images` are (N, S, S, 3) uint8. Of each map at most `POSITIONS` places per image are sampled, without repetition,
    from a generator seeded by (`seed`, layer).
    """

    images: Images
    seed: int

    def places(self, layer: int, side: int) -> NDArray[np.int64]:
        """Places (N, P, 2) as (row, column) in a map of `side` x `side` for the layer with that number."""
        generator = np.random.default_rng((self.seed, layer))
        count = min(POSITIONS, side * side)
        flat = np.stack([generator.choice(side * side, count, replace=False) for _ in range(len(self.images))])
        return np.stack(np.divmod(flat, side), axis=-1)

    def batches(self) -> Iterator[tuple[slice, Images]]:
        """The images in batches, each with its position."""
        for start in range(0, len(self.images), BATCH):
            part = slice(start, start + BATCH)
            yield part, self.images[part]


def pre_activations(model: keras.Model, sampling: Sampling) -> dict[str, Floats]:
    """Outputs of every weighted layer before its activation function, at the sampled places.

    Returns:
        By layer: (N * P, filters) of a convolution, (N, units) of a dense layer.
    """
    tf, keras = require_tensorflow()
    layers = weighted_layers(model)
    call = tf.function(keras.Model(model.input, [layer.input for layer in layers]), reduce_retracing=True)
    found: dict[str, list[Floats]] = {layer.name: [] for layer in layers}
    for part, images in sampling.batches():
        inputs = call(tf.constant(images, tf.float32))
        for number, (layer, values) in enumerate(zip(layers, inputs, strict=True)):
            rows = gather(layer, number, values.numpy(), sampling, part)
            kernel, bias = layer.get_weights()
            found[layer.name].append(rows @ kernel.reshape(-1, kernel.shape[-1]) + bias)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def input_rows(model: keras.Model, number: int, sampling: Sampling) -> Iterator[Floats]:
    """What the weighted layer with that number sees at the sampled places, batch by batch.

    Yields:
        (B * P, 9 * channels) of a 3x3 convolution, (B, inputs) of a dense layer; columns in the order of its kernel.
    """
    tf, keras = require_tensorflow()
    layer = weighted_layers(model)[number]
    call = tf.function(keras.Model(model.input, layer.input), reduce_retracing=True)
    for part, images in sampling.batches():
        yield gather(layer, number, call(tf.constant(images, tf.float32)).numpy(), sampling, part)


def outputs(model: keras.Model, number: int, sampling: Sampling) -> Iterator[Floats]:
    """What the weighted layer with that number computes before its activation function, batch by batch."""
    kernel, bias = weighted_layers(model)[number].get_weights()
    for rows in input_rows(model, number, sampling):
        yield rows @ kernel.reshape(-1, kernel.shape[-1]) + bias


def at_places(values: Floats, number: int, sampling: Sampling, part: slice) -> Floats:
    """What a map (B, H, W, C) holds at the places sampled for the layer with that number, (B * P, C)."""
    places = sampling.places(number, values.shape[1])[part]
    found = values[np.arange(len(values))[:, None], places[:, :, 0], places[:, :, 1]]
    return np.asarray(found.reshape(-1, values.shape[-1]))


def gather(layer: Any, number: int, values: Floats, sampling: Sampling, part: slice) -> Floats:
    """Rows that the layer's kernel multiplies, cut out of its input (B, H, W, C) or (B, inputs)."""
    if values.ndim == 2:
        return values
    height, width = layer.kernel_size
    places = sampling.places(number, values.shape[1])[part]
    padded = np.pad(values, ((0, 0), (height // 2, height // 2), (width // 2, width // 2), (0, 0)))
    image = np.arange(len(values))[:, None, None, None]
    rows = places[:, :, 0, None, None] + np.arange(height)[:, None]
    columns = places[:, :, 1, None, None] + np.arange(width)
    patches = padded[image, rows, columns]
    return np.asarray(patches.reshape(-1, height * width * values.shape[-1]))
