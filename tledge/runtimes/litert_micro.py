"""TFLite files in LiteRT Micro, the interpreter of microcontrollers, as its Python package runs it on a computer.

It plans all memory before the first inference, in one block of fixed size: the arena. With 32-bit pointers, as on
microcontrollers, it is somewhat smaller than what is measured here; kernels made for one processor may ask for more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tledge.core.dependencies import quiet, require
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.foreign import reason_of
from tledge.formats.tflite import parse
from tledge.runtimes.adapter import Ending, Tensor, TensorSpec, cannot_run
from tledge.runtimes.litert import TFLiteAdapter, ending_of_file
from tledge.runtimes.options import RuntimeOptions

# More than any microcontroller has. What is not used is never touched, so it costs nothing.
_ROOMY_BYTES = 256 * 2**20
# The alignment of what is in an arena.
_STEP_BYTES = 16
_RECORDED = re.compile(r"'(?P<what>[^']+)' used (?P<bytes>\d+) bytes")
_TOTAL = re.compile(r"Arena allocation (?P<part>total|head|tail) (?P<bytes>\d+) bytes")


@dataclass(frozen=True)
class Arena:
    """The memory that LiteRT Micro has to be given for one model, in bytes.

    `bytes` is the smallest arena, a multiple of 16, in which the model can be planned. `activations` of it hold the
    model's tensors in turn, `persistent` the interpreter's own data on tensors and operators, of which `parts` are the
    larger ones by name. Planning may need more for a moment than what is kept, so these may add up to less.
    """

    bytes: int
    activations: int
    persistent: int
    parts: Mapping[str, int]


def measure_arena(path: Path) -> Arena:
    """Find the smallest arena in which LiteRT Micro can plan a model, which is all that it takes to run it.

    Args:
        path: a .tflite file.

    Raises:
        ArtefactError: LiteRT Micro refuses it.
        MissingDependencyError: LiteRT Micro is not installed.
    """
    content = _content(path)
    interpreter = _load(path, content, _ROOMY_BYTES)
    with quiet() as printed:
        interpreter.print_allocations()
        told = printed()
    totals = {found["part"]: int(found["bytes"]) for found in _TOTAL.finditer(told)}
    if set(totals) != {"total", "head", "tail"}:
        raise ArtefactError(
            f"expected LiteRT Micro to tell the arena of {path.name}, but it prints {told[:80]!r}; install the version "
            "that constraints.txt names"
        )
    return Arena(
        bytes=_smallest(path, content, totals["total"]),
        activations=totals["head"],
        persistent=totals["tail"],
        parts=MappingProxyType({found["what"]: int(found["bytes"]) for found in _RECORDED.finditer(told)}),
    )


def _smallest(path: Path, content: bytes, used: int) -> int:
    """The smallest multiple of 16 bytes, from those that stay in use on, in which the model can be planned."""
    low = -(-used // _STEP_BYTES)
    high, width = low, 1
    while not _fits(path, content, high * _STEP_BYTES):
        low, high, width = high + 1, high + width, 2 * width
    while low < high:
        middle = (low + high) // 2
        if _fits(path, content, middle * _STEP_BYTES):
            high = middle
        else:
            low = middle + 1
    return high * _STEP_BYTES


def _fits(path: Path, content: bytes, arena_bytes: int) -> bool:
    try:
        _load(path, content, arena_bytes)
    except ArtefactError:
        return False
    return True


def _content(path: Path) -> bytes:
    """A file that can be handed to LiteRT Micro, which looks at nothing before it follows a file's offsets."""
    content = path.read_bytes()
    model = parse(content)
    if len(model.subgraphs) != 1 or not model.subgraphs[0].operators:
        raise ArtefactError(f"expected one graph with operators in {path}, but it has none or several; export it again")
    return content


def _load(path: Path, content: bytes, arena_bytes: int) -> Any:
    micro = require("tflite_micro.python.tflite_micro.runtime")
    with quiet() as printed:
        try:
            return micro.Interpreter.from_bytes(content, arena_size=arena_bytes)
        except (ValueError, RuntimeError) as error:
            said = printed().strip()
            reason = reason_of(RuntimeError(said)) if said else reason_of(error)
            raise ArtefactError(
                f"expected a model in {path} that LiteRT Micro runs, but it refuses it: {reason}; export it with the "
                "recipe micro-int8, from a model without what is named"
            ) from None


class LiteRTMicroAdapter(TFLiteAdapter):
    """A `.tflite` file, in the batch that it was converted with. One thread, whatever is asked for."""

    runtime = "litert-micro"

    def __init__(self, path: Path, threads: int | None, options: RuntimeOptions) -> None:
        super().__init__(path)
        content = _content(path)
        self._interpreter = _load(path, content, _ROOMY_BYTES)
        graph = parse(content).subgraphs[0]
        self._outputs = [int(index) for index in graph.outputs]
        self.inputs = tuple(_spec(self._interpreter.get_input_details(i)) for i in range(len(graph.inputs)))
        self.outputs = tuple(_spec(self._interpreter.get_output_details(i)) for i in range(len(graph.outputs)))
        self.batch = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else None

    def ending(self) -> Ending | None:
        """What the graph ends with."""
        return ending_of_file(self._path, self._outputs[0])

    def bind(self, values: Sequence[Tensor]) -> None:
        """Set the inputs.

        Raises:
            FixedBatchError: another batch than the file's; its memory is planned.
            ArtefactError: the model does not take these shapes.
        """
        if self.batch is not None and len(values[0]) != self.batch:
            raise FixedBatchError(
                f"expected a batch of {self.batch} for LiteRT Micro, but got {len(values[0])}; use that of the file"
            )
        self._bound = list(values)
        try:
            for index, value in enumerate(values):
                self._interpreter.set_input(value, index)
        except (ValueError, RuntimeError) as error:
            raise cannot_run(self._path, values, error) from None

    def invoke(self) -> None:
        """Run once. Other tensors take the place of the input in the arena later on, so it is set for each run."""
        try:
            for index, value in enumerate(self._bound):
                self._interpreter.set_input(value, index)
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise cannot_run(self._path, self._bound, error) from None

    def read(self) -> Sequence[Tensor]:
        """The outputs, copied out of the arena."""
        return [np.asarray(self._interpreter.get_output(index)) for index in range(len(self._outputs))]


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    quantization = details["quantization_parameters"]
    scales, zero_points = quantization["scales"], quantization["zero_points"]
    scale, zero_point = (float(scales[0]), int(zero_points[0])) if len(scales) == 1 else (0.0, 0)
    return TensorSpec(tuple(int(n) for n in details["shape"]), np.dtype(details["dtype"]), scale, zero_point)
