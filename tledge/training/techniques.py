"""The three transfer-learning techniques, each a function that reads like the technique."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.core.image_size import height_width
from tledge.core.types import TechniqueName
from tledge.model.compute import computing_in
from tledge.model.vgg16 import TRUNK_LAYERS
from tledge.training import layers
from tledge.training.fit import fit_model, fit_on_pixels, summary
from tledge.training.head import fit_head, start_head
from tledge.training.prefix import compute_prefix, kept_features
from tledge.training.task import Training, TrainingTask

_IMAGES = 64
_PIXELS = _IMAGES * 64 * 64


def feature_extraction(task: TrainingTask) -> Training:
    """Predict the trunk's output once for train and validation images, then train the head on it.

    Donahue et al., "DeCAF: A Deep Convolutional Activation Feature for Generic Visual Recognition", 2014.

    Trunk and head are layers of one model all along, so they are joined without copying anything. Augmentation, which
    would need the trunk again for every epoch, is refused where the training is planned.
    """
    layers.freeze(task.model, until=TRUNK_LAYERS[-1])
    return fit_on_activations(task)


def architecture(task: TrainingTask) -> Training:
    """Train all layers on the pixels, from pre-trained or random weights, whichever the model holds.

    Pre-trained layers wait until the head fits them. Random layers are scaled before, and their learning rate warms up
    and decays: see `tledge.training.fit`.
    """
    layers.freeze(task.model, until=None)
    if task.from_random:
        scale_to_unit_variance(task)
        return fit_on_pixels(task)
    return fit_on_pixels(task, lambda: start_head(task))


def freeze(task: TrainingTask) -> Training:
    """Train what comes after the first `task.frozen_layers` layers.

    Yosinski et al., "How transferable are features in deep neural networks?", 2014.

    Without augmentation the frozen layers see the same pixels every epoch, so their activations are computed once.
    """
    layers.freeze(task.model, until=TRUNK_LAYERS[task.frozen_layers - 1] if task.frozen_layers else None)
    if task.augment or task.frozen_layers <= 1:
        return fit_on_pixels(task, lambda: start_head(task))
    return fit_on_activations(task)


TECHNIQUES: Mapping[TechniqueName, Callable[[TrainingTask], Training]] = {
    "feature-extraction": feature_extraction,
    "architecture": architecture,
    "freeze": freeze,
}


def fit_on_activations(task: TrainingTask) -> Training:
    """Compute the frozen layers' output once, then train the layers after them on it."""
    _, keras = require_tensorflow()
    own = task.model.layers
    first_trained = next(i for i, layer in enumerate(own) if layer.trainable and layer.weights)
    # The layer right before it, be it pooling or flatten, has the smallest tensor that holds all the rest needs.
    cut = own[first_trained - 1].output
    # A switch of the layers' dtype inside another one would be undone too early, so this stands outside.
    kept = kept_features(task, task.features) if task.features and own[first_trained - 1].name == "gap" else None
    with computing_in(task.model, task.compute):
        prefix = kept or compute_prefix(task, keras.Model(task.model.input, cut))
        rest = keras.Model(cut, task.model.output)
        rows = prefix.rows(task)
        if isinstance(own[first_trained], keras.layers.Dense):
            history, best = fit_head(rest, task, prefix.values, *rows)
        else:
            history, best = fit_model(rest, task, prefix.values, *rows, begin=lambda: start_head(task, prefix, cut))
    return summary(task, history, best, prefix)


def scale_to_unit_variance(task: TrainingTask) -> None:
    """Scale each layer's random kernel so that, before its activation, the layer puts out values of variance 1.

    D. Mishkin and J. Matas, "All You Need Is a Good Init", 2016 (LSUV), here on the He-normal start of the model.
    Pixels of up to 255 would otherwise arrive at the softmax a hundred times too large, where the loss has no slope.
    Layers are scaled from input to output, on up to 64 training images.
    """
    tf, keras = require_tensorflow()
    height, width = height_width(task.pixels.size_px)
    count = max(8, min(_IMAGES, _PIXELS // (height * width)))
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
