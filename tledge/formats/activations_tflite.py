"""Look into a TFLite file with LiteRT's interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import quiet, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError
from tledge.formats.activations import Floats, Tap

_MATRIX_OPS = ("CONV_2D", "FULLY_CONNECTED")


class TFLiteActivations:
    """Keeps every tensor after a run. Delegates would fuse tensors away, so the built-in kernels compute."""

    def __init__(self, path: Path) -> None:
        interpreter = require("ai_edge_litert.interpreter")
        try:
            with quiet():
                self._interpreter = interpreter.Interpreter(
                    model_path=str(path),
                    num_threads=available_cores(),
                    experimental_preserve_all_tensors=True,
                    experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ArtefactError(
                f"expected a whole TFLite model in {path}, but LiteRT refuses it: {str(error)[:160]}"
            ) from None
        self._input = self._interpreter.get_input_details()[0]
        details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        self.taps = tuple(_tap(details[index]) for index in _layer_tensors(path.read_bytes()))

    def of(self, image: NDArray[np.uint8]) -> list[Floats]:
        """What every tap holds for one image (S, S, 3)."""
        pixels = image[None]
        scale, zero_point = self._input["quantization"]
        if scale:
            limits = np.iinfo(self._input["dtype"])
            pixels = np.clip(np.round(pixels / scale) + zero_point, limits.min, limits.max)
        self._interpreter.set_tensor(self._input["index"], pixels.astype(self._input["dtype"]))
        self._interpreter.invoke()
        return [tap.dequantize(self._interpreter.get_tensor(tap.key)) for tap in self.taps]


def _tap(detail: dict[str, Any]) -> Tap:
    scale, zero_point = detail["quantization"]
    if np.issubdtype(detail["dtype"], np.floating):
        return Tap(detail["index"])
    limits = np.iinfo(detail["dtype"])
    return Tap(detail["index"], float(scale), int(zero_point), (int(limits.min), int(limits.max)))


def _layer_tensors(content: bytes) -> list[int]:
    """Indices of the first matrix operator's input and of every one's output, behind a ReLU that is an operator."""
    schema = require("ai_edge_litert.schema_py_generated")
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    found: list[int] = []
    relu_of: dict[int, int] = {}
    for index in range(graph.OperatorsLength()):
        op = graph.Operators(index)
        code = model.OperatorCodes(op.OpcodeIndex())
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        if name in _MATRIX_OPS:
            found += [op.Outputs(0)] if found else [op.Inputs(0), op.Outputs(0)]
        elif name == "RELU":
            relu_of[op.Inputs(0)] = op.Outputs(0)
    return [relu_of.get(index, index) for index in found]
