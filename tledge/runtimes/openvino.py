"""TFLite and ONNX files in OpenVINO's own runtime, on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import quiet, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.foreign import reason_of
from tledge.formats.tflite import parse, write_old_operator_codes
from tledge.formats.tflite_metadata import pack
from tledge.runs.bench_json import Computed
from tledge.runtimes.adapter import Ending, RuntimeAdapter, Tensor, TensorSpec, cannot_run, require_batch
from tledge.runtimes.litert import TFLiteAdapter, ending_of_file
from tledge.runtimes.onnxruntime import OnnxAdapter, ending_of_onnx
from tledge.runtimes.options import RuntimeOptions

_MATRIX = ("Convolution", "FullyConnected", "MatMul")
# What only stands for a file's ends and weights.
_NO_OPERATORS = ("Const", "Input", "Output")


def read_model(path: Path, read_from: Path | None = None) -> Any:
    """Read a file of any format that OpenVINO reads; `read_from` is a copy that it can read, if not the file itself.

    Raises:
        ArtefactError: OpenVINO refuses it.
        MissingDependencyError: OpenVINO is not installed.
    """
    openvino = require("openvino")
    try:
        with quiet():
            return openvino.Core().read_model(str(read_from or path))
    except RuntimeError as error:
        raise ArtefactError(
            f"expected a model in {path} that OpenVINO reads, but it refuses it: {_said(error)}; take another provider"
        ) from None


class OpenVinoAdapter(RuntimeAdapter):
    """A model that `read_model` read, compiled for one batch at a time.

    It computes as OpenVINO does by itself, with the hint for latency: floats in bfloat16 where the processor has
    instructions for that. `ImageClassifier` gives it one image at a time, since another batch is compiled anew.
    """

    runtime = "openvino"
    batch = 1

    def __init__(
        self,
        path: Path,
        model: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        threads: int | None,
    ) -> None:
        self._path = path
        self._model = model
        self._threads = threads or available_cores()
        self.inputs, self.outputs = inputs, outputs
        self._compile([tuple(n or 1 for n in spec.shape or ()) for spec in inputs])

    def _compile(self, shapes: Sequence[tuple[int, ...]]) -> None:
        openvino = require("openvino")
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": 1}
        try:
            with quiet():
                self._model.reshape(dict(enumerate(map(list, shapes))))
                self._compiled = openvino.Core().compile_model(self._model, "CPU", config)
        except RuntimeError as error:
            raise ArtefactError(
                f"expected a model in {self._path} that OpenVINO compiles, but it refuses it: {_said(error)}; take "
                "another provider"
            ) from None
        self._shapes = list(shapes)
        self._request = self._compiled.create_infer_request()

    def bind(self, values: Sequence[Tensor]) -> None:
        """Set the inputs, compiling anew if shapes differ."""
        openvino = require("openvino")
        require_batch(self.inputs, values)
        shapes = [value.shape for value in values]
        if shapes != self._shapes:
            try:
                self._compile(shapes)
            except ArtefactError as error:
                if [shape[1:] for shape in shapes] != [shape[1:] for shape in self._shapes]:
                    raise
                raise FixedBatchError(str(error)) from None
        # Kept, because OpenVINO computes on their own memory.
        self._bound = [np.ascontiguousarray(value) for value in values]
        for index, value in enumerate(self._bound):
            self._request.set_input_tensor(index, openvino.Tensor(value, shared_memory=True))

    def invoke(self) -> None:
        """Run once."""
        try:
            self._request.infer()
        except RuntimeError as error:
            raise cannot_run(self._path, self._bound, error) from None

    def read(self) -> Sequence[Tensor]:
        """The outputs of the last run, copied."""
        return [np.array(self._request.get_output_tensor(index).data) for index in range(len(self.outputs))]

    def computed(self) -> Computed:
        """The layers of the compiled model, which are OpenVINO's own, and the precision of the kernel of each."""
        operators = integer = 0
        multiply_adds = {True: 0, False: 0}
        for layer in self._compiled.get_runtime_model().get_ordered_ops():
            facts = {name: layer.rt_info[name].astype(str) for name in ("layerType", "primitiveType")}
            if facts["layerType"] in _NO_OPERATORS:
                continue
            # The kernel's name ends with what it computes on. `runtimePrecision` is that of its weights alone, where
            # the kernel turns them into floats.
            kernel = facts["primitiveType"].rpartition("_")[2].upper()
            is_integer = kernel in ("I8", "U8") and facts["layerType"] != "Convert"
            operators += 1
            integer += is_integer
            if facts["layerType"] in _MATRIX:
                multiply_adds[is_integer] += _multiply_adds(facts["layerType"], layer)
        total = sum(multiply_adds.values())
        return Computed(
            provider="openvino",
            operators=operators,
            taken=operators,
            integer=integer,
            multiply_adds_integer=multiply_adds[True] / total if total else None,
        )


def _multiply_adds(kind: str, layer: Any) -> int:
    pixels, weights = (list(layer.input(index).get_shape()) for index in range(2))
    outputs = prod(layer.output(0).get_shape())
    if kind == "Convolution":
        # Of groups: groups, outputs of each, inputs of each, height, width.
        return int(outputs * prod(weights[2 if len(weights) > len(pixels) else 1 :]))
    return int(outputs * pixels[-1])


def _said(error: Exception) -> str:
    """OpenVINO names source files first; its last line says what is wrong."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return reason_of(RuntimeError(lines[-1])) if lines else reason_of(error)


class OpenVinoTFLiteAdapter(OpenVinoAdapter, TFLiteAdapter):
    """A `.tflite` file."""

    def __init__(self, path: Path, threads: int | None, _: RuntimeOptions) -> None:
        TFLiteAdapter.__init__(self, path)
        content = path.read_bytes()
        parsed = parse(content)
        with tempfile.TemporaryDirectory(prefix="tledge-") as folder:
            readable = None
            if write_old_operator_codes(parsed):
                readable = Path(folder) / path.name
                readable.write_bytes(pack(parsed, len(content)))
            model = read_model(path, readable)
            graph = parsed.subgraphs[0]
            self._output = int(graph.outputs[0])
            tensors = graph.tensors
            inputs, outputs = (
                tuple(_tflite_spec(tensors[index], port) for index, port in zip(places, ports, strict=True))
                for places, ports in ((graph.inputs, model.inputs), (graph.outputs, model.outputs))
            )
            OpenVinoAdapter.__init__(self, path, model, inputs, outputs, threads)

    def ending(self) -> Ending | None:
        """What the graph ends with."""
        return ending_of_file(self._path, self._output)


class OpenVinoOnnxAdapter(OpenVinoAdapter, OnnxAdapter):
    """An `.onnx` file."""

    def __init__(self, path: Path, threads: int | None, _: RuntimeOptions) -> None:
        graph = require("onnx").load(str(path), load_external_data=False)
        self._metadata = {entry.key: entry.value for entry in graph.metadata_props}
        model = read_model(path)
        OpenVinoAdapter.__init__(self, path, model, specs(model.inputs), specs(model.outputs), threads)

    def metadata(self) -> Mapping[str, str]:
        """As the file has it."""
        return self._metadata

    def ending(self) -> Ending | None:
        """What the graph ends with."""
        return ending_of_onnx(self._path, str(self._model.output(0).any_name))


def specs(ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Inputs or outputs of a model as OpenVINO describes them; it knows no quantization of theirs."""
    return tuple(TensorSpec(_shape(port), np.dtype(port.element_type.to_dtype())) for port in ports)


def _shape(port: Any) -> tuple[int | None, ...] | None:
    if not port.partial_shape.rank.is_static:
        return None
    return tuple(int(n.get_length()) if n.is_static else None for n in port.partial_shape)


def _tflite_spec(tensor: Any, port: Any) -> TensorSpec:
    """A tensor with what OpenVINO does not tell: its quantization. As in LiteRT, its batch can mostly be changed."""
    signature = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    shape = (None, *(int(n) if n > 0 else None for n in signature[1:]))
    quantization = tensor.quantization
    scale, zero_point = 0.0, 0
    if quantization is not None and quantization.scale is not None and len(quantization.scale) == 1:
        scale = float(quantization.scale[0])
        zero_point = 0 if quantization.zeroPoint is None else int(quantization.zeroPoint[0])
    return TensorSpec(shape, np.dtype(port.element_type.to_dtype()), scale, zero_point)
