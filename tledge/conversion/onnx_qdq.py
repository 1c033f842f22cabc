"""Quantize an ONNX graph to int8 (QDQ) with ranges that were learned in training: nothing is calibrated here.

Every tensor that the training rounded gets a QuantizeLinear and a DequantizeLinear with the same scale, so onnxruntime
fuses each layer into one integer kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.model.ranges import LEVELS, REDUCED_WEIGHT_LEVELS, WEIGHT_LEVELS, ActivationRanges, weight_limits
from tledge.model.vgg16 import PREPROCESSING

if TYPE_CHECKING:
    import onnx

_INT8_LOWEST = -128
_MATRIX = ("Conv", "Gemm")
_MOVING = ("MaxPool", "Flatten")


def quantize_with_ranges(proto: onnx.ModelProto, ranges: ActivationRanges, reduce_range: bool) -> onnx.ModelProto:
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
        copy = type(node)()
        copy.CopyFrom(node)
        for index, name in enumerate(copy.input):
            copy.input[index] = self._renamed.get(name, name)
            if name in self._constants:
                self.initializers.append(self._constants[name])
        self.nodes.append(copy)

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
        copy = type(node)()
        copy.CopyFrom(node)
        copy.input[0] = self._renamed.get(node.input[0], node.input[0])
        copy.input[1], copy.input[2] = kernel, self._dequantized(f"{layer}/bias", sums, bias_scale)
        self.nodes.append(copy)

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
