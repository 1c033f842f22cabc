"""TFLite files in LiteRT's interpreter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import quiet, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError, FixedBatchError, SettingsError
from tledge.core.foreign import reason_of
from tledge.core.types import Json
from tledge.formats.operators import TFLITE_MATRIX_OPS
from tledge.formats.tflite import Operator, operators_of
from tledge.formats.tflite_metadata import read_labels, read_lineage, read_summary
from tledge.runs.bench_json import Computed
from tledge.runtimes.adapter import Ending, RuntimeAdapter, Said, Tensor, TensorSpec, cannot_run, ending_of
from tledge.runtimes.declared import InputForm, explicit_scaling
from tledge.runtimes.options import RuntimeOptions

_INTEGERS = ("INT8", "UINT8", "INT16")


def load_interpreter(path: Path, threads: int | None, options: RuntimeOptions) -> Any:
    """Load a TFLite file.

    Args:
        path: the file.
        threads: of one inference; None for all available cores.
        options: with XNNPACK, or with LiteRT's own kernels alone (provider `builtin`).

    Returns:
        LiteRT's interpreter with its tensors allocated.

    Raises:
        ArtefactError: truncated, not TFLite, or with operators that LiteRT lacks.
    """
    interpreter_module = require("ai_edge_litert.interpreter")
    resolvers = interpreter_module.OpResolverType
    is_builtin = options.provider == "builtin"
    resolver = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES if is_builtin else resolvers.AUTO
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ArtefactError(f"expected a TFLite model, but {path} is truncated or something else; export it again")
    try:
        # The path, not the bytes: the interpreter then maps the weights instead of copying them.
        with quiet():
            interpreter = interpreter_module.Interpreter(
                model_path=str(path),
                num_threads=threads or available_cores(),
                experimental_op_resolver_type=resolver,
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtefactError(
            f"expected a whole TFLite model in {path}, but LiteRT refuses it: {reason_of(error)}"
        ) from None
    return interpreter


class TFLiteAdapter(RuntimeAdapter):
    """A `.tflite` file in any runtime: what it says of itself."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def labels(self) -> tuple[str, ...] | None:
        """Class names in the file's metadata."""
        return read_labels(self._path.read_bytes())

    def said(self) -> Said | None:
        """Mean and deviation of the file's metadata."""
        return said_by_metadata(self._path)

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        return read_lineage(self._path.read_bytes())


class LiteRTAdapter(TFLiteAdapter):
    """A `.tflite` file in LiteRT's interpreter."""

    runtime = "litert"

    def __init__(self, path: Path, threads: int | None, options: RuntimeOptions) -> None:
        super().__init__(path)
        self._provider = options.provider or "xnnpack"
        self._interpreter = load_interpreter(path, threads, options)
        details = self._interpreter.get_input_details()
        self._shapes = [tuple(int(n) for n in tensor["shape"]) for tensor in details]
        self._inputs = [int(tensor["index"]) for tensor in details]
        self._outputs = [int(tensor["index"]) for tensor in self._interpreter.get_output_details()]
        made = {int(index) for node in self._interpreter._get_ops_details() for index in node["outputs"]}
        if not made.issuperset(self._outputs):
            # LiteRT would answer with whatever its memory held before.
            raise ArtefactError(f"expected a whole graph in {path}, but no operator makes its output; export it again")
        self.inputs = tuple(_spec(tensor) for tensor in details)
        self.outputs = tuple(_spec(tensor) for tensor in self._interpreter.get_output_details())
        # An open batch is asked for what the file was converted with, mostly 1: graphs often hold it as a constant
        # further on, and floats are summed in another order in a larger one.
        self.batch = self._shapes[0][0] if self._shapes and self._shapes[0] else None

    def ending(self) -> Ending | None:
        """What the graph ends with."""
        return ending_of_file(self._path, self._outputs[0])

    def computed(self) -> Computed:
        """The file's operators, and those that XNNPACK's nodes replaced in the interpreter's plan."""
        operators = operators_of(self._path.read_bytes())
        chosen = operators if self._provider == "builtin" else _replaced(operators, self._interpreter)
        others = sorted({one.name for one in operators} - {one.name for one in chosen})
        multiply_adds = {True: 0, False: 0}
        for one in operators:
            if one.name in TFLITE_MATRIX_OPS:
                is_integer = one in chosen and one.inputs[0].dtype in _INTEGERS and one.inputs[1].dtype in _INTEGERS
                multiply_adds[is_integer] += _multiply_adds(one)
        total = sum(multiply_adds.values())
        return Computed(
            provider=self._provider,
            operators=len(operators),
            taken=len(chosen),
            integer=sum((one.outputs or one.inputs)[0].dtype in _INTEGERS for one in chosen),
            multiply_adds_integer=multiply_adds[True] / total if total else None,
            reason=f"LiteRT's own kernels compute {', '.join(others)}" if others else "",
        )

    def bind(self, values: Sequence[Tensor]) -> None:
        """Set the inputs, resizing them where they differ; a batch that the file fixes can mostly be resized too."""
        shapes = [value.shape for value in values]
        try:
            with quiet():
                if shapes != self._shapes:
                    for index, shape in zip(self._inputs, shapes, strict=True):
                        self._interpreter.resize_tensor_input(index, list(shape))
                    self._interpreter.allocate_tensors()
                    self._shapes = shapes
                for index, value in zip(self._inputs, values, strict=True):
                    self._interpreter.set_tensor(index, value)
        except (ValueError, RuntimeError) as error:
            if [shape[:1] for shape in shapes] != [shape[:1] for shape in self._shapes]:
                wanted = shapes[0][0]
                raise FixedBatchError(
                    f"expected a model whose batch can be {wanted}, but this file is fixed; use batch {self.batch}"
                ) from None
            raise cannot_run(self._path, values, error) from None

    def invoke(self) -> None:
        """Run once."""
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            bound = [self._interpreter.get_tensor(index) for index in self._inputs]
            raise cannot_run(self._path, bound, error) from None

    def read(self) -> Sequence[Tensor]:
        """The outputs, copied out of the interpreter."""
        return [np.asarray(self._interpreter.get_tensor(index)) for index in self._outputs]


def _replaced(operators: Sequence[Operator], interpreter: Any) -> list[Operator]:
    """The operators that delegates compute: what lies between inputs and outputs of the nodes that stand for them."""
    by_output = {tensor.index: one for one in operators for tensor in one.outputs}
    found: dict[int, Operator] = {}
    for node in interpreter._get_ops_details():
        if node["op_name"] != "DELEGATE":
            continue
        given = {int(index) for index in node["inputs"]}
        waiting = [int(index) for index in node["outputs"]]
        while waiting:
            one = by_output.get(waiting.pop())
            if one is not None and id(one) not in found:
                found[id(one)] = one
                waiting += [tensor.index for tensor in one.inputs if tensor.index not in given]
    return [one for one in operators if id(one) in found]


def _multiply_adds(operator: Operator) -> int:
    """Of one image."""
    weights, outputs = operator.inputs[1].shape, operator.outputs[0].shape
    each = weights[1:3] if operator.name == "DEPTHWISE_CONV_2D" else weights[1:]
    return math.prod(abs(n) for n in outputs) * math.prod(each)


def _spec(details: dict[str, Any]) -> TensorSpec:
    shape = [int(n) for n in details["shape"]]
    if shape:
        signature = [int(n) for n in details["shape_signature"]]
        shape = [-1, *(signature[1:] if len(signature) else shape[1:])]
    scale, zero_point = details["quantization"]
    return TensorSpec(
        tuple(n if n > 0 else None for n in shape), np.dtype(details["dtype"]), float(scale), int(zero_point)
    )


def said_by_metadata(path: Path) -> Said | None:
    """Mean and deviation of a TFLite file's metadata (NormalizationOptions).

    Raises:
        ArtefactError: they make no sense.
    """
    summary = read_summary(path.read_bytes())
    inputs = summary["inputs"] if summary else []
    if not inputs or not inputs[0]["mean"]:
        return None
    try:
        scaling = explicit_scaling(inputs[0]["mean"], inputs[0]["std"])
    except SettingsError as error:
        raise ArtefactError(
            f"expected a normalization that makes sense in the metadata of {path.name}, but: {error}; or "
            f"overrule it with --input {path.name}=SCALING"
        ) from None
    is_rgb = inputs[0]["color_space"] == "RGB"
    return Said(InputForm(channels="rgb" if is_rgb else None, scaling=scaling), "TFLite metadata")


def ending_of_file(path: Path, output: int) -> Ending | None:
    """What the graph of a TFLite file ends with; `output` is the place of its output tensor in the graph."""
    operators = operators_of(path.read_bytes())
    producers = {
        str(tensor.index): (operator.name, str(operator.inputs[0].index) if operator.inputs else "")
        for operator in operators
        for tensor in operator.outputs
    }
    return ending_of(str(output), producers)
