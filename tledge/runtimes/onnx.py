"""ONNX artefacts in onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.types import Images, Json, Probabilities
from tledge.runtimes import require_images, square_rgb_side
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions

_REFUSALS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented")
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}
_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


def load_session(path: Path, threads: int | None, options: RuntimeOptions = DEFAULT_OPTIONS) -> Any:
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
    except session_errors() as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise ArtefactError(f"expected a whole ONNX model in {path}, but onnxruntime refuses it: {reason}") from None


def session_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises when it refuses a model or cannot run it."""
    errors = require("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(getattr(errors, name) for name in _REFUSALS)


def only_tensors(path: Path, session: Any) -> tuple[Any, Any]:
    """The one input and the one output of a session.

    Raises:
        ArtefactError: it has several of either.
    """
    for what, found in (("input", session.get_inputs()), ("output", session.get_outputs())):
        if len(found) != 1:
            raise ArtefactError(f"expected one {what} in {path.name}, but it has {len(found)}; use a classifier")
    return session.get_inputs()[0], session.get_outputs()[0]


def embedded(session: Any, key: str) -> Any:
    """A JSON value of the metadata as tledge writes it. What other tools put there is left alone: None."""
    try:
        return json.loads(session.get_modelmeta().custom_metadata_map.get(key) or "null")
    except ValueError:
        return None


class OnnxClassifier:
    """An `.onnx` or `.ort` file with float32 or uint8 pixels as input and float32 probabilities as output."""

    runtime = "onnxruntime"
    output_step = 0.0

    def __init__(self, path: Path, threads: int | None = None, options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        self._session = load_session(path, threads, options)
        self._input, self._output = only_tensors(path, self._session)
        if self._input.type not in _DTYPES:
            raise ArtefactError(f"expected float32 or uint8 input in {path.name}, but it takes {self._input.type}")
        shape = tuple(n if isinstance(n, int) else None for n in self._input.shape)
        self.image_size_px = square_rgb_side(path, shape)
        if len(self._output.shape) != 2 or not isinstance(self._output.shape[-1], int):
            raise ArtefactError(f"expected output of (batch, classes) in {path.name}, but it is {self._output.shape}")
        self.classes = int(self._output.shape[-1])
        self.input_dtype, self.output_dtype = np.dtype(_DTYPES[self._input.type]).name, "float32"
        labels = embedded(self._session, "labels")
        self.labels: tuple[str, ...] | None = tuple(map(str, labels)) if isinstance(labels, list) else None
        self._bound: dict[str, np.ndarray[Any, Any]] = {}

    def predict(self, images: Images) -> Probabilities:
        """Classify (N, S, S, 3) uint8 images in one batch, or in those that the file fixes; returns (N, C) float32."""
        batch = self._input.shape[0]
        if not isinstance(batch, int):
            return self._answers(images)
        if not len(images):
            return np.empty((0, self.classes), np.float32)
        filled = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
        parts = [self._answers(filled[start : start + batch]) for start in range(0, len(filled), batch)]
        return np.concatenate(parts)[: len(images)]

    def _answers(self, images: Images) -> Probabilities:
        self.prepare(images)
        return np.asarray(self._session.run([self._output.name], self._bound)[0], np.float32)

    def prepare(self, images: Images) -> None:
        """Bind the input of `invoke`."""
        require_images(images, self.image_size_px)
        batch = self._input.shape[0]
        if isinstance(batch, int) and batch != len(images):
            raise FixedBatchError(f"expected a model whose batch can be {len(images)}, but this file takes {batch}")
        self._bound = {self._input.name: np.ascontiguousarray(images, _DTYPES[self._input.type])}

    def invoke(self) -> None:
        """Run once on the bound input."""
        self._session.run([self._output.name], self._bound)

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        lineage = embedded(self._session, "tledge")
        return lineage if isinstance(lineage, dict) else None
