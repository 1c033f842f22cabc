"""What tledge does to pixels before a model sees them: one layer that mixes and shifts channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tledge.core.dependencies import require_tensorflow

PREPROCESSING = "preprocessing"
"""Name of that layer."""
MEAN_BGR = (103.939, 116.779, 123.68)
"""ImageNet's means of blue, green and red, as VGG16 was trained with."""


def preprocessing_layer(shape: tuple[int, ...], kernel: ArrayLike, offset: ArrayLike) -> Any:
    """A layer that makes `x kernel + offset` of every pixel x.

    Args:
        shape: (height, width, channels) of its input and output.
        kernel: (channels in, channels out).
        offset: (channels out,).
    """
    _, keras = require_tensorflow()
    return keras.layers.EinsumDense(
        "nhwc,cd->nhwd",
        output_shape=shape,
        bias_axes="d",
        kernel_initializer=keras.initializers.Constant(np.asarray(kernel).tolist()),
        bias_initializer=keras.initializers.Constant(np.asarray(offset).tolist()),
        trainable=False,
        name=PREPROCESSING,
    )


def is_for_vgg16(kernel: NDArray[Any], offset: NDArray[Any]) -> bool:
    """Whether such a layer's weights swap red and blue and subtract ImageNet's means, as VGG16 wants it."""
    swaps = np.array_equal(kernel, np.eye(3)[::-1])
    return swaps and np.array_equal(offset, -np.asarray(MEAN_BGR, np.float32))
