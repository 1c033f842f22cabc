"""Model files of any origin as plain functions on tensors: LiteRT and onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tledge.core.dependencies import quiet
from tledge.core.errors import ArtefactError, SettingsError
from tledge.core.types import Json
from tledge.formats.tflite_metadata import read_labels, read_lineage, read_summary
from tledge.runtimes.forms import BYTES, InputForm, explicit_scaling
from tledge.runtimes.onnx import embedded, load_session, only_tensors, session_errors
from tledge.runtimes.pixel_values import Said, Tensor, TensorSpec
from tledge.runtimes.tflite import load_interpreter, only_tensor

WRITTEN_BY_TLEDGE = Said(InputForm(channels="rgb", scaling=BYTES), "written by tledge")
_ONNX_DTYPES = {"float": "float32", "float16": "float16", "uint8": "uint8", "int8": "int8"}


class Backend(Protocol):
    """A loaded model with one input and one output.

    `output` has no shape: what comes out tells it. `labels` are the class names in the file, None if there are none.
    """

    runtime: str
    input: TensorSpec
    output: TensorSpec
    labels: tuple[str, ...] | None

    def said(self) -> Said | None:
        """What the file says about the pixels it takes; None if nothing.

        Raises:
            ArtefactError: what it says is damaged or makes no sense.
        """
        ...

    def bind(self, values: Tensor) -> None:
        """Set the input of every following `run`.

        Raises:
            ArtefactError: the model does not take this shape.
        """
        ...

    def run(self) -> Tensor:
        """Run once on what was bound.

        Raises:
            ArtefactError: the model fails on it.
        """
        ...

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        ...


class TFLiteBackend:
    """A `.tflite` file. Its batch is the one it was converted with."""

    runtime = "litert"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._path = path
        self._interpreter, content = load_interpreter(path, threads)
        self._input = only_tensor(path, "input", self._interpreter.get_input_details())
        self._output = only_tensor(path, "output", self._interpreter.get_output_details())
        self._shape = tuple(int(n) for n in self._input["shape"])
        signature = tuple(int(n) for n in self._input["shape_signature"])
        # An open batch stays 1: graphs that were converted for 1 often hold it as a constant further on.
        shape = (*self._shape[:1], *(n if n > 0 else None for n in signature[1:]))
        self.input = self._spec(shape, self._input)
        self.output = self._spec((), self._output)
        self.labels = read_labels(content)

    @staticmethod
    def _spec(shape: tuple[int | None, ...], details: dict[str, Any]) -> TensorSpec:
        scale, zero_point = details["quantization"]
        return TensorSpec(shape, np.dtype(details["dtype"]), float(scale), int(zero_point))

    def said(self) -> Said | None:
        """Mean and deviation of the file's metadata (NormalizationOptions)."""
        summary = read_summary(self._path.read_bytes())
        inputs = summary["inputs"] if summary else []
        if not inputs or not inputs[0]["mean"]:
            return None
        try:
            scaling = explicit_scaling(inputs[0]["mean"], inputs[0]["std"])
        except SettingsError as error:
            raise ArtefactError(
                f"expected a normalization that makes sense in the metadata of {self._path.name}, but: {error}; or "
                f"overrule it with --input {self._path.name}=SCALING"
            ) from None
        is_rgb = inputs[0]["color_space"] == "RGB"
        return Said(InputForm(channels="rgb" if is_rgb else None, scaling=scaling), "TFLite metadata")

    def bind(self, values: Tensor) -> None:
        """Set the input, resizing it where the file leaves its size open."""
        try:
            with quiet():
                if values.shape != self._shape:
                    self._interpreter.resize_tensor_input(self._input["index"], list(values.shape))
                    self._interpreter.allocate_tensors()
                    self._shape = values.shape
                self._interpreter.set_tensor(self._input["index"], values)
        except (ValueError, RuntimeError) as error:
            raise _cannot_run(self._path, values.shape, error) from None

    def run(self) -> Tensor:
        """Run once; the output is copied out of the interpreter."""
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise _cannot_run(self._path, self._shape, error) from None
        return np.asarray(self._interpreter.get_tensor(self._output["index"]))

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        return read_lineage(self._path.read_bytes())


class OnnxBackend:
    """An `.onnx` file."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._path = path
        self._session = load_session(path, threads)
        self._errors = session_errors()
        found, self._output = only_tensors(path, self._session)
        self._name = found.name
        shape = tuple(n if isinstance(n, int) and n > 0 else None for n in found.shape)
        self.input = TensorSpec(shape, self._dtype(found.type))
        self.output = TensorSpec((), self._dtype(self._output.type))
        labels = embedded(self._session, "labels")
        self.labels: tuple[str, ...] | None = tuple(map(str, labels)) if isinstance(labels, list) else None
        self._bound: dict[str, Tensor] = {}

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = name.removeprefix("tensor(").removesuffix(")")
        if kind not in _ONNX_DTYPES:
            raise ArtefactError(
                f"expected {', '.join(_ONNX_DTYPES.values())} in and out of {self._path.name}, but it has {name}; "
                "use a classifier of pixels"
            )
        return np.dtype(_ONNX_DTYPES[kind])

    def said(self) -> Said | None:
        """Pixels as they are if tledge wrote the file; other tools agree on no place to say it."""
        return WRITTEN_BY_TLEDGE if self.lineage() is not None else None

    def bind(self, values: Tensor) -> None:
        """Set the input."""
        self._bound = {self._name: values}

    def run(self) -> Tensor:
        """Run once."""
        try:
            return np.asarray(self._session.run([self._output.name], self._bound)[0])
        except self._errors as error:
            raise _cannot_run(self._path, self._bound[self._name].shape, error) from None

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        lineage = embedded(self._session, "tledge")
        return lineage if isinstance(lineage, dict) else None


def _cannot_run(path: Path, shape: tuple[int, ...], error: Exception) -> ArtefactError:
    reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
    return ArtefactError(f"expected {path.name} to take an input of {shape}, but its runtime refuses it: {reason}")
