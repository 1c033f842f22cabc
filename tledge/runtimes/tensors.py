"""Any model file as a thing that takes tensors and takes time: for measuring files that nobody has described."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tledge.core.dependencies import quiet, require_tensorflow
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.runtimes.keras import limit_threads, load_model
from tledge.runtimes.onnx import load_session, session_errors
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions
from tledge.runtimes.tflite import load_interpreter

SUFFIXES = (".tflite", ".onnx", ".ort", ".keras")
_ONNX_DTYPES = {"float": "float32", "double": "float64"}


class TensorRunner(Protocol):
    """A loaded model with any number of inputs of any shape."""

    runtime: str

    def prepare_random(self, batch: int, rng: np.random.Generator) -> None:
        """Bind random values: floats of 0..1, integers over their range but no larger than 255.

        Raises:
            FixedBatchError: its batch is another one.
            ArtefactError: it has an open size that is not the batch, or fails on the input.
        """
        ...

    def invoke(self) -> None:
        """Run once on the bound input and wait for its output."""
        ...


def open_tensors(path: Path, threads: int, options: RuntimeOptions = DEFAULT_OPTIONS) -> TensorRunner:
    """Load a model file of any origin.

    Raises:
        ArtefactError: no such file, another suffix, or the runtime refuses it.
        MissingDependencyError: the runtime is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or not path.is_file():
        raise ArtefactError(f"expected a model file ({', '.join(SUFFIXES)}), but got {path}; check the path")
    if suffix == ".tflite":
        return _TFLite(path, threads, options)
    return _Keras(path, threads) if suffix == ".keras" else _Onnx(path, threads, options)


class _TFLite:
    runtime = "litert"

    def __init__(self, path: Path, threads: int, options: RuntimeOptions) -> None:
        self._path = path
        self._interpreter, _ = load_interpreter(path, threads, options)

    def prepare_random(self, batch: int, rng: np.random.Generator) -> None:
        shapes = []
        for details in self._interpreter.get_input_details():
            signature = [int(n) for n in details["shape_signature"]]
            shape = [int(n) for n in details["shape"]]
            # A batch that the file fixes at 1 can mostly be resized all the same; if not, LiteRT refuses below.
            shapes.append(_filled(self._path, signature, batch) if -1 in signature else [batch, *shape[1:]])
        try:
            with quiet():
                for details, shape in zip(self._interpreter.get_input_details(), shapes, strict=True):
                    self._interpreter.resize_tensor_input(details["index"], shape)
                self._interpreter.allocate_tensors()
                for details in self._interpreter.get_input_details():
                    values = _random(self._path, tuple(details["shape"]), details["dtype"], rng)
                    self._interpreter.set_tensor(details["index"], values)
                self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise _refused(self._path, batch, error) from None

    def invoke(self) -> None:
        self._interpreter.invoke()


class _Onnx:
    runtime = "onnxruntime"

    def __init__(self, path: Path, threads: int, options: RuntimeOptions) -> None:
        self._path = path
        self._session = load_session(path, threads, options)
        self._bound: dict[str, NDArray[Any]] = {}

    def prepare_random(self, batch: int, rng: np.random.Generator) -> None:
        for tensor in self._session.get_inputs():
            kind = tensor.type.removeprefix("tensor(").removesuffix(")")
            shape = _filled(self._path, [n if isinstance(n, int) else -1 for n in tensor.shape], batch)
            try:
                dtype = np.dtype(_ONNX_DTYPES.get(kind, kind))
            except TypeError:
                raise ArtefactError(f"expected numbers as input of {self._path}, but it takes {tensor.type}") from None
            self._bound[tensor.name] = _random(self._path, shape, dtype, rng)
        try:
            self._session.run(None, self._bound)
        except session_errors() as error:
            raise _refused(self._path, batch, error) from None

    def invoke(self) -> None:
        self._session.run(None, self._bound)


class _Keras:
    runtime = "keras"

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._tf, _ = require_tensorflow()
        limit_threads(self._tf, threads)
        self._model = load_model(path)
        self._call = self._tf.function(lambda *inputs: self._model(list(inputs), training=False))
        self._bound: list[Any] = []

    def prepare_random(self, batch: int, rng: np.random.Generator) -> None:
        shapes = [_filled(self._path, [-1 if n is None else n for n in t.shape], batch) for t in self._model.inputs]
        types = [self._tf.as_dtype(tensor.dtype).as_numpy_dtype for tensor in self._model.inputs]
        values = [_random(self._path, s, t, rng) for s, t in zip(shapes, types, strict=True)]
        self._bound = [self._tf.constant(value) for value in values]

    def invoke(self) -> None:
        for output in self._tf.nest.flatten(self._call(*self._bound)):
            output.numpy()


def _filled(path: Path, shape: Sequence[int], batch: int) -> list[int]:
    """A shape whose open first size is the batch."""
    if any(n < 1 for n in shape[1:]):
        raise ArtefactError(
            f"expected a file whose only open size is the batch, but {path} takes {list(shape)}; fix its shape first"
        )
    if shape and shape[0] > 0 and batch not in (1, shape[0]):
        raise FixedBatchError(f"expected a model whose batch can be {batch}, but {path} takes {shape[0]}; use that")
    return [batch if shape[0] < 1 else shape[0], *shape[1:]] if shape else []


def _random(path: Path, shape: Sequence[int], dtype: DTypeLike, rng: np.random.Generator) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.asarray(rng.random(tuple(shape)), kind)
    if kind.kind in "iu":
        low, high = max(np.iinfo(kind).min, -128 if kind.itemsize == 1 else 0), min(np.iinfo(kind).max, 255)
        return np.asarray(rng.integers(low, high, tuple(shape), endpoint=True), kind)
    if kind.kind == "b":
        return rng.random(tuple(shape)) < 0.5
    raise ArtefactError(f"expected numbers as input of {path}, but it takes {kind}")


def _refused(path: Path, batch: int, error: Exception) -> ArtefactError:
    reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
    kind = ArtefactError if batch == 1 else FixedBatchError
    return kind(f"expected {path} to run on random input of batch {batch}, but its runtime refuses it: {reason}")
