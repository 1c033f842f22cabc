"""Rewrites of a float ONNX graph that the libraries do not do, each exact, each a function from a graph to itself.

tf2onnx and onnxslim leave a graph with batch 1 and fixed shapes. These passes give dense layers the one form that
onnxruntime quantizes per output, let the one transpose move the fewest bytes, free the batch and name things after the
Keras layers that they came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require

INPUT = "image"
OUTPUT = "probability"

_MATRIX = ("Conv", "Gemm", "MatMul")


class Editor:
    """A graph with constants as arrays, and who makes and reads what; built anew for every pass.

    `layers` are the names of the calls that the graph was converted from.
    """

    def __init__(self, proto: Any, layers: frozenset[str]) -> None:
        onnx = require("onnx")
        self.graph = proto.graph
        self.layers = layers
        self._helper = onnx.helper
        self._from_array = onnx.numpy_helper.from_array
        self.constants: dict[str, NDArray[Any]] = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer
        }
        self._proto = proto
        self.makers = {output: node for node in self.graph.node for output in node.output}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor that is no constant, as they were before the pass."""
        inferred = require("onnx").shape_inference.infer_shapes(self._proto, strict_mode=True).graph
        return {
            value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            for value in (*inferred.input, *inferred.value_info, *inferred.output)
        }

    def readers(self, tensor: str) -> list[Any]:
        """Nodes that read a tensor; none for the graph's output, which the world reads."""
        return [node for node in self.graph.node if tensor in node.input]

    def only_reader(self, tensor: str, *ops: str) -> Any | None:
        """The node that alone reads a tensor, if it is one of `ops`."""
        readers = self.readers(tensor)
        is_output = any(output.name == tensor for output in self.graph.output)
        return readers[0] if len(readers) == 1 and not is_output and readers[0].op_type in ops else None

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant, in place of one of the same name."""
        for tensor in [tensor for tensor in self.graph.initializer if tensor.name == name]:
            self.graph.initializer.remove(tensor)
        self.graph.initializer.append(self._from_array(np.ascontiguousarray(value), name))
        self.constants[name] = value
        return name

    def node(self, op: str, inputs: list[str], output: str, before: Any, **attributes: Any) -> Any:
        """Insert a node in front of another."""
        made = self._helper.make_node(op, inputs, [output], name=output, **attributes)
        self.graph.node.insert(list(self.graph.node).index(before), made)
        return made

    def bypass(self, node: Any) -> None:
        """Remove a node whose output is its first input."""
        source, target = node.input[0], node.output[0]
        if any(output.name == target for output in self.graph.output):
            maker = self.makers[source]
            maker.output[list(maker.output).index(source)] = target
            source, target = target, source
        for reader in self.readers(target):
            for index, name in enumerate(reader.input):
                if name == target:
                    reader.input[index] = source
        self.graph.node.remove(node)


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values."""
    helper = require("onnx").helper
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def flatten(editor: Editor) -> None:
    """Say `Flatten` where a (1, …) tensor becomes (1, K): it keeps whatever batch there is."""
    for node in list(editor.graph.node):
        if node.op_type not in ("Reshape", "Squeeze"):
            continue
        before, after = editor.shapes.get(node.input[0], ()), editor.shapes.get(node.output[0], ())
        if len(before) > 2 and len(after) == 2 and before[0] == after[0] == 1:
            editor.node("Flatten", [node.input[0]], node.output[0], node, axis=1)
            editor.graph.node.remove(node)


def reshape_back(editor: Editor) -> None:
    """Leave out a reshape that only undoes the one before it."""
    for node in list(editor.graph.node):
        maker = editor.makers.get(node.input[0]) if node.op_type == "Reshape" else None
        if maker is None or maker.op_type not in ("Flatten", "Reshape", "Squeeze"):
            continue
        if editor.shapes[maker.input[0]] == editor.shapes[node.output[0]] and len(editor.readers(node.input[0])) == 1:
            editor.bypass(node)
            editor.bypass(maker)


def dense(editor: Editor) -> None:
    """Write a dense layer as one `Gemm`, outputs first: the form that onnxruntime quantizes per output."""
    for node in list(editor.graph.node):
        if node.op_type == "MatMul" and len(editor.shapes[node.input[0]]) == 2 and node.input[1] in editor.constants:
            weights = editor.constants[node.input[1]].T
            inputs = [node.input[0], editor.constant(f"{node.name}/kernel", weights)]
            last, add = node, editor.only_reader(node.output[0], "Add")
            for name in () if add is None else add.input:
                if name in editor.constants and editor.constants[name].size == len(weights):
                    inputs.append(editor.constant(f"{node.name}/bias", editor.constants[name].reshape(-1)))
                    last = add
            gemm = editor.node("Gemm", inputs, last.output[0], last, transB=1)
            gemm.name = node.name
            for replaced in {id(old): old for old in (node, last)}.values():
                editor.graph.node.remove(replaced)
        elif node.op_type == "Gemm" and not attributes(node).get("transB") and node.input[1] in editor.constants:
            node.input[1] = editor.constant(f"{node.name}/kernel", editor.constants[node.input[1]].T)
            kept = [attribute for attribute in node.attribute if attribute.name != "transB"]
            del node.attribute[:]
            node.attribute.extend([*kept, require("onnx").helper.make_attribute("transB", 1)])


def flatten_of_transposed(editor: Editor) -> None:
    """Reorder the weights of dense layers once, instead of transposing every image before it is flattened."""
    for flat in list(editor.graph.node):
        moved = editor.makers.get(flat.input[0]) if flat.op_type == "Flatten" else None
        if moved is None or moved.op_type != "Transpose" or attributes(moved)["perm"] != [0, 2, 3, 1]:
            continue
        readers = editor.readers(flat.output[0])
        is_output = any(output.name == flat.output[0] for output in editor.graph.output)
        if is_output or len(editor.readers(moved.output[0])) > 1 or any(node.op_type != "Gemm" for node in readers):
            continue
        _, channels, height, width = editor.shapes[moved.input[0]]
        for node in readers:
            weights = editor.constants[node.input[1]].reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
            node.input[1] = editor.constant(f"{node.name}/kernel", weights.reshape(len(weights), -1))
        editor.bypass(moved)


def transpose_first(editor: Editor) -> None:
    """Move the transpose of the pixels in front of an addition to them: int8 files then transpose bytes."""
    for node in list(editor.graph.node):
        if node.op_type != "Add" or node.input[0] != INPUT or node.input[1] not in editor.constants:
            continue
        transpose = editor.only_reader(node.output[0], "Transpose")
        offset = editor.constants[node.input[1]]
        if (
            transpose is None
            or attributes(transpose)["perm"] != [0, 3, 1, 2]
            or offset.size not in (1, offset.shape[-1])
        ):
            continue
        result, moved = transpose.output[0], f"{node.output[0]}/channels_first"
        editor.node("Transpose", [INPUT], moved, node, perm=[0, 3, 1, 2])
        node.input[0] = moved
        node.input[1] = editor.constant(f"{node.name}/offset", offset.reshape(1, -1, 1, 1))
        node.output[0] = result
        editor.graph.node.remove(transpose)


def free_batch(editor: Editor) -> None:
    """Let every reshape to (1, …) take the batch that comes."""
    for node in editor.graph.node:
        if node.op_type == "Reshape" and node.input[1] in editor.constants:
            shape = editor.constants[node.input[1]]
            if len(shape) and shape[0] == 1 == editor.shapes[node.input[0]][0]:
                node.input[1] = editor.constant(f"{node.name}/shape", np.asarray([0, *shape[1:]], np.int64))


def mixes_batch(proto: Any) -> bool:
    """Whether a graph for batch 1 has a reshape from or to a shape that does not begin with the batch."""
    editor = Editor(proto, frozenset())
    shapes = [
        (editor.shapes.get(node.input[0], ()), editor.constants[node.input[1]].tolist())
        for node in editor.graph.node
        if node.op_type == "Reshape" and node.input[1] in editor.constants
    ]
    return any(not (before and after and before[0] == 1 == after[0]) for before, after in shapes)


def free_reshapes(proto: Any, other: Any) -> None:
    """Let reshapes take any batch, by what is another size in the same graph for another batch.

    Attention and dense layers over positions fold the batch into other axes, where batch 1 leaves no trace. Where the
    graphs differ in more than sizes, or more than one size of a shape differs, a reshape stays as it is.

    Args:
        proto: a graph for one batch; changed in place.
        other: the same for another batch.
    """
    editor, twin = Editor(proto, frozenset()), Editor(other, frozenset())
    # From the output backwards, since nodes beside each other come in any order.
    waiting = [(editor.graph.output[0].name, twin.graph.output[0].name)]
    seen: set[str] = set()
    while waiting:
        tensor, counterpart = waiting.pop()
        node, same = editor.makers.get(tensor), twin.makers.get(counterpart)
        if tensor in seen or node is None or same is None or node.op_type != same.op_type:
            continue
        seen.add(tensor)
        waiting += zip(node.input, same.input, strict=False)
        if node.op_type == "Reshape" and node.input[1] in editor.constants:
            here, there = editor.shapes[tensor], twin.shapes[counterpart]
            differs = [first != second for first, second in zip(here, there, strict=False)]
            if differs.count(True) == 1:
                shape = [-1 if other_size else size for size, other_size in zip(here, differs, strict=True)]
                node.input[1] = editor.constant(f"{node.name}/shape", np.asarray(shape, np.int64))


def in_order(editor: Editor) -> None:
    """Put nodes in the order in which the output needs them: that of tf2onnx depends on counters of the process."""
    ordered: dict[str, Any] = {}
    waiting = [(output.name, False) for output in editor.graph.output]
    while waiting:
        tensor, inputs_done = waiting.pop()
        node = editor.makers.get(tensor)
        if node is None or node.output[0] in ordered:
            continue
        if inputs_done:
            ordered[node.output[0]] = node
        else:
            waiting += [(tensor, True), *((name, False) for name in reversed(node.input))]
    nodes = [type(node).FromString(node.SerializeToString()) for node in ordered.values()]
    del editor.graph.node[:]
    editor.graph.node.extend(nodes)


def name_after_layers(editor: Editor) -> None:
    """Name nodes, tensors and weights after the layer that they came from, which is the first part of a tensor's name.

    The convolution or dense layer itself has the layer's plain name, everything else one with its operator.
    """
    taken: set[str] = {INPUT, OUTPUT}
    renamed: dict[str, str] = {}
    layer = INPUT
    for node in editor.graph.node:
        layer = _layer_of(node, editor, layer)
        plain = layer if node.op_type in _MATRIX else f"{layer}/{node.op_type.lower()}"
        name, count = plain, 2
        while name in taken:
            name, count = f"{plain}_{count}", count + 1
        taken.add(name)
        node.name = name
        for index, output in enumerate(node.output):
            renamed[output] = name if not index else f"{name}/{index}"
        if node.op_type in _MATRIX:
            for tensor, part in zip(node.input[1:], ("kernel", "bias"), strict=False):
                renamed.setdefault(tensor, f"{name}/{part}")
        for index, tensor in enumerate(node.input):
            if tensor in editor.constants:
                renamed.setdefault(tensor, f"{name}/input_{index}")
    renamed |= {tensor.name: tensor.name for tensor in editor.graph.input}
    renamed |= {tensor.name: OUTPUT for tensor in editor.graph.output}
    for node in editor.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    for tensor in editor.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for output in editor.graph.output:
        output.name = OUTPUT


def _layer_of(node: Any, editor: Editor, before: str) -> str:
    """The layer that a node came from: by its name, its output's or its weights'; else that of the node before."""
    for name in (node.name, *node.output, *(name for name in node.input if name in editor.constants)):
        layer = re.split(r"[/:]", name, maxsplit=1)[0].removesuffix(".kernel")
        if layer in editor.layers:
            return layer
    return before


PASSES: tuple[Callable[[Editor], None], ...] = (
    flatten,
    reshape_back,
    dense,
    flatten_of_transposed,
    transpose_first,
    free_batch,
    in_order,
    name_after_layers,
)
"""In this order: each finds what the ones before it made."""
