"""Quantize an ONNX graph to int8 (QDQ): ranges are measured on calibration images, or were learned in training.

Measured ranges go through onnxruntime's static quantizer. Measuring and quantizing are two steps, as in
`onnxruntime.quantization.quantize_static`, whose parts are called here: several files with other layers in float then
come out of one calibration. With learned ranges every tensor that the training rounded gets a QuantizeLinear and a
DequantizeLinear with the same scale, so that onnxruntime fuses each layer into one integer kernel.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.conversion.onnx_graph import INPUT
from tledge.core.dependencies import quiet, require
from tledge.core.types import Images
from tledge.model.ranges import LEVELS, REDUCED_WEIGHT_LEVELS, WEIGHT_LEVELS, ActivationRanges, weight_limits
from tledge.model.vgg16 import PREPROCESSING

if TYPE_CHECKING:
    import onnx

_CALIBRATION_BATCH = 8
# The softmax of a classifier is a few numbers: in float its probabilities are not rounded to 1/256.
_QUANTIZED_OPS = ["Add", "Conv", "MaxPool", "GlobalAveragePool", "Flatten", "Gemm", "Relu"]
_INT8_LOWEST = -128
_MATRIX = ("Conv", "Gemm")
_MOVING = ("MaxPool", "Flatten")


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
    for node in [node for node in graph.node if node.op_type in _MATRIX and node.name in float_layers]:
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


def quantize_with_learned_ranges(
    proto: onnx.ModelProto, ranges: ActivationRanges, reduce_range: bool
) -> onnx.ModelProto:
    """Insert quantization into a float graph.

    Args:
        proto: what `float_graph` returns.
        ranges: of every activation.
        reduce_range: give weights 7 of the 8 bits.

    Returns:
        A new model with the same input and output.

    Raises:
        RunError: a range is missing.
    """
    onnx = require("onnx")
    writer = _Writer(proto, WEIGHT_LEVELS if not reduce_range else REDUCED_WEIGHT_LEVELS)
    activated = {layer for layer, _, part in (node.name.partition("/") for node in proto.graph.node) if part == "relu"}
    for node in proto.graph.node:
        layer, _, part = node.name.partition("/")
        if node.op_type in _MATRIX:
            writer.matrix(node, layer)
            if layer not in activated:  # the last layer, and the first parts of one that was split
                writer.round(node, *ranges.of(layer))
        elif node.op_type == "Add":
            writer.append(node)
            writer.round(node, *ranges.of(PREPROCESSING))
        elif node.op_type == "GlobalAveragePool" or part == "relu":
            writer.append(node)
            writer.round(node, *ranges.of(layer))
        else:
            writer.append(node)
            if node.op_type in _MOVING:
                writer.round_again(node)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(proto)
    for field in (quantized.graph.node, quantized.graph.initializer, quantized.graph.value_info):
        del field[:]
    quantized.graph.node.extend(writer.nodes)
    quantized.graph.initializer.extend(writer.initializers)
    return onnx.shape_inference.infer_shapes(quantized, strict_mode=True)


class _Writer:
    """The new graph's nodes and initialisers so far; `round` remembers the last activation's scale."""

    def __init__(self, proto: Any, weight_levels: int) -> None:
        onnx = require("onnx")
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._weight_levels = weight_levels
        self._renamed: dict[str, str] = {}
        self._scale = np.float32(1)
        self._parameters: tuple[str, str] | None = None
        self._array = onnx.numpy_helper.to_array

    def append(self, node: Any) -> None:
        """Copy a node; its inputs are what earlier insertions made of them."""
        copied = type(node)()
        copied.CopyFrom(node)
        for index, name in enumerate(copied.input):
            copied.input[index] = self._renamed.get(name, name)
            if name in self._constants:
                self.initializers.append(self._constants[name])
        self.nodes.append(copied)

    def round(self, node: Any, low: float, high: float) -> None:
        """Round the output of a node to 8 bits of a range, as TensorFlow's fake quantization does."""
        self._scale = np.float32((high - low) / LEVELS)
        zero = np.int8(np.clip(round(-low / float(self._scale)), 0, LEVELS) + _INT8_LOWEST)
        name = node.output[0]
        self._parameters = (self._constant(f"{name}/scale", self._scale), self._constant(f"{name}/zero_point", zero))
        self.round_again(node)

    def round_again(self, node: Any) -> None:
        """Round with the parameters of the tensor before: the node only moved or chose values."""
        assert self._parameters is not None
        name = node.output[0]
        self._node("QuantizeLinear", [name, *self._parameters], f"{name}/int8")
        self._node("DequantizeLinear", [f"{name}/int8", *self._parameters], f"{name}/rounded")
        self._renamed[name] = f"{name}/rounded"

    def matrix(self, node: Any, layer: str) -> None:
        """Copy a convolution or dense layer with int8 weights and an int32 bias."""
        weights, bias = (self._array(self._constants[name]) for name in node.input[1:])
        # Outputs come first here and last in Keras, whose form the limits are defined for.
        scale = np.asarray(weight_limits(np.moveaxis(weights, 0, -1)) / self._weight_levels, np.float32)
        per_output = scale.reshape(-1, *[1] * (weights.ndim - 1)) if scale.ndim else scale
        integers = np.clip(np.rint(weights / per_output), -self._weight_levels, self._weight_levels).astype(np.int8)
        kernel = self._dequantized(f"{layer}/kernel", integers, scale)
        bias_scale = np.asarray(np.float64(self._scale) * scale, np.float32)
        limit = np.iinfo(np.int32).max
        sums = np.clip(np.rint(bias.astype(np.float64) / bias_scale), -limit, limit).astype(np.int32)
        copied = type(node)()
        copied.CopyFrom(node)
        copied.input[0] = self._renamed.get(node.input[0], node.input[0])
        copied.input[1], copied.input[2] = kernel, self._dequantized(f"{layer}/bias", sums, bias_scale)
        self.nodes.append(copied)

    def _dequantized(self, name: str, integers: NDArray[Any], scale: NDArray[np.float32]) -> str:
        zero = np.zeros(scale.shape, integers.dtype)
        inputs = [
            self._constant(f"{name}/int", integers),
            self._constant(f"{name}/scale", scale),
            self._constant(f"{name}/zero_point", zero),
        ]
        self._node("DequantizeLinear", inputs, f"{name}/rounded", axis=0)
        return f"{name}/rounded"

    def _constant(self, name: str, value: Any) -> str:
        self.initializers.append(
            require("onnx").numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name)
        )
        return name

    def _node(self, op: str, inputs: list[str], output: str, **attributes: int) -> None:
        self.nodes.append(require("onnx").helper.make_node(op, inputs, [output], name=output, **attributes))
