"""What a runtime has to offer so that tledge can ask, check and measure models in it: tensors in, tensors out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.foreign import is_refusal, reason_of
from tledge.core.types import Json
from tledge.runtimes.declared import BYTES, InputForm

Tensor = NDArray[Any]
Ending = Literal["softmax", "sigmoid"]
# Operators that leave the values of scores as they are, by their names in ONNX and in TFLite.
_KEEPING = frozenset(
    (
        *("Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Unsqueeze"),
        *("CAST", "DEQUANTIZE", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "SQUEEZE"),
    )
)
_ENDINGS: Mapping[str, Ending] = MappingProxyType(
    {"Softmax": "softmax", "SOFTMAX": "softmax", "Sigmoid": "sigmoid", "LOGISTIC": "sigmoid"}
)

if TYPE_CHECKING:
    from tledge.runs.bench_json import Computed


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model file: real value = scale * (stored - zero_point); scale 0 stands for no quantization.

    `shape` holds None where the file leaves a dimension open, and is None if it leaves even their number open. `dtype`
    is that of Python objects for what NumPy cannot hold; `type_name` is what the runtime calls it.
    """

    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any]
    scale: float = 0.0
    zero_point: int = 0
    type_name: str = ""

    @classmethod
    def named(cls, shape: tuple[int | None, ...] | None, type_name: str, dtype_name: str) -> TensorSpec:
        """A tensor of a runtime that has names for its types: its own, and what NumPy might call the same."""
        try:
            dtype: np.dtype[Any] = np.dtype(dtype_name)
        except TypeError:
            dtype = np.dtype(object)
        return cls(shape, dtype, type_name=type_name)

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return self.dtype.kind in "iu"

    @property
    def low(self) -> float:
        """The least real value that an integer tensor can hold."""
        return float((np.iinfo(self.dtype).min - self.zero_point) * (self.scale or 1.0))

    @property
    def high(self) -> float:
        """The greatest real value that an integer tensor can hold."""
        return float((np.iinfo(self.dtype).max - self.zero_point) * (self.scale or 1.0))


@dataclass(frozen=True)
class Said:
    """What a file says about its input, and where: `source` is a few words for reports."""

    form: InputForm
    source: str


WRITTEN_BY_TLEDGE = Said(InputForm(channels="rgb", scaling=BYTES), "written by tledge")


F = TypeVar("F", bound=Callable[..., Any])


def _refusing(method: F) -> F:
    """A method whose runtime may raise whatever it likes over a damaged file."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except Exception as error:
            if not is_refusal(error):
                raise
            path = arguments[0] if method.__name__ == "__init__" else self._path
            raise ArtefactError(
                f"expected a whole model in {path}, but its runtime fails ({reason_of(error)}); export it again"
            ) from error

    return cast(F, call)


class RuntimeAdapter(Protocol):
    """A loaded model file in one runtime. It converts nothing: that is done before the clock of a measurement starts.

    `runtime` names the library that executes it. `batch` is the number of images that `ImageClassifier.predict` gives
    it at once, None for any. An adapter is made from (path, threads, options), with None for all available cores, keeps
    the path as `_path`, and raises an ArtefactError for a file that its runtime refuses. Whatever else its methods
    raise becomes one as well, since nobody knows what a runtime raises over a damaged file. A line of
    `tledge.runtimes.registry` says which files it opens.
    """

    runtime: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: int | None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("__init__", "labels", "said", "ending", "lineage", "computed", "bind", "invoke", "read"):
            if name in vars(cls):
                setattr(cls, name, _refusing(vars(cls)[name]))

    def labels(self) -> tuple[str, ...] | None:
        """Class names in the file, in the order of its outputs; None if it holds none."""
        ...

    def said(self) -> Said | None:
        """What the file says about the pixels it takes; None if nothing.

        Raises:
            ArtefactError: what it says is damaged or makes no sense.
        """
        ...

    def ending(self) -> Ending | None:
        """The function that makes the scores, as the file's graph says it; None if it ends otherwise or cannot tell."""
        return None

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it.

        Raises:
            ArtefactError: what is embedded is damaged.
        """
        ...

    def computed(self) -> Computed | None:
        """Which operators the provider that was asked for really took; None where the runtime does not tell."""
        return None

    def bind(self, values: Sequence[Tensor]) -> None:
        """Set the inputs of every following `invoke`, in their own dtypes.

        Raises:
            FixedBatchError: it takes batches of one size only.
            ArtefactError: the model does not take these shapes.
        """
        ...

    def invoke(self) -> None:
        """Run once on what was bound and wait for the output: what a latency measurement times.

        Raises:
            ArtefactError: the model fails on it.
        """
        ...

    def read(self) -> Sequence[Tensor]:
        """The outputs of the last `invoke`, in their own dtypes."""
        ...


def cannot_run(path: Path, values: Sequence[Tensor], error: Exception) -> ArtefactError:
    """The error for a model that fails on what it was given."""
    shapes = " and ".join(str(tuple(value.shape)) for value in values)
    return ArtefactError(
        f"expected {path.name} to take an input of {shapes}, but its runtime refuses it: {reason_of(error)}"
    )


def require_batch(specs: Sequence[TensorSpec], values: Sequence[Tensor]) -> None:
    """Check the batch of values against a model's inputs.

    Raises:
        FixedBatchError: an input has another one.
    """
    for spec, value in zip(specs, values, strict=True):
        if spec.shape and spec.shape[0] not in (None, value.shape[0]):
            raise FixedBatchError(
                f"expected a model whose batch can be {value.shape[0]}, but this file takes {spec.shape[0]}; use that"
            )


def fixed_batch(inputs: Sequence[TensorSpec]) -> int | None:
    """The batch that a file fixes, None if it leaves it open."""
    return inputs[0].shape[0] if inputs and inputs[0].shape else None


def ending_of(output: str, producers: Mapping[str, tuple[str, str]]) -> Ending | None:
    """The function that makes an output, looked for behind operators that only reshape it or change its type.

    Args:
        output: name of the output's tensor.
        producers: from the name of each computed tensor to its operator and the name of that one's first input.
    """
    seen: set[str] = set()
    while output in producers and output not in seen:
        seen.add(output)
        operator, before = producers[output]
        if operator not in _KEEPING:
            return _ENDINGS.get(operator)
        output = before
    return None
