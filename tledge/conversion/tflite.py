"""TFLite: TensorFlow's converter, then metadata that phone apps read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.conversion.format import ExportRequest, Format
from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.types import PRECISIONS
from tledge.formats.operators import TFLITE_MATRIX_OPS, count_tflite_ops
from tledge.formats.tflite import operators_of
from tledge.formats.tflite_metadata import ImageClassifierMetadata, finalize
from tledge.model.inference import matrix_layers
from tledge.model.ranges import PIXELS, ActivationRanges, weight_limits
from tledge.model.vgg16 import PREPROCESSING

if TYPE_CHECKING:
    import keras


def convert(request: ExportRequest) -> bytes:
    """Convert an inference model to TFLite.

    float16 stores half-precision weights, dynamic int8 weights; int8 is full integer with uint8 input and output
    (Jacob et al. 2018), activation ranges taken from training if it learned them, else from the calibration images.

    Returns:
        The file's content with labels, normalisation and lineage embedded.
    """
    tf, _ = require_tensorflow()
    if request.precision == "int8" and (request.float_layers or request.calibrated is not None):
        calibrated = calibrate(request) if request.calibrated is None else request.calibrated
        content = _quantize_calibrated(calibrated, _outputs_of(calibrated, request.model, request.float_layers))
    else:
        with quiet():
            content = _converter(tf, request).convert()
    metadata = ImageClassifierMetadata(
        name=request.name,
        description="VGG16 image classifier; takes raw RGB pixels, preprocessing is part of the model",
        version=str(request.lineage["tledge"]),
        image_size_px=request.model.input_shape[1],
        labels=request.labels,
        lineage=request.lineage,
    )
    return finalize(content, metadata)


def calibrate(request: ExportRequest) -> bytes:
    """The float model with activation ranges in it, for `ExportRequest.calibrated` of this format."""
    tf, _ = require_tensorflow()
    with quiet():
        converter = _converter(tf, request)
        # What `tf.lite.experimental.QuantizationDebugger` sets to get at the model between the two steps.
        converter._experimental_calibrate_only = True
        return bytes(converter.convert())


def _converter(tf: Any, request: ExportRequest) -> Any:
    if request.ranges is None:
        converter = tf.lite.TFLiteConverter.from_keras_model(request.model)
    else:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([_rounded_function(request.model, request.ranges)])
    if request.precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if request.precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if request.precision == "int8":
        if request.ranges is None:
            converter.representative_dataset = lambda: _one_by_one(request)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            # A checksum of the model as it was when the note was written: it would differ between a file converted at
            # once and the same one converted in two steps. The lineage says what the rest of the note says.
            converter.exclude_conversion_metadata = True
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter


def _quantize_calibrated(calibrated: bytes, unrounded: Sequence[str]) -> bytes:
    tf, _ = require_tensorflow()
    with quiet():
        return bytes(
            require("tensorflow.lite.python.convert").mlir_quantize(
                calibrated,
                input_data_type=tf.uint8,
                output_data_type=tf.uint8,
                denylisted_nodes=list(unrounded),
            )
        )


def _outputs_of(calibrated: bytes, model: keras.Model, layers: Sequence[str]) -> list[str]:
    """Names that the converter gave to the outputs of layers: a chain's matrix operators come in the layers' order."""
    outputs = [op.outputs[0].name for op in operators_of(calibrated) if op.name in TFLITE_MATRIX_OPS]
    return [name for name, layer in zip(outputs, matrix_layers(model), strict=True) if layer in layers]


def _one_by_one(request: ExportRequest) -> Iterator[list[np.ndarray[Any, Any]]]:
    for index in range(len(request.calibration)):
        yield [request.calibration[index : index + 1].astype(np.float32)]


def _rounded_function(model: keras.Model, ranges: ActivationRanges) -> Any:
    """Rebuild an inference model with fake quantization, the form that TensorFlow's converter turns to int8.

    Every weight and activation passes a fake quantization node with its range (Jacob et al. 2018); the converter takes
    scales and zero points from there, so nothing is calibrated.

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


FORMAT: Format = Format(
    suffix=".tflite",
    precisions=PRECISIONS,
    convert=convert,
    calibrate=calibrate,
    count_ops=count_tflite_ops,
    int8_output="uint8",
)
