"""The reference model: RGB pixels in, class probabilities out.

Architecture: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015.
The layers carry the names of `keras.applications.VGG16`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.types import HeadName
from tledge.model.preprocessing import MEAN_BGR, preprocessing_layer
from tledge.model.weights import TrunkWeights

if TYPE_CHECKING:
    import keras

BLOCKS: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
CONV_LAYERS = tuple(f"block{b}_conv{c}" for b, block in enumerate(BLOCKS, 1) for c in range(1, len(block) + 1))

# Position in this tuple = layer index of keras.applications.VGG16: 0 input … 14 block4_pool … 18 block5_pool.
TRUNK_LAYERS = (
    "input",
    *(
        name
        for b, block in enumerate(BLOCKS, 1)
        for name in (*(f"block{b}_conv{c}" for c in range(1, len(block) + 1)), f"block{b}_pool")
    ),
)

MIN_IMAGE_SIZE_PX = 32
FC1_UNITS = 100


def build(
    classes: int, image_size_px: int, head: HeadName, weights: TrunkWeights | None = None, seed: int = 0
) -> keras.Model:
    """Build preprocessing, trunk and head as one functional model.

    Args:
        classes: number of classes, at least 2.
        image_size_px: side of the square input, at least 32.
        head: `flatten` (Dense 100 relu `fc1`, then softmax `prediction`) or `gap` (mean of block5, then softmax).
        weights: trunk weights; None starts from He-normal random ones, without which a net this deep and without
            batch normalisation does not start to learn (He et al. 2015).
        seed: of every random initial value.

    Returns:
        A model from (N, S, S, 3) float32 RGB pixels in 0..255 to (N, classes) probabilities.

    Raises:
        SettingsError: fewer than two classes, or an input that five poolings reduce to nothing.
    """
    if classes < 2:
        raise SettingsError(f"expected at least 2 classes, but got {classes}; add a class folder")
    if image_size_px < MIN_IMAGE_SIZE_PX:
        raise SettingsError(
            f"expected an image size of at least {MIN_IMAGE_SIZE_PX} px, since VGG16 halves it five times, "
            f"but got {image_size_px}; choose a larger one"
        )
    _, keras = require_tensorflow()
    pixels = keras.Input((image_size_px, image_size_px, 3), name="input")
    # Multiplying by 0 and 1 is exact in float32, so this equals keras.applications.vgg16.preprocess_input bit for bit.
    swap, means = np.eye(3, dtype=np.float32)[::-1], [-mean for mean in MEAN_BGR]
    preprocessed = preprocessing_layer((image_size_px, image_size_px, 3), swap, means)(pixels)
    features = _trunk(keras, preprocessed, seed if weights is None else None)
    model = keras.Model(pixels, _head(keras, features, classes, head, seed), name="vgg16")
    if weights is not None:
        for name in CONV_LAYERS:
            model.get_layer(name).set_weights(list(weights.tensors[name]))
    return model


def _trunk(keras: Any, x: Any, seed: int | None) -> Any:
    """The trunk on `x`; random where a seed is given.

    Without one it starts from zeros, since known weights take their place, here and whenever the saved model is loaded:
    random ones, drawn in vain, take longer than all else of loading.
    """
    for b, block in enumerate(BLOCKS, 1):
        for c, filters in enumerate(block, 1):
            initializer = (
                keras.initializers.Zeros() if seed is None else keras.initializers.HeNormal(seed=seed + 10 * b + c)
            )
            x = keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                kernel_initializer=initializer,
                name=f"block{b}_conv{c}",
            )(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{b}_pool")(x)
    return x


def _head(keras: Any, x: Any, classes: int, head: HeadName, seed: int) -> Any:
    initializer = keras.initializers.GlorotUniform(seed=seed + 1)
    if head == "gap":
        x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    else:
        x = keras.layers.Flatten(name="flatten")(x)
        x = keras.layers.Dense(
            FC1_UNITS, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed=seed), name="fc1"
        )(x)
    return keras.layers.Dense(classes, activation="softmax", kernel_initializer=initializer, name="prediction")(x)


def frozen_layer_count(freeze_until: str) -> int:
    """Turn a cut point into the number of frozen layers, counted as `keras.applications.VGG16` counts them.

    Args:
        freeze_until: a layer's name, itself still frozen, or a number of layers from 0 (none) to 19 (the whole trunk).

    Raises:
        SettingsError: neither a trunk layer nor a number in that range.
    """
    if freeze_until in TRUNK_LAYERS:
        return TRUNK_LAYERS.index(freeze_until) + 1
    if freeze_until.isdecimal() and int(freeze_until) <= len(TRUNK_LAYERS):
        return int(freeze_until)
    raise SettingsError(
        f"expected a VGG16 layer ({TRUNK_LAYERS[0]} … {TRUNK_LAYERS[-1]}) or a number of layers from 0 to "
        f"{len(TRUNK_LAYERS)} to freeze, but got {freeze_until!r}; the default is block4_pool"
    )
