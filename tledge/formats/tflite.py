"""Operators of a .tflite file, read with the schema and the helpers that LiteRT ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError
from tledge.core.foreign import foreign
from tledge.formats.tflite_flatbuffer import DAMAGED

IDENTIFIER = b"TFL3"

# It stands for "look at the new field".
_LARGEST_OLD_CODE = 127
_OPTIONS = ("fusedActivationFunction", "dilationWFactor", "dilationHFactor", "weightsFormat")


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph.

    `index` is its place in the graph, `shape` holds -1 for a size that is not fixed, `dtype` is TFLite's name of it.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Operator:
    """One operator of a file, in order of execution.

    `inputs` and `outputs` are its tensors, constant ones among them, optional ones that are absent left out. `options`
    are numbers of its built-in options by their name in LiteRT's Python schema, `axes` the integers of a constant
    second input: what is reduced, or how much is padded; None without one.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, int]
    axes: tuple[int, ...] | None

    @property
    def layers(self) -> frozenset[str]:
        """Layers that are fused into it, as tledge's conversion lists them in the name of what it puts out."""
        return frozenset(part.partition("/")[0] for part in self.outputs[0].name.split(";"))


def parse(content: bytes) -> Any:
    """Parse a .tflite file into LiteRT's own objects.

    Returns:
        A `ModelT` of `ai_edge_litert.schema_py_generated`; its buffers are views of `content`.

    Raises:
        ArtefactError: not TFLite, or damaged.
        MissingDependencyError: LiteRT is not installed.
    """
    if content[4:8] != IDENTIFIER:
        raise ArtefactError(f"expected a TFLite model, but its identifier is {content[4:8]!r}; export it again")
    try:
        return _with_buffers_inside(_helpers().convert_bytearray_to_object(content), content)
    except DAMAGED as error:
        raise ArtefactError(
            f"expected a whole TFLite model, but it is damaged ({error}); copy or export the file again"
        ) from None


def _with_buffers_inside(model: Any, content: bytes) -> Any:
    """Give large buffers that a quantizer wrote behind the flatbuffer their content, so that it can be packed again."""
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def write_old_operator_codes(model: Any) -> bool:
    """Repeat each operator's code in the field that older readers look at, as the schema asks; in place.

    Quantizers leave it out for operators that they add, and OpenVINO (2026.4, its issue 29666) then takes these for
    additions.

    Returns:
        Whether a code was missing.
    """
    missing = False
    for code in model.operatorCodes:
        if code.deprecatedBuiltinCode != min(code.builtinCode, _LARGEST_OLD_CODE):
            code.deprecatedBuiltinCode = min(code.builtinCode, _LARGEST_OLD_CODE)
            missing = True
    return missing


def read_operators(path: Path) -> tuple[Operator, ...]:
    """The operators of a TFLite file's one graph.

    Raises:
        ArtefactError: not TFLite, damaged, or several graphs.
    """
    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise ArtefactError(f"expected a TFLite model, but {path} is something else; export it again")
    model = parse(content)
    if len(model.subgraphs) != 1:
        raise ArtefactError(f"expected one graph in {path}, but it has {len(model.subgraphs)}; use a classifier")
    with foreign(lambda reason: ArtefactError(f"expected a whole graph in {path}, but it is damaged ({reason})")):
        return _operators(model)


def operators_of(content: bytes) -> tuple[Operator, ...]:
    """The operators of the first graph in a .tflite file's content.

    Raises:
        ArtefactError: not TFLite, or damaged.
    """
    model = parse(content)
    with foreign(lambda reason: ArtefactError(f"expected a whole TFLite model, but its graph is damaged ({reason})")):
        return _operators(model)


def _helpers() -> Any:
    return require("ai_edge_litert.tools.flatbuffer_utils")


def _operators(model: Any) -> tuple[Operator, ...]:
    helpers, graph = _helpers(), model.subgraphs[0]
    tensors = [
        Tensor(
            index,
            (tensor.name or b"").decode("utf-8", errors="replace"),
            _shape(tensor),
            str(helpers.type_to_name(tensor.type)),
        )
        for index, tensor in enumerate(graph.tensors or ())
    ]

    def tensors_at(indices: Sequence[int] | None) -> tuple[Tensor, ...]:
        return () if indices is None else tuple(tensors[index] for index in indices if index >= 0)

    return tuple(
        Operator(
            name=str(helpers.opcode_to_name(model, op.opcodeIndex)),
            inputs=tensors_at(op.inputs),
            outputs=tensors_at(op.outputs),
            options=_options(op.builtinOptions),
            axes=_axes(model, tensors_at(op.inputs)),
        )
        for op in graph.operators or ()
    )


def _options(options: Any) -> dict[str, int]:
    return {} if options is None else {name: int(vars(options)[name]) for name in _OPTIONS if name in vars(options)}


def _shape(tensor: Any) -> tuple[int, ...]:
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return () if shape is None else tuple(int(size) for size in shape)


def _axes(model: Any, inputs: Sequence[Tensor]) -> tuple[int, ...] | None:
    if len(inputs) < 2 or inputs[1].dtype != "INT32":
        return None
    content = model.buffers[model.subgraphs[0].tensors[inputs[1].index].buffer].data
    return None if content is None else tuple(int(n) for n in np.frombuffer(bytes(content), np.int32))
