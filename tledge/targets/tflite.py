"""TFLite: TensorFlow's converter, then metadata that phone apps read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tledge.dependencies import quiet, require, require_tensorflow
from tledge.targets.contract import ExportRequest, OpCount
from tledge.targets.tflite_fake_quant import rounded_function
from tledge.targets.tflite_metadata import ImageClassifierMetadata, finalize

_MATRIX_OPS = ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D")


def convert(request: ExportRequest) -> bytes:
    """Convert an inference model to TFLite.

    float16 stores half-precision weights, dynamic int8 weights; int8 is full integer with uint8 input and output
    (Jacob et al. 2018), activation ranges taken from training if it learned them, else from the calibration images.

    Returns:
        The file's content with labels, normalisation and lineage embedded.
    """
    tf, _ = require_tensorflow()
    with quiet():
        converter = _converter(tf, request)
        if request.precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if request.precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if request.precision == "int8":
            if request.ranges is None:
                converter.representative_dataset = lambda: _one_by_one(request)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        content = converter.convert()
    metadata = ImageClassifierMetadata(
        name=request.name,
        description="VGG16 image classifier; takes raw RGB pixels, preprocessing is part of the model",
        version=str(request.lineage["tledge"]),
        image_size_px=request.model.input_shape[1],
        labels=request.labels,
        lineage=request.lineage,
    )
    return finalize(content, metadata)


def _converter(tf: Any, request: ExportRequest) -> Any:
    if request.ranges is None:
        return tf.lite.TFLiteConverter.from_keras_model(request.model)
    return tf.lite.TFLiteConverter.from_concrete_functions([rounded_function(request.model, request.ranges)])


def _one_by_one(request: ExportRequest) -> Iterator[list[np.ndarray[Any, Any]]]:
    for index in range(len(request.calibration)):
        yield [request.calibration[index : index + 1].astype(np.float32)]


def count_ops(path: Path) -> OpCount:
    """Count the operators of a TFLite file by the dtype they compute on."""
    schema = require("ai_edge_litert.schema_py_generated")
    op_names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    dtypes = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    counts: Counter[str] = Counter()
    matrix = integer = 0
    sizes: Counter[bool] = Counter()
    for index in range(graph.OperatorsLength()):
        op = graph.Operators(index)
        code = model.OperatorCodes(op.OpcodeIndex())
        name = op_names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        # QUANTIZE turns floats into integers and DEQUANTIZE back: the output says which side the op computes on.
        dtype = dtypes[graph.Tensors(op.Outputs(0)).Type()]
        counts[f"{name} {dtype}"] += 1
        if name in _MATRIX_OPS:
            weights = graph.Tensors(op.Inputs(1))
            is_int8 = dtypes[weights.Type()] == "int8"
            matrix += 1
            sizes[is_int8] += int(np.prod(weights.ShapeAsNumpy()))
            integer += is_int8 and dtypes[graph.Tensors(op.Inputs(0)).Type()] in ("int8", "uint8")
    return OpCount(dict(sorted(counts.items())), matrix, integer, sizes[True] / max(1, sizes.total()))
