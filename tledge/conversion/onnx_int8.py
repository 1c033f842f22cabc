"""Quantize an ONNX graph to int8 (QDQ) with onnxruntime's static quantizer and ranges measured elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tledge.conversion.calibration import Range
from tledge.core.dependencies import quiet, require

if TYPE_CHECKING:
    import onnx

# The softmax of a classifier is a few numbers: in float its probabilities are not rounded to 1/256.
_QUANTIZED_OPS = [
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Mul",
    "Pad",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Transpose",
]
_MATRIX = ("Conv", "Gemm")


def quantize(
    proto: onnx.ModelProto,
    ranges: Mapping[str, Range],
    *,
    reduce_range: bool,
    float_layers: Sequence[str] = (),
) -> onnx.ModelProto:
    """Insert quantization into a float graph.

    Args:
        proto: a float graph; the quantizer works on it in place.
        ranges: least and largest value of every tensor.
        reduce_range: give weights 7 of the 8 bits.
        float_layers: names of nodes that go on computing in float32; what goes in and comes out is still rounded
            where the neighbour computes in int8.

    Returns:
        A model with the same input and output.
    """
    quantization, onnx = require("onnxruntime.quantization"), require("onnx")
    qdq, calibrate = require("onnxruntime.quantization.qdq_quantizer"), require("onnxruntime.quantization.calibrate")
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    unrounded = [node.name for node in proto.graph.node if node.name.partition("/")[0] in float_layers]
    # Bytes as they come: they are rounded by the node that makes floats of them.
    unrounded += [node.name for node in proto.graph.node if node.op_type == "Transpose"]
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder, quiet():
        quantizer = qdq.QDQQuantizer(
            proto,
            per_channel=True,
            reduce_range=reduce_range,
            weight_qType=quantization.QuantType.QInt8,
            # onnxruntime fuses signed activations only where one node reads them: residual additions stayed in float.
            activation_qType=quantization.QuantType.QUInt8,
            tensors_range=calibrate.TensorsData(quantization.CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[],
            nodes_to_exclude=unrounded,
            op_types_to_quantize=_QUANTIZED_OPS,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        quantizer.quantize_model()
        target = Path(folder) / "int8.onnx"
        quantizer.model.save_model_to_file(str(target), False)
        quantized = onnx.load(str(target))
    _keep_float(quantized.graph, float_layers)
    return quantized


def _keep_float(graph: onnx.GraphProto, float_layers: Sequence[str]) -> None:
    """Keep onnxruntime from rounding the weights of a float layer between int8 neighbours when it loads the file.

    Its optimizer (WeightBiasQuantization) gives such a layer 8-bit weights with one scale for all of them, wherever
    DequantizeLinear feeds the layer directly. A Clip to what the 8 bits stand for changes no value and stands between.
    """
    onnx = require("onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in [node for node in graph.node if node.op_type in _MATRIX and node.name in float_layers]:
        before = producers.get(node.input[0])
        if before is None or before.op_type != "DequantizeLinear":
            continue
        scale, zero_point = constants[before.input[1]], constants[before.input[2]]
        integers = np.iinfo(zero_point.dtype)
        limits = (np.asarray([integers.min, integers.max]) - zero_point.astype(np.int32)).astype(np.float32) * scale
        name = f"{node.name}/input"
        bounds = [f"{name}/lowest", f"{name}/highest"]
        for bound, limit in zip(bounds, limits, strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(limit, np.float32), bound))
        clip = onnx.helper.make_node("Clip", [node.input[0], *bounds], [name], name=name)
        graph.node.insert(list(graph.node).index(node), clip)
        node.input[0] = name
