"""A start from which a deep net without batch normalisation learns."""

from __future__ import annotations

from typing import Any

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.training.task import TrainingTask

_IMAGES = 64
_PIXELS = _IMAGES * 64 * 64


def scale_to_unit_variance(task: TrainingTask) -> None:
    """Scale each layer's random kernel so that, before its activation, the layer puts out values of variance 1.

    D. Mishkin and J. Matas, "All You Need Is a Good Init", 2016 (LSUV), here on the He-normal start of the model.
    Pixels of up to 255 would otherwise arrive at the softmax a hundred times too large, where the loss has no slope.
    Layers are scaled from input to output, on up to 64 training images.
    """
    tf, keras = require_tensorflow()
    count = max(8, min(_IMAGES, _PIXELS // task.pixels.size_px**2))
    chosen = np.random.default_rng(task.seed).permutation(task.train[0])[:count]
    x: Any = tf.constant(task.pixels.take(chosen), tf.float32)
    for layer in task.model.layers[1:]:
        if layer.trainable and layer.weights:
            activation, layer.activation = layer.activation, keras.activations.linear
            deviation = float(np.std(layer(x).numpy()))
            layer.activation = activation
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel / deviation, bias])
        x = layer(x)
