"""ONNX: a direct graph for float32; for int8 QDQ, by onnxruntime's static quantization or with learned ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.conversion.format import ExportRequest, Format
from tledge.conversion.onnx_graph import INPUT, float_graph
from tledge.conversion.onnx_int8 import measure_ranges, quantize_static, quantize_with_learned_ranges
from tledge.core.dependencies import require
from tledge.formats.operators import count_onnx_ops

if TYPE_CHECKING:
    import onnx


def convert(request: ExportRequest) -> bytes:
    """Convert an inference model to ONNX.

    Returns:
        The file's content; float32 takes float32 pixels, int8 takes uint8 pixels, both 0..255, of any batch
        size unless the request fixes it.
    """
    proto = float_graph(request.model)
    if request.precision == "int8":
        if request.ranges is None:
            measured = measure_ranges(proto, request.calibration) if request.calibrated is None else request.calibrated
            proto = quantize_static(
                proto, measured, reduce_range=request.reduce_range, float_layers=request.float_layers
            )
        else:
            proto = quantize_with_learned_ranges(proto, request.ranges, request.reduce_range)
        proto = _take_bytes(proto)
    if request.batch is not None:
        _fix_batch(proto, request.batch)
    _embed(proto, request)
    require("onnx").checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def calibrate(request: ExportRequest) -> Any:
    """Activation ranges on the calibration images, for `ExportRequest.calibrated` of this format."""
    return measure_ranges(float_graph(request.model), request.calibration)


def _take_bytes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Let a QDQ graph take uint8 pixels: dequantizing with scale 1 and zero point 0 is their exact float value.

    It stands behind the transpose, which then moves bytes instead of floats.
    """
    onnx = require("onnx")
    graph = proto.graph
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    transpose = next(node for node in graph.node if INPUT in node.input)
    widened = transpose.output[0]
    transpose.output[0] = f"{widened}/bytes"
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.0), "pixels/scale"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(0), "pixels/zero_point"))
    widen = onnx.helper.make_node(
        "DequantizeLinear", [transpose.output[0], "pixels/scale", "pixels/zero_point"], [widened], name="pixels"
    )
    graph.node.insert(list(graph.node).index(transpose) + 1, widen)
    return proto


def _fix_batch(proto: onnx.ModelProto, batch: int) -> None:
    """Fix the batch of input and output, which compiling execution providers (NNAPI, Core ML) ask for."""
    shapes = require("onnxruntime.tools.onnx_model_utils")
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    shapes.make_input_shape_fixed(proto.graph, INPUT, [batch, *(size.dim_value for size in sizes[1:])])
    shapes.fix_output_shapes(proto)


def _embed(proto: onnx.ModelProto, request: ExportRequest) -> None:
    preprocessing = {"color": "RGB", "layout": "NHWC", "range": [0, 255], "mean": [0.0], "std": [1.0]}
    entries: Mapping[str, Any] = {
        "labels": list(request.labels),
        "preprocessing": preprocessing,
        "tledge": dict(request.lineage),
    }
    del proto.metadata_props[:]  # what the quantizer noted for itself
    for key, value in entries.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, sort_keys=True, ensure_ascii=False)


FORMAT: Format = Format(
    suffix=".onnx",
    precisions=("float32", "int8"),
    convert=convert,
    calibrate=calibrate,
    count_ops=count_onnx_ops,
    int8_output="float32",  # integer kernels of onnxruntime end before the softmax
    reduces_range=True,
    fixes_batch=True,
)
