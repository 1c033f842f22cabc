"""Look into an ONNX file with onnxruntime: a copy of the graph in memory gets further outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError
from tledge.formats.activations import Floats, Tap

_MATRIX_OPS = ("Conv", "Gemm", "MatMul")
_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class OnnxActivations:
    """Taps of a QDQ graph are its integer tensors: floats as outputs would keep onnxruntime from fusing the kernels."""

    def __init__(self, path: Path) -> None:
        onnx, ort = require("onnx"), require("onnxruntime")
        proto = onnx.load(str(path))
        self.taps = _taps(proto.graph)
        known = {output.name for output in proto.graph.output}
        names = [name for name in dict.fromkeys(str(tap.key) for tap in self.taps) if name not in known]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        options = ort.SessionOptions()
        options.intra_op_num_threads = available_cores()
        options.log_severity_level = 4
        self._session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]

    def of(self, image: NDArray[np.uint8]) -> list[Floats]:
        """What every tap holds for one image (S, S, 3), channels last."""
        pixels = np.ascontiguousarray(image[None], _DTYPES[self._input.type])
        values = self._session.run([str(tap.key) for tap in self.taps], {self._input.name: pixels})
        floats = [tap.dequantize(value) for tap, value in zip(self.taps, values, strict=True)]
        return [value.transpose(0, 2, 3, 1) if value.ndim == 4 else value for value in floats]


def taps_of(path: Path) -> tuple[Tap, ...]:
    """The taps of a file, without a session."""
    return _taps(require("onnx").load(str(path)).graph)


def _taps(graph: Any) -> tuple[Tap, ...]:
    makers = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in reversed(graph.node) for name in node.input}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    taps: list[Tap] = []
    for node in graph.node:
        if node.op_type not in _MATRIX_OPS:
            continue
        if not taps:
            before = makers.get(node.input[0])
            if before is not None and before.op_type == "DequantizeLinear":
                taps.append(_quantized(before, before.input[0], constants))
            else:
                taps.append(Tap(node.input[0]))
        output = node.output[0]
        after = readers.get(output)
        if after is not None and after.op_type == "Relu":
            output = after.output[0]
            after = readers.get(output)
        if after is not None and after.op_type == "QuantizeLinear":
            taps.append(_quantized(after, after.output[0], constants))
        else:
            taps.append(Tap(output))
    return tuple(taps)


def _quantized(node: Any, tensor: str, constants: dict[str, Any]) -> Tap:
    to_array = require("onnx").numpy_helper.to_array
    try:
        scale, zero_point = (to_array(constants[name]) for name in node.input[1:3])
    except (KeyError, ValueError):
        raise ArtefactError(
            f"expected a constant scale and zero point for {tensor}, but the graph has none; export the file again"
        ) from None
    limits = np.iinfo(zero_point.dtype)
    return Tap(tensor, float(scale), int(zero_point), (int(limits.min), int(limits.max)))
