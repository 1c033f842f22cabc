"""ONNX files in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tledge.core.dependencies import installed, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError
from tledge.core.types import Json
from tledge.model.onnx_files import external_files
from tledge.runtimes.adapter import (
    WRITTEN_BY_TLEDGE,
    Ending,
    RuntimeAdapter,
    Said,
    Tensor,
    TensorSpec,
    cannot_run,
    ending_of,
    fixed_batch,
    reason_of,
    require_batch,
)
from tledge.runtimes.options import RuntimeOptions

_REFUSALS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
_DTYPES = {"float": "float32", "double": "float64"}


def load_session(path: Path, threads: int | None, options: RuntimeOptions) -> Any:
    """Load an ONNX file into onnxruntime's CPU provider.

    Args:
        path: the file.
        threads: of one inference; None for all available cores.
        options: how far it rewrites the graph, how it keeps memory and how its threads wait.

    Returns:
        An `InferenceSession`.

    Raises:
        ArtefactError: truncated, not ONNX, or with operators that onnxruntime lacks.
    """
    ort = require("onnxruntime")
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads or available_cores()
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 3
    chosen.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[options.graph_optimization])
    chosen.enable_cpu_mem_arena = options.arena
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    try:
        return ort.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
    except _session_errors() as error:
        if path.suffix.lower() == ".onnx" and installed("onnx"):
            # Of weights outside its folder or missing, which onnxruntime refuses too, this says more.
            external_files(path)
        raise ArtefactError(
            f"expected a whole ONNX model in {path}, but onnxruntime refuses it: {reason_of(error)}"
        ) from None


def _session_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises when it refuses a model or cannot run it."""
    errors = require("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(getattr(errors, name) for name in _REFUSALS)


class OnnxAdapter(RuntimeAdapter):
    """An `.onnx` or `.ort` file in any runtime: what it says of itself."""

    def metadata(self) -> Mapping[str, str]:
        """What the file holds beside its graph."""
        raise NotImplementedError

    def _embedded(self, key: str) -> Any:
        """A JSON value of the metadata as tledge writes it. What other tools put there is left alone: None."""
        try:
            return json.loads(self.metadata().get(key) or "null")
        except ValueError:
            return None

    def labels(self) -> tuple[str, ...] | None:
        """Class names that tledge embedded."""
        labels = self._embedded("labels")
        return tuple(map(str, labels)) if isinstance(labels, list) else None

    def said(self) -> Said | None:
        """Pixels as they are if tledge wrote the file; other tools agree on no place to say it."""
        return WRITTEN_BY_TLEDGE if self.lineage() is not None else None

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        lineage = self._embedded("tledge")
        return lineage if isinstance(lineage, dict) else None


class OnnxRuntimeAdapter(OnnxAdapter):
    """An `.onnx` or `.ort` file."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int | None, options: RuntimeOptions) -> None:
        self._path = path
        self._session = load_session(path, threads, options)
        self._errors = _session_errors()
        self.inputs = tuple(_spec(tensor) for tensor in self._session.get_inputs())
        self.outputs = tuple(_spec(tensor) for tensor in self._session.get_outputs())
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]
        self.batch = fixed_batch(self.inputs)
        self._bound: dict[str, Tensor] = {}
        self._results: Sequence[Tensor] = ()

    def metadata(self) -> Mapping[str, str]:
        """As onnxruntime read it."""
        found: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def ending(self) -> Ending | None:
        """What the graph ends with; None where the onnx package is not there, since onnxruntime shows no nodes."""
        return ending_of_onnx(self._path, self._outputs[0]) if self._outputs else None

    def bind(self, values: Sequence[Tensor]) -> None:
        """Set the inputs."""
        require_batch(self.inputs, values)
        self._bound = dict(zip(self._inputs, values, strict=True))

    def invoke(self) -> None:
        """Run once."""
        try:
            self._results = self._session.run(self._outputs, self._bound)
        except self._errors as error:
            raise cannot_run(self._path, list(self._bound.values()), error) from None

    def read(self) -> Sequence[Tensor]:
        """The outputs of the last run."""
        return self._results


def _spec(tensor: Any) -> TensorSpec:
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in tensor.shape or ())
    return TensorSpec.named(shape, tensor.type, _DTYPES.get(kind, kind))


def ending_of_onnx(path: Path, output: str) -> Ending | None:
    """What the graph of an .onnx file ends with; None where the onnx package is not there."""
    if path.suffix.lower() != ".onnx" or not installed("onnx"):
        return None
    graph = require("onnx").load(str(path), load_external_data=False).graph
    first = ((node, node.input[0] if node.input else "") for node in graph.node)
    producers = {name: (node.op_type, before) for node, before in first for name in node.output}
    return ending_of(output, producers)
