"""ONNX files in onnxruntime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import installed, quiet, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError
from tledge.core.foreign import reason_of
from tledge.core.types import Json
from tledge.model.onnx_files import external_files
from tledge.runs.bench_json import Computed
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
    require_batch,
)
from tledge.runtimes.options import RuntimeOptions
from tledge.runtimes.providers import onnxruntime_name

_REFUSALS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
_CPU = "CPUExecutionProvider"
_INTEGER = ("QLinear", "QGemm", "QuantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantize")
_DTYPES = {"float": "float32", "double": "float64"}


def load_session(path: Path, threads: int | None, options: RuntimeOptions, *, profile: str = "") -> Any:
    """Load an ONNX file into onnxruntime's CPU provider, behind the one that the options ask for.

    Args:
        path: the file.
        threads: of one inference; None for all available cores.
        options: how far it rewrites the graph, how it keeps memory and how its threads wait.
        profile: what the name of a file begins with that gets the profile; empty for none.

    Returns:
        An `InferenceSession`.

    Raises:
        ArtefactError: truncated, not ONNX, or with operators that onnxruntime lacks.
    """
    ort = require("onnxruntime")
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads or available_cores()
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 4  # what is an error is raised as well
    chosen.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[options.graph_optimization])
    chosen.enable_cpu_mem_arena = options.arena
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    if profile:
        chosen.enable_profiling = True
        chosen.profile_file_prefix = profile
    providers = dict.fromkeys((*([onnxruntime_name(options.provider)] if options.provider else []), _CPU))
    try:
        return ort.InferenceSession(str(path), chosen, providers=list(providers))
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
        self._options = options
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

    def computed(self) -> Computed | None:
        """Kernels and who computed each, by the profile of one more run on zeros; None if that fails."""
        return _profiled(self._path, self._options, self.inputs)

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


def _profiled(path: Path, options: RuntimeOptions, inputs: Sequence[TensorSpec]) -> Computed | None:
    shapes = [tuple(n or 1 for n in spec.shape or ()) for spec in inputs]
    wanted = onnxruntime_name(options.provider or "cpu")
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder, quiet() as printed:
        session = load_session(path, 1, options, profile=f"{folder}/profile")
        names = [tensor.name for tensor in session.get_inputs()]
        zeros = {name: np.zeros(shape, spec.dtype) for name, shape, spec in zip(names, shapes, inputs, strict=True)}
        try:
            session.run(None, zeros)
        except _session_errors():
            return None
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        said = printed()
    kernels = [
        event["args"] for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    taken = [kernel for kernel in kernels if kernel["provider"] == wanted]
    others = sorted({kernel["op_name"] for kernel in kernels if kernel["provider"] != wanted})
    reason = f"the CPU computes {', '.join(others)}" if others else ""
    if not taken and said.strip():
        reason = reason_of(RuntimeError(said))
    return Computed(
        provider=options.provider or "cpu",
        operators=len(kernels),
        taken=len(taken),
        integer=sum(map(_is_integer, taken)),
        multiply_adds_integer=None,
        reason=reason,
    )


def _is_integer(kernel: Mapping[str, Any]) -> bool:
    """Whether a kernel of the profile computes on integers of 8 bits: by its name, or what it moves."""
    name, inputs = str(kernel["op_name"]), kernel.get("input_type_shape") or [{}]
    if name == "DequantizeLinear":
        return False
    return name.startswith(_INTEGER) or next(iter(inputs[0]), "") in ("uint8", "int8")
