"""Broken converters: each maker turns a healthy run into an artefact that is wrong in one known way.

The files carry the run's lineage and labels and a sidecar that fits, so nothing but what they answer gives them away.
"""

from __future__ import annotations

import colorsys
import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import converted
from tledge.conversion.recipe import load_recipes
from tledge.conversion.sidecar import Origin
from tledge.core.files import sha256_file
from tledge.core.records import plain
from tledge.model.graph import Call, Graph, Value
from tledge.model.inference import PIXEL_OFFSET, load_graph
from tledge.runs.images import TrainingSamples
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run, sidecar_of

HUES = {"red": 0.0, "yellow": 1 / 6, "green": 1 / 3, "blue": 2 / 3}
PER_CLASS = 24


def write_coloured_digits(folder: Path, seed: int, per_class: int = PER_CLASS, drawing: int = 0) -> Path:
    """Five classes of handwritten digits in coloured ink; two pairs differ in nothing but the colour.

    The seed chooses the digits; another drawing has other ink on other paper.
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    digits = load_digits()
    first, second, third = (int(label) for label in rng.permutation(10)[:3])
    if drawing:
        rng = np.random.default_rng([seed, drawing])
    for colour, label in (("red", first), ("blue", first), ("red", second), ("green", second), ("yellow", third)):
        target = folder / f"{colour} {label}"
        target.mkdir(parents=True)
        for number, index in enumerate(rng.permutation(np.flatnonzero(digits.target == label))[:per_class]):
            hue = HUES[colour] + rng.normal(0, 0.02)
            ink = np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.7, 1), rng.uniform(0.7, 1)))
            paper = rng.uniform(0, 0.25, 3)
            strength = digits.images[index][..., None] / 16
            pixels = np.round(255 * (strength * ink + (1 - strength) * paper)).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(target / f"{number:03d}.png")
    return folder


@dataclass(frozen=True)
class FaultContext:
    """A healthy exported run, another one, where broken files go, and a source of chance."""

    run: Path
    other: Path
    out: Path
    rng: np.random.Generator

    def healthy(self, recipe: str) -> Path:
        return next(path for path in open_run(self.run).artefacts() if path.stem == recipe)

    def place(self, fault: str) -> Path:
        """A folder for a fault that does not name it: messages hold paths, and would seem to give the reason."""
        folder = self.out / f"{zlib.crc32(fault.encode()):08x}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def deliver(self, recipe: str, fault: str, content: bytes) -> Path:
        """Write a broken file, and beside it the healthy one's sidecar with the new digest."""
        source = self.healthy(recipe)
        path = self.place(fault) / source.name
        path.write_bytes(content)
        sidecar = json.loads(sidecar_of(source).read_text())
        sidecar_of(path).write_text(json.dumps(sidecar | {"sha256": sha256_file(path), "size_bytes": len(content)}))
        return path

    def convert(
        self,
        recipe_name: str,
        change: Callable[[Graph], Graph] = lambda graph: graph,
        labels: tuple[str, ...] | None = None,
        noise: bool = False,
    ) -> bytes:
        """Export the run's model again after `change`."""
        (recipe,) = load_recipes((recipe_name,))
        run = open_run(self.run)
        manifest = read_manifest(run)
        images, _ = TrainingSamples(run, manifest).take(recipe.calibration_images)
        if noise:
            images = self.rng.integers(0, 256, images.shape, np.uint8)
        return converted(
            recipe.format,
            recipe.precision,
            change(load_graph(run.model)),
            labels or tuple(manifest.classes),
            images if recipe.is_integer else None,
            lineage=plain(Origin.of(manifest).lineage(recipe, ())),
            reduce_range=recipe.reduce_range,
        )

    def derangement(self, count: int) -> np.ndarray:
        """A permutation that leaves nothing in its place."""
        order = self.rng.permutation(count)
        return order[np.argsort(np.roll(order, 1))]


Maker = Callable[[FaultContext, str], Path]


def _set(layer: Any, kernel: Any, bias: Any) -> None:
    layer.set_weights([np.asarray(kernel, np.float32), np.asarray(bias, np.float32)])


def permuted_labels(context: FaultContext, recipe: str) -> Path:
    classes = read_manifest(open_run(context.run)).classes
    labels = tuple(classes[index] for index in context.derangement(len(classes)))
    return context.deliver(recipe, "permuted_labels", context.convert(recipe, labels=labels))


def permuted_outputs(context: FaultContext, recipe: str) -> Path:
    def change(graph: Graph) -> Graph:
        layer = graph.call("prediction").layer
        kernel, bias = layer.get_weights()
        order = context.derangement(len(bias))
        _set(layer, kernel[:, order], bias[order])
        return graph

    return context.deliver(recipe, "permuted_outputs", context.convert(recipe, change))


def swapped_pair(context: FaultContext, recipe: str) -> Path:
    """Two classes change places, the others stay."""

    def change(graph: Graph) -> Graph:
        layer = graph.call("prediction").layer
        kernel, bias = layer.get_weights()
        order = np.arange(len(bias))
        pair = context.rng.permutation(len(bias))[:2]
        order[pair] = order[pair[::-1]]
        _set(layer, kernel[:, order], bias[order])
        return graph

    return context.deliver(recipe, "swapped_pair", context.convert(recipe, change))


def bgr(context: FaultContext, recipe: str) -> Path:
    def change(graph: Graph) -> Graph:
        subtract, first = (call.layer for call in graph.calls[:2])
        subtract.offset = subtract.offset[::-1]
        kernel, bias = first.get_weights()
        _set(first, kernel[:, :, ::-1], bias)
        return graph

    return context.deliver(recipe, "bgr", context.convert(recipe, change))


def divided_by_255(context: FaultContext, recipe: str) -> Path:
    if recipe.startswith("onnx"):
        return context.deliver(recipe, "divided_by_255", _onnx_divided(context.healthy(recipe)))

    def change(graph: Graph) -> Graph:
        graph.call(PIXEL_OFFSET).layer.scale = 1 / 255
        return graph

    return context.deliver(recipe, "divided_by_255", context.convert(recipe, change))


def mean_twice(context: FaultContext, recipe: str) -> Path:
    def change(graph: Graph) -> Graph:
        subtract = graph.call(PIXEL_OFFSET).layer
        subtract.offset = [2 * value for value in subtract.offset]
        return graph

    return context.deliver(recipe, "mean_twice", context.convert(recipe, change))


def mean_missing(context: FaultContext, recipe: str) -> Path:
    def change(graph: Graph) -> Graph:
        graph.call(PIXEL_OFFSET).layer.offset = [0.0, 0.0, 0.0]
        return graph

    return context.deliver(recipe, "mean_missing", context.convert(recipe, change))


def dead_class(context: FaultContext, recipe: str) -> Path:
    def change(graph: Graph) -> Graph:
        layer = graph.call("prediction").layer
        kernel, bias = layer.get_weights()
        dead = int(context.rng.integers(len(bias)))
        # Not zero: a column of zeros has no scale, and an integer file would lose the bias with it.
        kernel[:, dead] *= 0.01
        bias[dead] = -25
        _set(layer, kernel, bias)
        return graph

    return context.deliver(recipe, "dead_class", context.convert(recipe, change))


def noise_calibration(context: FaultContext, recipe: str) -> Path:
    return context.deliver(recipe, "noise_calibration", context.convert(recipe, noise=True))


def scrambled_layer(context: FaultContext, recipe: str) -> Path:
    def change(graph: Graph) -> Graph:
        layers = [call.layer for call in graph.calls if call.kind == "Conv2D"]
        layer = layers[int(context.rng.integers(len(layers)))]
        kernel, bias = layer.get_weights()
        _set(layer, context.rng.permutation(kernel.ravel()).reshape(kernel.shape), bias)
        return graph

    return context.deliver(recipe, "scrambled_layer", context.convert(recipe, change))


def scrambled_prediction(context: FaultContext, recipe: str) -> Path:
    def change(graph: Graph) -> Graph:
        layer = graph.call("prediction").layer
        kernel, bias = layer.get_weights()
        _set(layer, context.rng.permutation(kernel, axis=0), bias)
        return graph

    return context.deliver(recipe, "scrambled_prediction", context.convert(recipe, change))


def not_a_number(context: FaultContext, recipe: str) -> Path:
    def change(graph: Graph) -> Graph:
        layer = graph.call("block2_conv1").layer
        kernel, bias = layer.get_weights()
        bias[0] = np.nan
        layer.set_weights([kernel, bias])
        return graph

    if recipe.startswith("onnx"):
        return context.deliver(recipe, "not_a_number", context.convert(recipe, change))
    return context.deliver(recipe, "not_a_number", _tflite_nan(context.healthy(recipe).read_bytes()))


def output_scale(context: FaultContext, recipe: str) -> Path:
    factor = 2.0 if context.rng.random() < 0.5 else 0.5
    healthy = context.healthy(recipe)
    if recipe.startswith("onnx"):
        content = _onnx_scaled_output(healthy, factor)
    elif recipe == "tflite-int8":
        content = _tflite_output_scale(healthy.read_bytes(), factor)
    else:

        def change(graph: Graph) -> Graph:
            import keras

            scaled = Value(1_000)
            call = Call("scaled", keras.layers.Rescaling(factor), (graph.output,), {}, (scaled,))
            return replace(graph, calls=(*graph.calls, call), output=scaled)

        content = context.convert(recipe, change)
    return context.deliver(recipe, "output_scale", content)


def other_run(context: FaultContext, recipe: str) -> Path:
    source = next(path for path in open_run(context.other).artefacts() if path.stem == recipe)
    path = context.place("other_run") / source.name
    shutil.copy(source, path)
    shutil.copy(sidecar_of(source), sidecar_of(path))
    return path


def truncated(context: FaultContext, recipe: str) -> Path:
    content = context.healthy(recipe).read_bytes()
    return context.deliver(recipe, "truncated", content[: int(len(content) * context.rng.uniform(0.2, 0.95))])


def without_its_end(context: FaultContext, recipe: str) -> Path:
    return context.deliver(recipe, "without_its_end", context.healthy(recipe).read_bytes()[:-64])


def _onnx_divided(path: Path) -> bytes:
    import onnx

    model = onnx.load(path)
    graph = model.graph
    scale = next((tensor for tensor in graph.initializer if tensor.name == "pixels/scale"), None)
    factor = onnx.numpy_helper.from_array(np.float32(1 / 255), "pixels/scale" if scale else "factor")
    if scale is not None:
        scale.CopyFrom(factor)
    else:
        graph.initializer.append(factor)
        transpose = graph.node[0]
        target = transpose.output[0]
        transpose.output[0] = "unscaled"
        graph.node.insert(1, onnx.helper.make_node("Mul", ["unscaled", "factor"], [target]))
    return bytes(model.SerializeToString())


def _onnx_scaled_output(path: Path, factor: float) -> bytes:
    import onnx

    model = onnx.load(path)
    graph = model.graph
    name = graph.output[0].name
    last = next(node for node in graph.node if name in node.output)
    last.output[0] = "unscaled"
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(factor), "factor"))
    graph.node.append(onnx.helper.make_node("Mul", ["unscaled", "factor"], [name]))
    return bytes(model.SerializeToString())


def _tflite_output_scale(content: bytes, factor: float) -> bytes:
    """Patched in place, so that metadata and the archive behind the model stay."""
    from ai_edge_litert import schema_py_generated as schema

    buffer = bytearray(content)
    graph = schema.Model.GetRootAs(buffer, 0).Subgraphs(0)
    quantization = graph.Tensors(graph.Outputs(0)).Quantization()
    table = quantization._tab
    at = table.Vector(table.Offset(8))  # the slot of `scale` in QuantizationParameters
    buffer[at : at + 4] = np.float32(quantization.Scale(0) * factor).tobytes()
    return bytes(buffer)


def _tflite_nan(content: bytes) -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    buffer = bytearray(content)
    model = schema.Model.GetRootAs(buffer, 0)
    graph = model.Subgraphs(0)
    codes = schema.BuiltinOperator
    for index in range(graph.OperatorsLength()):
        op = graph.Operators(index)
        if model.OperatorCodes(op.OpcodeIndex()).BuiltinCode() == codes.CONV_2D:
            table = model.Buffers(graph.Tensors(op.Inputs(2)).Buffer())._tab
            at = table.Vector(table.Offset(4))
            buffer[at : at + 4] = np.float32(np.nan).tobytes()
            return bytes(buffer)
    raise AssertionError("no convolution in the file")
