"""The same net in Keras 2, which TensorFlow's Model Optimization Toolkit (TFMOT) needs, and the way back.

Only this package imports `tf_keras` and TFMOT, and only when a method needs them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.compression.activations import Floats
from tledge.compression.flat import duplicate, not_flat
from tledge.core.dependencies import quiet, require, require_installed, require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.surroundings import environment
from tledge.core.types import Images
from tledge.model.graph import MATRIX_LAYERS, Call, Graph, Value, graph_of
from tledge.model.inference import activations_split, compute_in_float32

if TYPE_CHECKING:
    import keras

Weights = Mapping[str, tuple[Floats, Floats]]
"""By layer: its kernel and bias."""

_PACKAGES = ("tf_keras", "tensorflow_model_optimization")
_SWITCH = "TF_USE_LEGACY_KERAS"

_WINDOW = ("strides", "padding", "data_format")
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "Conv2D": ("filters", "kernel_size", *_WINDOW, "dilation_rate", "groups", "activation"),
    "DepthwiseConv2D": ("kernel_size", *_WINDOW, "dilation_rate", "depth_multiplier", "activation"),
    "Dense": ("units", "activation"),
    "MaxPooling2D": ("pool_size", *_WINDOW),
    "AveragePooling2D": ("pool_size", *_WINDOW),
    "GlobalAveragePooling2D": ("data_format", "keepdims"),
    "GlobalMaxPooling2D": ("data_format", "keepdims"),
    "Flatten": ("data_format",),
    "Reshape": ("target_shape",),
    "ZeroPadding2D": ("padding", "data_format"),
    "Add": (),
    "Multiply": (),
    "Concatenate": ("axis",),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "LeakyReLU": ("negative_slope",),
    "Activation": ("activation",),
}
"""By kind of layer that both Keras have what it is made from."""
_SHOWN = np.linspace(-8, 8, 99, dtype=np.float32).reshape(3, 33)
"""What tells activation functions apart; Keras 2 and 3 have two hard sigmoids."""


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


def no_legacy_form(model: keras.Model) -> str | None:
    """Why `to_legacy` cannot take a model, None if it can."""
    if reason := not_flat(model):
        return reason
    for layer in model.layers[2:]:
        kind = type(layer).__name__
        if layer.weights and kind not in MATRIX_LAYERS:
            return (
                f"expected {', '.join(MATRIX_LAYERS)} as the only layers with weights, but {layer.name} is a {kind}, "
                "which Keras 2 does not train; use low-rank"
            )
    return None


def to_legacy(model: keras.Model) -> Any:
    """Build a flat net of Keras 3 in Keras 2, with the same names and weights.

    Layers that Keras 2 has are its own. What else there is, without weights, is one layer each that calls what Keras 3
    computes.

    Args:
        model: a flat net.

    Returns:
        A `tf_keras` model from preprocessed images (N, H, W, C), see `preprocess`, to logits (N, classes): the softmax
        is left out, so that its loss is exact and its 8-bit form is each format's own.

    Raises:
        SettingsError: another kind of model.
    """
    if reason := no_legacy_form(model):
        raise SettingsError(reason)
    tf_keras, _ = toolkit()
    net = legacy_graph(model)
    preprocessed = tf_keras.Input(model.layers[1].output.shape[1:], name="preprocessed")
    values: dict[Value, Any] = {net.input: preprocessed}
    for call in net.calls:
        layer = legacy_layer(call)
        tensors = [values[value] for value in call.inputs]
        found = layer(tensors if len(tensors) > 1 else tensors[0])
        values.update(zip(call.outputs, found if isinstance(found, list) else [found], strict=True))
        if call.kind in MATRIX_LAYERS:
            layer.set_weights(call.layer.get_weights())
    return tf_keras.Model(preprocessed, values[net.output], name=model.name)


def legacy_graph(model: keras.Model) -> Graph:
    """A flat net from what its preprocessing makes to its logits, of copies of its layers.

    Activations that layers have inside are calls of their own but for ReLU.
    """
    graph = activations_split(graph_of(duplicate(model)))
    for call in graph.calls:
        compute_in_float32(call)
    first, *rest = graph.calls
    calls = tuple(call for call in rest if graph.logits not in call.inputs)
    return Graph(graph.input_shape, first.output, calls, graph.logits)


def legacy_layer(call: Call) -> Any:
    """A layer of Keras 2, without weights, for a call: its own, or one that lets Keras 3 compute."""
    tf_keras, _ = toolkit()
    own = _own_layer(tf_keras, call)
    return _foreign_layer(tf_keras, call) if own is None else own


def _own_layer(tf_keras: Any, call: Call) -> Any:
    """The layer of Keras 2 that computes what a call does, None if there is none."""
    _, keras = require_tensorflow()
    if call.kind == "Add" and len(call.inputs) == len(keras.tree.flatten(call.args)):
        return tf_keras.layers.Add(name=call.name)
    if not isinstance(call.layer, keras.layers.Layer) or call.kind not in _SETTINGS:
        return None
    config = call.layer.get_config()
    settings = {name: config[name] for name in _SETTINGS[call.kind]}
    if "activation" in settings:
        function = _same_function(tf_keras, call.layer.activation)
        if function is None:
            return None
        settings["activation"] = function
    # Of the other ReLU each Keras names the slope differently.
    kind = "ReLU" if call.kind == "LeakyReLU" else call.kind
    return getattr(tf_keras.layers, kind)(**settings, name=call.name)


def _same_function(tf_keras: Any, activation: Any) -> Any:
    """The activation function of Keras 2 of the same name, None if there is none or if it computes something else."""
    try:
        function = tf_keras.activations.get(activation.__name__)
    except ValueError:
        return None
    tf, _ = require_tensorflow()
    shown = tf.constant(_SHOWN)
    same = np.allclose(function(shown), activation(shown), rtol=0, atol=1e-6)
    return function if same else None


def _foreign_layer(tf_keras: Any, made: Call) -> Any:
    tf, keras = require_tensorflow()
    apply = tf.autograph.experimental.do_not_convert(made.apply)

    class Foreign(tf_keras.layers.Layer):  # type: ignore[misc]
        """Calls a layer or an operation of Keras 3, which take TensorFlow's tensors."""

        def call(self, inputs: Any) -> Any:
            """What Keras 3 makes of one tensor or a list of them."""
            values = zip(made.inputs, tf.nest.flatten(inputs), strict=True)
            found = keras.tree.flatten(apply(dict(values)))
            return found if len(found) > 1 else found[0]

    return Foreign(name=made.name)


def preprocess(model: keras.Model, images: Images) -> Floats:
    """Do what the model's preprocessing layer does: (N, H, W, C) uint8 pixels to float32."""
    matrix, offset = model.layers[1].get_weights()
    return np.asarray(images.astype(np.float32) @ matrix + offset, np.float32)


def weights_of(model: Any) -> dict[str, tuple[Floats, Floats]]:
    """Kernels and biases of a net without wrappers, of either Keras, by layer."""
    return {layer.name: tuple(layer.get_weights()) for layer in model.layers if type(layer).__name__ in MATRIX_LAYERS}


def set_weights(legacy: Any, weights: Weights) -> None:
    """Set kernels and biases of a net without wrappers, of either Keras."""
    for name, pair in weights.items():
        legacy.get_layer(name).set_weights([np.asarray(value, np.float32) for value in pair])


def with_weights(model: keras.Model, weights: Weights) -> keras.Model:
    """A copy of a flat net with other kernels and biases."""
    copy = duplicate(model)
    set_weights(copy, weights)
    return copy
