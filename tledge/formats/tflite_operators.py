"""Which operators of a TFLite file a compiler for an accelerator maps, by its published list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError

_INTEGERS = ("INT8", "UINT8", "INT16", "INT32")
_SOFTMAX_ELEMENTS = 16_000


@dataclass(frozen=True)
class Operator:
    """One operator of a file, in order of execution.

    `inputs` and `outputs` are the shapes of its tensors, a constant one's among them; -1 is a size that is not fixed.
    `dtypes` are those of all its tensors. `options` are the numbers of its built-in options by their name in TFLite's
    schema, `axes` the integers of a constant second input: what is reduced, or how much is padded; None without one.
    """

    name: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    dtypes: frozenset[str]
    options: Mapping[str, int]
    axes: tuple[int, ...] | None


def _one_dimensional(shape: Sequence[int]) -> bool:
    return all(size == 1 for size in shape[:-1])


def _reduces_image(op: Operator) -> bool:
    rank = len(op.inputs[0])
    return rank == 4 and op.axes is not None and {axis % rank for axis in op.axes} <= {1, 2}


CONSTRAINTS: Mapping[str, Callable[[Operator], bool]] = {
    "no fused activation": lambda op: op.options.get("FusedActivationFunction", 0) == 0,
    "equal dilations": lambda op: op.options.get("DilationWFactor", 1) == op.options.get("DilationHFactor", 1),
    "default weights format": lambda op: op.options.get("WeightsFormat", 0) == 0,
    "one-dimensional output": lambda op: _one_dimensional(op.outputs[0]),
    "one-dimensional input of at most 16000": lambda op: (
        _one_dimensional(op.inputs[0]) and op.inputs[0][-1] <= _SOFTMAX_ELEMENTS
    ),
    "reduction over rows and columns": _reduces_image,
    "no batch padding": lambda op: op.axes is not None and not any(op.axes[:2]),
}
"""What a list may ask of an operator, and whether one keeps it."""


def uncovered(operators: Sequence[Operator], covered: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Why a compiler would leave operators to the CPU; empty if it maps them all.

    Besides what the list asks, tensors must be integers of fixed size, and at most the three innermost dimensions
    may be larger than 1.

    Args:
        operators: of the file.
        covered: from an operator's name to the names in `CONSTRAINTS` it must keep.
    """
    reasons = []
    for index, op in enumerate(operators):
        where = f"{op.name} (operator {index})"
        if op.name not in covered:
            reasons.append(f"{where} is not in the list")
            continue
        reasons += [f"{where} breaks '{rule}'" for rule in covered[op.name] if not CONSTRAINTS[rule](op)]
        if floats := sorted(op.dtypes.difference(_INTEGERS)):
            reasons.append(f"{where} computes on {', '.join(floats)}")
        shapes = (op.inputs[0], *op.outputs)
        if any(size < 0 for shape in shapes for size in shape):
            reasons.append(f"{where} has a size that is not fixed")
        if any(size > 1 for shape in shapes for size in shape[:-3]):
            reasons.append(f"{where} has more than three dimensions above 1")
    return tuple(reasons)


def read_operators(path: Path) -> tuple[Operator, ...]:
    """The operators of a TFLite file's one graph.

    Raises:
        ArtefactError: not TFLite, or several graphs.
    """
    schema = require("ai_edge_litert.schema_py_generated")
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ArtefactError(f"expected a TFLite model, but {path} is something else; export it again")
    model = schema.Model.GetRootAs(content, 0)
    if model.SubgraphsLength() != 1:
        raise ArtefactError(f"expected one graph in {path}, but it has {model.SubgraphsLength()}; use a classifier")
    return tuple(
        _operator(schema, model, model.Subgraphs(0).Operators(index))
        for index in range(model.Subgraphs(0).OperatorsLength())
    )


def _operator(schema: Any, model: Any, op: Any) -> Operator:
    graph, code = model.Subgraphs(0), model.OperatorCodes(op.OpcodeIndex())
    inputs = [graph.Tensors(op.Inputs(i)) for i in range(op.InputsLength()) if op.Inputs(i) >= 0]
    outputs = [graph.Tensors(op.Outputs(i)) for i in range(op.OutputsLength())]
    return Operator(
        name=_names(schema.BuiltinOperator)[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())],
        inputs=tuple(map(_shape, inputs)),
        outputs=tuple(map(_shape, outputs)),
        dtypes=frozenset(_names(schema.TensorType)[tensor.Type()] for tensor in (*inputs, *outputs)),
        options=_options(schema, op),
        axes=_axes(schema, model, inputs),
    )


def _axes(schema: Any, model: Any, inputs: Sequence[Any]) -> tuple[int, ...] | None:
    if len(inputs) < 2 or inputs[1].Type() != schema.TensorType.INT32:
        return None
    content = model.Buffers(inputs[1].Buffer()).DataAsNumpy()  # 0 where there is none
    return None if isinstance(content, int) else tuple(int(n) for n in np.frombuffer(bytes(content), np.int32))


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _shape(tensor: Any) -> tuple[int, ...]:
    signature = tensor.ShapeSignatureAsNumpy()
    shape = tensor.ShapeAsNumpy() if isinstance(signature, int) else signature
    return () if isinstance(shape, int) else tuple(int(size) for size in shape)


def _options(schema: Any, op: Any) -> dict[str, int]:
    kind = _names(schema.BuiltinOptions)[op.BuiltinOptionsType()]
    if kind == "NONE":
        return {}
    options = getattr(schema, kind)()
    table = op.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    wanted = ("FusedActivationFunction", "DilationWFactor", "DilationHFactor", "WeightsFormat")
    return {name: int(getattr(options, name)()) for name in wanted if hasattr(options, name)}
