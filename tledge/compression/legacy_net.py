"""The same chain in Keras 2, which TensorFlow's Model Optimization Toolkit (TFMOT) needs, and the way back.

Only this package imports `tf_keras` and TFMOT, and only when a method needs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.compression.activations import Floats
from tledge.compression.flat import PREDICTION, duplicate, weighted_layers
from tledge.core.dependencies import quiet, require, require_installed, require_tensorflow
from tledge.core.surroundings import environment
from tledge.core.types import Images

if TYPE_CHECKING:
    import keras

Weights = Mapping[str, tuple[Floats, Floats]]
"""By layer: its kernel and bias."""

_PACKAGES = ("tf_keras", "tensorflow_model_optimization")
_SWITCH = "TF_USE_LEGACY_KERAS"


def require_toolkit() -> None:
    """Check, before slow work, that TFMOT and Keras 2 are installed; nothing is loaded.

    Raises:
        MissingDependencyError: one is not; the message names the extra that brings both.
    """
    for package in _PACKAGES:
        require_installed(package)


def toolkit() -> tuple[Any, Any]:
    """Import Keras 2 and TFMOT and leave Keras 3 what it was.

    TFMOT sets the variable that makes `tf.keras` Keras 2, for this process and for those it starts. `tf.keras` is
    bound at its first use, which is here, before the variable is set; then the variable goes back to what it was.

    Returns:
        The modules `tf_keras` and `tensorflow_model_optimization`.

    Raises:
        MissingDependencyError: one is not installed.
    """
    require_toolkit()
    tf, _ = require_tensorflow()
    with environment({_SWITCH: os.environ.get(_SWITCH)}), quiet():
        hasattr(tf.keras, "layers")
        tf_keras = require("tf_keras")
        toolkit_module = require("tensorflow_model_optimization")
    return tf_keras, toolkit_module


def to_legacy(model: keras.Model) -> Any:
    """Build a Keras 3 chain in Keras 2, layer by layer with the same names and weights.

    Args:
        model: a chain that tledge trained.

    Returns:
        A `tf_keras` model from preprocessed images (N, S, S, 3), see `preprocess`, to logits (N, classes): the softmax
        is left out, so that its loss is exact and its 8-bit form is each format's own.

    Raises:
        SettingsError: another kind of model.
    """
    weighted_layers(model)
    tf_keras, _ = toolkit()
    preprocessed = tf_keras.Input(model.input_shape[1:], name="preprocessed")
    x = preprocessed
    for layer in model.layers[2:]:
        copy = _legacy_layer(tf_keras.layers, layer)
        x = copy(x)
        copy.set_weights(layer.get_weights())
    return tf_keras.Model(preprocessed, x, name=model.name)


def _legacy_layer(layers: Any, layer: Any) -> Any:
    kind, name = type(layer).__name__, layer.name
    if kind == "Conv2D":
        return layers.Conv2D(
            layer.filters,
            layer.kernel_size,
            strides=layer.strides,
            padding=layer.padding,
            activation=layer.activation.__name__,
            name=name,
        )
    if kind == "Dense":
        activation = "linear" if name == PREDICTION else layer.activation.__name__
        return layers.Dense(layer.units, activation=activation, name=name)
    if kind == "MaxPooling2D":
        return layers.MaxPooling2D(layer.pool_size, strides=layer.strides, padding=layer.padding, name=name)
    return layers.Flatten(name=name) if kind == "Flatten" else layers.GlobalAveragePooling2D(name=name)


def preprocess(model: keras.Model, images: Images) -> Floats:
    """Do what the model's preprocessing layer does: (N, S, S, 3) uint8 RGB to float32 BGR minus the means."""
    swap, offset = model.layers[1].get_weights()
    return np.asarray(images.astype(np.float32) @ swap + offset, np.float32)


def weights_of(model: Any) -> dict[str, tuple[Floats, Floats]]:
    """Kernels and biases of a chain without wrappers, of either Keras, by layer."""
    return {layer.name: tuple(layer.get_weights()) for layer in model.layers if _has_kernel(layer)}


def _has_kernel(layer: Any) -> bool:
    return type(layer).__name__ in ("Conv2D", "Dense")


def set_weights(legacy: Any, weights: Weights) -> None:
    """Set kernels and biases of a chain without wrappers, of either Keras."""
    for name, pair in weights.items():
        legacy.get_layer(name).set_weights([np.asarray(value, np.float32) for value in pair])


def with_weights(model: keras.Model, weights: Weights) -> keras.Model:
    """A copy of a Keras 3 chain with other kernels and biases."""
    copy = duplicate(model)
    set_weights(copy, weights)
    return copy
