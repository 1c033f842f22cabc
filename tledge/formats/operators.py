"""How a file computes: the operators of a .tflite or .onnx file, counted by the dtype they compute on."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.core.dependencies import require
from tledge.formats import tflite

TFLITE_MATRIX_OPS = ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D")
_ONNX_INTEGER_OPS = ("QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat")
_ONNX_FLOAT_OPS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "NhwcFusedConv")
# Kernels that move or select numbers without changing their type.
_ONNX_MOVING_OPS = ("Transpose", "MaxPool", "NhwcMaxPool", "Flatten", "Reshape")


@dataclass(frozen=True)
class OpCount:
    """How a written file computes.

    `by_dtype` counts the runtime's operators as `OP dtype`. `matrix_ops` is the number of convolutions and dense
    layers, `int8_matrix_ops` how many of these multiply integers, `int8_weight_share` the share, 0..1, of their weights
    that are int8; in TFLite without those of depthwise convolutions, which are few and stay float in dynamic range.
    """

    by_dtype: Mapping[str, int]
    matrix_ops: int
    int8_matrix_ops: int
    int8_weight_share: float

    @property
    def int8_share(self) -> float:
        """Share, 0..1, of all operators that compute on integers of 8 bits, or of 16 beside weights of 8."""
        integer = sum(n for key, n in self.by_dtype.items() if key.endswith(("int8", "int16")))
        return integer / max(1, sum(self.by_dtype.values()))


def count_tflite_ops(path: Path) -> OpCount:
    """Count the operators of a TFLite file by the dtype they compute on."""
    counts: Counter[str] = Counter()
    matrix = integer = 0
    sizes: Counter[bool] = Counter()
    for op in tflite.operators_of(path.read_bytes()):
        # QUANTIZE turns floats into integers and DEQUANTIZE back: the output says which side the op computes on.
        counts[f"{op.name} {(op.outputs or op.inputs)[0].dtype.lower()}"] += 1
        if op.name in TFLITE_MATRIX_OPS:
            pixels, weights = op.inputs[:2]
            is_int8 = weights.dtype == "INT8"
            matrix += 1
            if op.name != "DEPTHWISE_CONV_2D":
                sizes[is_int8] += int(np.prod(weights.shape))
            integer += is_int8 and pixels.dtype in ("INT8", "UINT8", "INT16")
    return OpCount(dict(sorted(counts.items())), matrix, integer, sizes[True] / max(1, sizes.total()))


def count_onnx_ops(path: Path) -> OpCount:
    """Count the kernels onnxruntime really runs for a file, after its own fusions, by the dtype they compute on."""
    ort, onnx = require("onnxruntime"), require("onnx")
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder:
        fused = Path(folder) / "fused.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(fused)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(fused)).graph
    dtypes = {tensor.name: tensor.data_type for tensor in graph.initializer}
    integers = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    dtypes |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    counts: Counter[str] = Counter()
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    matrix = integer = weights = int8_weights = 0
    for node in graph.node:
        if node.op_type in _ONNX_INTEGER_OPS or node.op_type.startswith("QLinear") or node.op_type == "QuantizeLinear":
            computes_on = onnx.TensorProto.INT8
        elif node.op_type in _ONNX_MOVING_OPS:
            computes_on = dtypes[node.input[0]]
        else:
            computes_on = onnx.TensorProto.FLOAT
        dtypes |= dict.fromkeys(node.output, computes_on)
        counts[f"{node.op_type} {'int8' if computes_on in integers else 'float32'}"] += 1
        if node.op_type in _ONNX_INTEGER_OPS + _ONNX_FLOAT_OPS:
            matrix += 1
            integer += node.op_type in _ONNX_INTEGER_OPS
            kernels = sorted((sizes[name], dtypes[name] in integers) for name in node.input if name in sizes)
            size, is_int8 = kernels[-1] if kernels else (0, False)
            weights += size
            int8_weights += size * is_int8
    return OpCount(dict(sorted(counts.items())), matrix, integer, int8_weights / max(1, weights))


COUNTERS: Mapping[str, Callable[[Path], OpCount]] = {
    ".tflite": count_tflite_ops,
    ".onnx": count_onnx_ops,
    ".ort": count_onnx_ops,
}
"""By file suffix."""
