"""Which operators of a TFLite file a compiler for an accelerator maps, by its published list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tledge.formats.tflite import Operator

_INTEGERS = ("INT8", "UINT8", "INT16", "INT32")
_SOFTMAX_ELEMENTS = 16_000


def _one_dimensional(shape: Sequence[int]) -> bool:
    return all(size == 1 for size in shape[:-1])


def _reduces_image(op: Operator) -> bool:
    rank = len(op.inputs[0].shape)
    return rank == 4 and op.axes is not None and {axis % rank for axis in op.axes} <= {1, 2}


CONSTRAINTS: Mapping[str, Callable[[Operator], bool]] = {
    "no fused activation": lambda op: op.options.get("fusedActivationFunction", 0) == 0,
    "equal dilations": lambda op: op.options.get("dilationWFactor", 1) == op.options.get("dilationHFactor", 1),
    "default weights format": lambda op: op.options.get("weightsFormat", 0) == 0,
    "one-dimensional output": lambda op: _one_dimensional(op.outputs[0].shape),
    "one-dimensional input of at most 16000": lambda op: (
        _one_dimensional(op.inputs[0].shape) and op.inputs[0].shape[-1] <= _SOFTMAX_ELEMENTS
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
        if floats := sorted({tensor.dtype for tensor in (*op.inputs, *op.outputs)}.difference(_INTEGERS)):
            reasons.append(f"{where} computes on {', '.join(floats)}")
        shapes = [tensor.shape for tensor in (op.inputs[0], *op.outputs)]
        if any(size < 0 for shape in shapes for size in shape):
            reasons.append(f"{where} has a size that is not fixed")
        if any(size > 1 for shape in shapes for size in shape[:-3]):
            reasons.append(f"{where} has more than three dimensions above 1")
    return tuple(reasons)
