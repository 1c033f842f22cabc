"""Quantize an ONNX graph to int8 (QDQ) with ranges measured on calibration images, by onnxruntime's static quantizer.

Measuring and quantizing are two steps, as in `onnxruntime.quantization.quantize_static`, whose parts are called here:
several files with other layers in float then come out of one calibration.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.conversion.onnx_graph import INPUT
from tledge.core.dependencies import quiet, require
from tledge.core.types import Images

if TYPE_CHECKING:
    import onnx

_CALIBRATION_BATCH = 8
# The softmax of a classifier is a few numbers: in float its probabilities are not rounded to 1/256.
_QUANTIZED_OPS = ["Add", "Conv", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm", "Relu"]


class _Calibration:
    """Feeds calibration images to onnxruntime's calibrator in small batches."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._next = 0

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        batch = self._images[self._next : self._next + _CALIBRATION_BATCH]
        self._next += _CALIBRATION_BATCH
        return {INPUT: batch.astype(np.float32)} if len(batch) else None


def measure_ranges(proto: onnx.ModelProto, images: Images) -> Any:
    """Run a float graph over calibration images.

    Args:
        proto: what `float_graph` returns.
        images: (N, S, S, 3) uint8, N at least 1.

    Returns:
        Least and largest value of every activation, in the form that `quantize_static` takes.
    """
    quantization, calibrate = require("onnxruntime.quantization"), require("onnxruntime.quantization.calibrate")

    class Reader(_Calibration, quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """onnxruntime insists on a subclass of its reader."""

    with tempfile.TemporaryDirectory(prefix="tledge-") as folder, quiet():
        source = Path(folder) / "float.onnx"
        source.write_bytes(proto.SerializeToString())
        augmented = Path(folder) / "augmented.onnx"
        calibrator = calibrate.create_calibrator(source, _QUANTIZED_OPS, augmented_model_path=str(augmented))
        calibrator.collect_data(Reader(images))
        return calibrator.compute_data()


def quantize_static(
    proto: onnx.ModelProto, ranges: Any, *, reduce_range: bool, float_layers: Sequence[str] = ()
) -> onnx.ModelProto:
    """Insert quantization into a float graph.

    Args:
        proto: what `float_graph` returns; it is left as it is.
        ranges: what `measure_ranges` returned for it.
        reduce_range: give weights 7 of the 8 bits.
        float_layers: names of layers that go on computing in float32; what goes in and comes out is still rounded
            where the neighbour computes in int8.

    Returns:
        A new model with the same input and output.
    """
    quantization, onnx = require("onnxruntime.quantization"), require("onnx")
    qdq = require("onnxruntime.quantization.qdq_quantizer")
    unrounded = [node.name for node in proto.graph.node if node.name.partition("/")[0] in float_layers]
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder, quiet():
        quantizer = qdq.QDQQuantizer(
            copy.deepcopy(proto),
            per_channel=True,
            reduce_range=reduce_range,
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QInt8,
            tensors_range=ranges,
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
    for node in [node for node in graph.node if node.op_type in ("Conv", "Gemm") and node.name in float_layers]:
        before = producers.get(node.input[0])
        if before is None or before.op_type != "DequantizeLinear":
            continue
        scale, zero_point = constants[before.input[1]], constants[before.input[2]].astype(np.int32)
        limits = (np.asarray([np.iinfo(np.int8).min, np.iinfo(np.int8).max]) - zero_point).astype(np.float32) * scale
        name = f"{node.name}/input"
        bounds = [f"{name}/lowest", f"{name}/highest"]
        for bound, limit in zip(bounds, limits, strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(limit, np.float32), bound))
        clip = onnx.helper.make_node("Clip", [node.input[0], *bounds], [name], name=name)
        graph.node.insert(list(graph.node).index(node), clip)
        node.input[0] = name
