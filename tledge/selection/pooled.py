"""Features of a trunk: the means of the feature maps behind three of its poolings, for all images in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.progress import Steps
from tledge.core.types import ComputeType, Labels
from tledge.data.pixels import PixelStore
from tledge.model.compute import computing_in
from tledge.model.vgg16 import BLOCKS, build
from tledge.model.weights import TrunkWeights

if TYPE_CHECKING:
    import keras

DEPTHS = ("block3_pool", "block4_pool", "block5_pool")
WIDTHS = tuple(BLOCKS[int(depth[len("block")]) - 1][-1] for depth in DEPTHS)
WIDTH = sum(WIDTHS)
_BATCH = 16


def at_depth(features: NDArray[np.float32], depth: str) -> NDArray[np.float32]:
    """The columns of one depth: (N, 1280) to (N, 256) or (N, 512)."""
    start = sum(WIDTHS[: DEPTHS.index(depth)])
    return features[:, start : start + WIDTHS[DEPTHS.index(depth)]]


def trunk_of(weights: TrunkWeights, image_size_px: int) -> keras.Model:
    """VGG16 with these weights, of which only the trunk is looked at."""
    return build(2, image_size_px, "gap", weights)


def pooled_features(
    model: keras.Model,
    pixels: PixelStore,
    indices: Labels,
    compute: ComputeType,
    progress: Steps = lambda *_: None,
) -> NDArray[np.float32]:
    """Run images through a trunk once and average the maps behind each of `DEPTHS`.

    Args:
        model: a model of `tledge.model.vgg16.build`, with any head.
        pixels: decoded images of the model's input size.
        indices: which of them, (N,).
        compute: what the layers multiply in.
        progress: called with (images done, images in all).

    Returns:
        (N, 1280) float32: 256 numbers of block 3, 512 of block 4, 512 of block 5.
    """
    tf, keras = require_tensorflow()
    values = np.empty((len(indices), WIDTH), np.float32)
    with computing_in(model, compute):
        pooled = keras.Model(model.input, [model.get_layer(depth).output for depth in DEPTHS])
        call = tf.function(
            lambda x: tf.concat(
                [tf.reduce_mean(tf.cast(maps, tf.float32), (1, 2)) for maps in pooled(x, training=False)], axis=1
            ),
            reduce_retracing=True,
        )
        done = 0
        for batch in pixels.batches(indices, _BATCH):
            values[done : done + len(batch)] = call(tf.constant(batch, tf.float32)).numpy()
            done += len(batch)
            progress(done, len(indices))
    return values
