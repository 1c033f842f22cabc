"""Outputs of an artefact's convolutions and dense layers, in one shape for both formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import quiet, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError
from tledge.formats import tflite
from tledge.formats.operators import TFLITE_MATRIX_OPS

Floats = NDArray[np.float32]

_LARGEST_OF_BYTES = 255
_ONNX_MATRIX_OPS = ("Conv", "Gemm", "MatMul")
_ONNX_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


@dataclass(frozen=True)
class ProbePoint:
    """Where a layer's output is found in a file.

    `key` is the tensor's name or index. `scale` and `zero_point` turn its integers into numbers, None where it holds
    floats; `limits` are the least and the largest of its integers.
    """

    key: str | int
    scale: float | None = None
    zero_point: int = 0
    limits: tuple[int, int] = (-128, 127)

    @property
    def range(self) -> tuple[float, float] | None:
        """What the integers can stand for, None for floats."""
        if self.scale is None:
            return None
        low, high = ((limit - self.zero_point) * self.scale for limit in self.limits)
        return low, high

    def widened(self, limits: tuple[float, float]) -> tuple[float, float]:
        """What the integers would stand for if they were made for values between `limits`: 0 is always among them.

        Integers of 16 bits are symmetric, as TFLite has them.
        """
        low, high = min(0.0, limits[0]), max(0.0, limits[1])
        if self.limits[1] <= _LARGEST_OF_BYTES:
            return low, high
        return -max(-low, high), max(-low, high)

    def rounded(self, values: Floats) -> Floats:
        """The same numbers clipped and rounded as the file would; floats stay."""
        if self.scale is None:
            return values
        low, high = self.limits
        integers = np.clip(np.rint(values / np.float32(self.scale)) + self.zero_point, low, high)
        return np.asarray((integers - self.zero_point) * np.float32(self.scale), np.float32)

    def dequantize(self, values: NDArray[Any]) -> Floats:
        """The numbers that a tensor's content stands for."""
        if self.scale is None:
            return np.asarray(values, np.float32)
        return np.asarray((values.astype(np.float32) - self.zero_point) * np.float32(self.scale), np.float32)


class ActivationProbe(Protocol):
    """A file whose layers can be looked into.

    `points` are, by name, the input of the first layer asked for and the output of every one of them that the file has,
    after its ReLU.
    """

    points: Mapping[str, ProbePoint]

    def of(self, image: NDArray[np.uint8]) -> dict[str, Floats]:
        """What every point holds for one image (H, W, C): (1, H, W, C) or (1, C), dequantized."""
        ...


def read_points(path: Path, names: Sequence[str]) -> Mapping[str, ProbePoint]:
    """The probe points of a .tflite or .onnx file; nothing is computed.

    Args:
        path: the file.
        names: of the first layer's input, then of convolutions and dense layers; a file names its operators so.

    Raises:
        ArtefactError, MissingDependencyError: as `open_probe`.
    """
    if path.suffix.lower() == ".tflite":
        return TFLiteProbe(path, names).points
    return _onnx_points(require("onnx").load(str(path)).graph, names)


def open_probe(path: Path, names: Sequence[str]) -> ActivationProbe:
    """Load an artefact so that its layers can be looked into; arguments as for `read_points`.

    Raises:
        ArtefactError: neither TFLite nor ONNX, or damaged.
        MissingDependencyError: the runtime, or for ONNX files the onnx package, is not installed.
    """
    if path.suffix.lower() == ".tflite":
        return TFLiteProbe(path, names)
    if path.suffix.lower() == ".onnx":
        return OnnxProbe(path, names)
    do = "export an onnx recipe like it" if path.suffix.lower() == ".ort" else "pass an exported file"
    raise ArtefactError(f"expected a .tflite or .onnx file, but got {path}; {do}")


def interpreter_keeping_tensors(**model: str | bytes) -> Any:
    """A .tflite model (`model_path` or `model_content`) in LiteRT's interpreter, which keeps every tensor after a run.

    Delegates would fuse tensors away, so the built-in kernels compute.

    Raises:
        ValueError, RuntimeError: LiteRT refuses it.
    """
    litert = require("ai_edge_litert.interpreter")
    with quiet():
        interpreter = litert.Interpreter(
            **model,
            num_threads=available_cores(),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    return interpreter


def session_putting_out(proto: Any, tensors: Iterable[str]) -> Any:
    """An ONNX graph in onnxruntime that puts out these tensors as well; `proto` gets them as further outputs."""
    onnx, ort = require("onnx"), require("onnxruntime")
    known = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in known)
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 4
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


class TFLiteProbe:
    """A .tflite file in LiteRT's interpreter."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        try:
            self._interpreter = interpreter_keeping_tensors(model_path=str(path))
        except (ValueError, RuntimeError) as error:
            raise ArtefactError(
                f"expected a whole TFLite model in {path}, but LiteRT refuses it: {str(error)[:160]}"
            ) from None
        self._input = self._interpreter.get_input_details()[0]
        details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        self.points: Mapping[str, ProbePoint] = {
            name: _tflite_point(details[index]) for name, index in _tflite_layers(path.read_bytes(), names).items()
        }

    def of(self, image: NDArray[np.uint8]) -> dict[str, Floats]:
        """What every point holds for one image (H, W, C)."""
        pixels = image[None]
        scale, zero_point = self._input["quantization"]
        if scale:
            limits = np.iinfo(self._input["dtype"])
            pixels = np.clip(np.round(pixels / scale) + zero_point, limits.min, limits.max)
        self._interpreter.set_tensor(self._input["index"], pixels.astype(self._input["dtype"]))
        self._interpreter.invoke()
        return {name: point.dequantize(self._interpreter.get_tensor(point.key)) for name, point in self.points.items()}


def _tflite_point(detail: dict[str, Any]) -> ProbePoint:
    scale, zero_point = detail["quantization"]
    if np.issubdtype(detail["dtype"], np.floating):
        return ProbePoint(detail["index"])
    limits = np.iinfo(detail["dtype"])
    return ProbePoint(detail["index"], float(scale), int(zero_point), (int(limits.min), int(limits.max)))


def _tflite_layers(content: bytes, names: Sequence[str]) -> dict[str, int]:
    """Indices of the first matrix operator's input and of every one's output, by name."""
    first, *layers = names
    found: dict[str, int] = {}
    for op in tflite.operators_of(content):
        if op.name in TFLITE_MATRIX_OPS:
            if not found:
                found[first] = op.inputs[0].index
            found.update({layer: op.outputs[0].index for layer in layers if layer in op.layers})
    return found


class OnnxProbe:
    """An .onnx file in onnxruntime: a copy of the graph in memory gets further outputs.

    Points of a QDQ graph are its integer tensors: floats as outputs would keep onnxruntime from fusing the kernels.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        proto = require("onnx").load(str(path))
        self.points: Mapping[str, ProbePoint] = _onnx_points(proto.graph, names)
        self._session = session_putting_out(proto, (str(point.key) for point in self.points.values()))
        self._input = self._session.get_inputs()[0]

    def of(self, image: NDArray[np.uint8]) -> dict[str, Floats]:
        """What every point holds for one image (H, W, C), channels last."""
        pixels = np.ascontiguousarray(image[None], _ONNX_DTYPES[self._input.type])
        keys = [str(point.key) for point in self.points.values()]
        values = zip(self.points.items(), self._session.run(keys, {self._input.name: pixels}), strict=True)
        floats = {name: point.dequantize(value) for (name, point), value in values}
        return {name: value.transpose(0, 2, 3, 1) if value.ndim == 4 else value for name, value in floats.items()}


def _onnx_points(graph: Any, names: Sequence[str]) -> dict[str, ProbePoint]:
    makers = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in reversed(graph.node) for name in node.input}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    first, *layers = names
    points: dict[str, ProbePoint] = {}
    for node in graph.node:
        if node.op_type not in _ONNX_MATRIX_OPS:
            continue
        if not points:
            before = makers.get(node.input[0])
            if before is not None and before.op_type == "DequantizeLinear":
                points[first] = _onnx_quantized(before, before.input[0], constants)
            else:
                points[first] = ProbePoint(node.input[0])
        if node.name not in layers:
            continue
        output = node.output[0]
        after = readers.get(output)
        if after is not None and after.op_type in ("Relu", "Clip"):
            output = after.output[0]
            after = readers.get(output)
        if after is not None and after.op_type == "QuantizeLinear":
            points[node.name] = _onnx_quantized(after, after.output[0], constants)
        else:
            points[node.name] = ProbePoint(output)
    return points


def _onnx_quantized(node: Any, tensor: str, constants: dict[str, Any]) -> ProbePoint:
    to_array = require("onnx").numpy_helper.to_array
    try:
        scale, zero_point = (to_array(constants[name]) for name in node.input[1:3])
    except (KeyError, ValueError):
        raise ArtefactError(
            f"expected a constant scale and zero point for {tensor}, but the graph has none; export the file again"
        ) from None
    limits = np.iinfo(zero_point.dtype)
    return ProbePoint(tensor, float(scale), int(zero_point), (int(limits.min), int(limits.max)))
