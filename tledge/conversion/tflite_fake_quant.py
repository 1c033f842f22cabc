"""The graph of a model whose rounding was learned in training, in the form that TensorFlow's converter turns to int8.

Every weight and activation passes a fake quantization node with its range (Jacob et al. 2018); the converter takes
scales and zero points from there, so nothing is calibrated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.model.ranges import PIXELS, ActivationRanges, weight_limits
from tledge.model.vgg16 import PREPROCESSING

if TYPE_CHECKING:
    import keras


def rounded_function(model: keras.Model, ranges: ActivationRanges) -> Any:
    """Rebuild an inference model with fake quantization.

    Args:
        model: what `tledge.model.inference.inference_model` returns.
        ranges: of every activation.

    Returns:
        A concrete TensorFlow function without variables, from `image` (1, S, S, 3) float32 0..255 to (1, C)
        probabilities.

    Raises:
        ArtefactError: a layer that has no form here.
        RunError: a range is missing.
    """
    tf, _ = require_tensorflow()
    steps = [_step(tf, layer, ranges) for layer in model.layers[1:]]

    def run(image: Any) -> Any:
        x = _rounded(tf, image, PIXELS)
        for step in steps:
            x = step(x)
        return x

    signature = [tf.TensorSpec(model.input_shape, tf.float32, name="image")]
    return tf.function(run, input_signature=signature, autograph=False).get_concrete_function()


def _rounded(tf: Any, x: Any, limits: tuple[float, float]) -> Any:
    return tf.quantization.fake_quant_with_min_max_vars(x, *limits)


def _rounded_kernel(tf: Any, kernel: Any) -> Any:
    limit = weight_limits(kernel)
    per_output = tf.quantization.fake_quant_with_min_max_vars_per_channel
    fake_quant = per_output if limit.ndim else tf.quantization.fake_quant_with_min_max_vars
    return fake_quant(tf.constant(kernel), -limit, limit, narrow_range=True)


def _step(tf: Any, layer: Any, ranges: ActivationRanges) -> Any:
    kind = type(layer).__name__
    if kind == "Rescaling":
        offset = np.asarray(layer.offset, np.float32)
        return lambda x: _rounded(tf, x + offset, ranges.of(PREPROCESSING))
    if kind == "MaxPooling2D":
        return lambda x: tf.nn.max_pool2d(x, layer.pool_size, layer.strides, layer.padding.upper())
    if kind == "GlobalAveragePooling2D":
        return lambda x: _rounded(tf, tf.reduce_mean(x, (1, 2)), ranges.of(layer.name))
    if kind == "Flatten":
        return lambda x: tf.reshape(x, (1, -1))
    if kind not in ("Conv2D", "Dense"):
        raise ArtefactError(f"expected a chain of VGG16's layers, but {layer.name} is a {kind}")
    kernel, bias = layer.get_weights()
    limits = ranges.of(layer.name)

    def product(x: Any) -> Any:
        if kind == "Dense":
            return tf.matmul(x, _rounded_kernel(tf, kernel)) + bias
        return tf.nn.bias_add(tf.nn.conv2d(x, _rounded_kernel(tf, kernel), layer.strides, layer.padding.upper()), bias)

    activation = layer.activation.__name__
    if activation == "softmax":
        return lambda x: tf.nn.softmax(_rounded(tf, product(x), limits))
    if activation == "relu":
        return lambda x: _rounded(tf, tf.nn.relu(product(x)), limits)
    if activation == "linear":  # the first parts of a layer that was split
        return lambda x: _rounded(tf, product(x), limits)
    raise ArtefactError(f"expected relu, softmax or no activation, but {layer.name} has {activation}")
