"""Read VGG16's 13 convolutions out of a weight file. Files are read as data: no model is rebuilt from them."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError, WeightsError
from tledge.model.onnx_files import read_onnx

Tensor = NDArray[np.float32]
KERNEL_SHAPES: Mapping[str, tuple[int, int, int, int]] = {
    f"block{b}_conv{c}": (3, 3, inputs, outputs)
    for b, block in enumerate(
        (
            ((3, 64), (64, 64)),
            ((64, 128), (128, 128)),
            ((128, 256), (256, 256), (256, 256)),
            ((256, 512), (512, 512), (512, 512)),
            ((512, 512), (512, 512), (512, 512)),
        ),
        1,
    )
    for c, (inputs, outputs) in enumerate(block, 1)
}


def read_trunk(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read the trunk's kernels and biases.

    Args:
        path: .h5 or .weights.h5 (Keras 2 or 3), .keras, or .onnx with VGG16's convolutions.

    Returns:
        Layer name to (kernel (3, 3, in, out), bias (out,)), float32, in the order of the layers.

    Raises:
        WeightsError: another suffix, a truncated file, weights of an .onnx file outside its folder or missing, or
            tensors that are not VGG16's.
    """
    readers = {".h5": _read_h5, ".keras": _read_keras, ".onnx": _read_onnx}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(f"expected weights as {', '.join(readers)}, but got {path.name}; convert the file first")
    try:
        convolutions = reader(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsError(
            f"expected VGG16 weights in {path}, but the file cannot be read ({reason}); it may be cut short"
        ) from None
    return _name(path, convolutions)


def _name(path: Path, convolutions: list[tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    if len(convolutions) != len(KERNEL_SHAPES):
        raise WeightsError(
            f"expected VGG16's {len(KERNEL_SHAPES)} 3x3 convolutions in {path}, but found {len(convolutions)}; "
            "pass a file of VGG16 weights"
        )
    named = {}
    for (name, shape), (kernel, bias) in zip(KERNEL_SHAPES.items(), convolutions, strict=True):
        if kernel.shape != shape or bias.shape != shape[-1:]:
            raise WeightsError(
                f"expected {name} of shape {shape} in {path}, but found {kernel.shape} with bias {bias.shape}; "
                "pass a file of unpruned VGG16 weights"
            )
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise WeightsError(f"expected finite numbers in {path}, but {name} holds NaN or infinity; use another file")
        named[name] = (np.ascontiguousarray(kernel, np.float32), np.ascontiguousarray(bias, np.float32))
    return named


def _natural(name: str) -> list[tuple[int, str]]:
    # "conv2d_10" after "conv2d_9", and "conv2d" first: Keras 3 numbers the layers of a .weights.h5 like that.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _read_h5(path: Path) -> list[tuple[Tensor, Tensor]]:
    with path.open("rb") as stream:
        return _convolutions_in_h5(stream)


def _read_keras(path: Path) -> list[tuple[Tensor, Tensor]]:
    with zipfile.ZipFile(path) as archive:
        return _convolutions_in_h5(io.BytesIO(archive.read("model.weights.h5")))


def _convolutions_in_h5(stream: Any) -> list[tuple[Tensor, Tensor]]:
    h5py = require("h5py")
    groups: dict[str, list[Tensor]] = {}

    def visit(name: str, item: Any) -> None:
        # Optimizer slots have the shapes of the weights they belong to.
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            groups.setdefault(name.rpartition("/")[0], []).append(np.asarray(item))

    with h5py.File(stream, "r") as file:
        file.visititems(visit)
    found = []
    for name in sorted(groups, key=_natural):
        kernels = [t for t in groups[name] if t.ndim == 4 and t.shape[:2] == (3, 3)]
        biases = [t for t in groups[name] if t.ndim == 1]
        if len(kernels) == 1 and len(biases) == 1:
            found.append((kernels[0], biases[0]))
    return found


def _read_onnx(path: Path) -> list[tuple[Tensor, Tensor]]:
    onnx = require("onnx")
    try:
        graph = read_onnx(path).graph
    except ArtefactError as error:
        raise WeightsError(str(error)) from None
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Conv" and initializers.keys() >= {*node.input[1:]}:
            kernel = onnx.numpy_helper.to_array(initializers[node.input[1]])
            if kernel.ndim == 4 and kernel.shape[2:] == (3, 3):
                bias = _onnx_bias(onnx, node, graph, initializers)
                found.append((kernel.transpose(2, 3, 1, 0), bias))
    return found


def _onnx_bias(onnx: Any, conv: Any, graph: Any, initializers: Mapping[str, Any]) -> Tensor:
    if len(conv.input) == 3:
        return np.asarray(onnx.numpy_helper.to_array(initializers[conv.input[2]]))
    # Some exporters leave the bias as an Add after the convolution.
    for node in graph.node:
        if node.op_type == "Add" and conv.output[0] in node.input:
            other = next(name for name in node.input if name != conv.output[0])
            return np.asarray(onnx.numpy_helper.to_array(initializers[other])).reshape(-1)
    return np.zeros(initializers[conv.input[1]].dims[0], np.float32)  # left out by an exporter that saw only zeros
