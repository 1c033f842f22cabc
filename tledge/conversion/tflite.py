"""TFLite: TensorFlow's converter, then metadata that phone apps read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.conversion.format import ExportRequest, Format
from tledge.conversion.tflite_fake_quant import rounded_function
from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.types import PRECISIONS
from tledge.formats.operators import TFLITE_MATRIX_OPS, count_tflite_ops
from tledge.formats.tflite import operators_of
from tledge.formats.tflite_metadata import ImageClassifierMetadata, finalize
from tledge.model.inference import matrix_layers

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
        converter = tf.lite.TFLiteConverter.from_concrete_functions([rounded_function(request.model, request.ranges)])
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


FORMAT = Format(
    suffix=".tflite",
    precisions=PRECISIONS,
    convert=convert,
    calibrate=calibrate,
    count_ops=count_tflite_ops,
    int8_output="uint8",
)
