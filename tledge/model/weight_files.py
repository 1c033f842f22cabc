"""Read VGG16's 13 convolutions out of a weight file. Files are read as data: no model is rebuilt from them."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError, WeightsError
from tledge.core.files import sha256_file
from tledge.core.foreign import foreign
from tledge.model import trunk_graphs
from tledge.model.hdf5_trial import require_readable_hdf5
from tledge.model.onnx_files import read_onnx
from tledge.model.trunk_graphs import FoldedTrunk

Tensor = NDArray[np.float32]
_TORCH_NAME = re.compile(r"(^|[/.])features\.\d+\.(weight|bias)$")
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


@dataclass(frozen=True)
class TrunkFile:
    """The trunk in a file: layer name to (kernel (3, 3, in, out), bias (out,)), float32, in the order of the layers.

    `notes` say what was made of the file on the way, and what its weights may expect that tledge does not do.
    """

    tensors: dict[str, tuple[Tensor, Tensor]]
    notes: tuple[str, ...] = ()


def read_trunk(path: Path, *, is_known: bool = False) -> TrunkFile:
    """Read the trunk's kernels and biases.

    Where the file holds a whole model, batch normalization right behind a convolution is folded into it. A file of
    weights alone does not say where a layer stands, so it may hold nothing but convolutions and dense layers.

    Args:
        path: .h5 or .weights.h5 (Keras 2 or 3), .keras, or .onnx with VGG16's convolutions.
        is_known: the caller compares the tensors with a digest, so what else is in a file of weights does not matter.

    Raises:
        ArtefactError: it is of unknown origin, and no library comes to an end with it.
        WeightsError: another suffix, a truncated file, weights of an .onnx file outside its folder or missing, tensors
            that are not VGG16's, or some that would be left out.
    """
    readers = {".h5": _read_h5, ".keras": _read_keras, ".onnx": _read_onnx}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(f"expected weights as {', '.join(readers)}, but got {path.name}; convert the file first")

    def refusal(reason: str) -> WeightsError:
        return WeightsError(
            f"expected VGG16 weights in {path}, but the file cannot be read ({reason}); it may be cut short"
        )

    with foreign(refusal):
        if path.exists() and not path.is_file():
            raise WeightsError(f"expected weights in a file, but {path} is none; save them as a file")
        if not is_known and path.exists():
            require_readable_hdf5(path, sha256_file(path))
        found, names = reader(path, is_known)
    return TrunkFile(_name(path, found), _notes(path, found, names))


def _notes(path: Path, found: FoldedTrunk, names: Iterable[str]) -> tuple[str, ...]:
    notes = []
    if found.folded:
        notes.append(f"{path.name}: {len(found.folded)} normalizations folded into the convolutions before them")
    if any(_TORCH_NAME.search(name) for name in names):
        notes.append(
            f"{path.name}: weights in PyTorch's convention, which mostly expect RGB pixels of 0..1 less ImageNet's "
            "mean, by its deviation; tledge feeds BGR pixels of 0..255 less ImageNet's means, so features may be worse"
        )
    if found.before:
        notes.append(
            f"{path.name}: its model changes pixels before the first convolution ({', '.join(found.before)}); tledge "
            "feeds BGR pixels of 0..255 less ImageNet's means instead, so features may be worse"
        )
    return tuple(notes)


def _name(path: Path, found: FoldedTrunk) -> dict[str, tuple[Tensor, Tensor]]:
    convolutions = found.convolutions
    if len(convolutions) != len(KERNEL_SHAPES):
        raise _other_count(path, len(convolutions))
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


_Found = tuple[FoldedTrunk, list[str]]


def _read_h5(path: Path, is_known: bool) -> _Found:
    h5py = require("h5py")
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        return _in_h5(path, file, None if config is None else json.loads(config), is_known)


def _read_keras(path: Path, is_known: bool) -> _Found:
    # Before its version 2.12, Keras wrote HDF5 under this suffix as well.
    if not zipfile.is_zipfile(path) and require("h5py").is_hdf5(path):
        return _read_h5(path, is_known)
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with require("h5py").File(weights, "r") as file:
        return _in_h5(path, file, config, is_known)


def _in_h5(path: Path, file: Any, config: Mapping[str, Any] | None, is_known: bool) -> _Found:
    names: list[str] = []
    file.visit(names.append)
    found = None if config is None else trunk_graphs.of_keras(path, config, file, len(KERNEL_SHAPES))
    if found is None:
        return FoldedTrunk(_convolutions_alone(path, file, is_known)), names
    return _of_count(path, found), names


def _of_count(path: Path, found: FoldedTrunk | int) -> FoldedTrunk:
    if isinstance(found, int):
        raise _other_count(path, found)
    return found


def _other_count(path: Path, count: int) -> WeightsError:
    return WeightsError(
        f"expected VGG16's {len(KERNEL_SHAPES)} 3x3 convolutions in {path}, but found {count}; "
        "pass a file of VGG16 weights"
    )


def _convolutions_alone(path: Path, file: Any, is_known: bool) -> list[tuple[Tensor, Tensor]]:
    """The convolutions of a file that does not say how its layers are connected."""
    h5py = require("h5py")
    groups: dict[str, list[Tensor]] = {}

    def visit(name: str, item: Any) -> None:
        # Optimizer slots have the shapes of the weights they belong to; whole numbers are the state of dropout.
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer") and item.dtype.kind == "f":
            # PyTorch's names stand side by side: features.0.weight and features.0.bias.
            layer = name.rpartition("/" if "/" in name else ".")[0]
            groups.setdefault(layer, []).append(np.asarray(item))

    file.visititems(visit)
    found, others = [], []
    for name in _in_order(file, groups):
        kernels = [_height_first(tensor) for tensor in groups[name] if tensor.ndim == 4]
        biases = [tensor for tensor in groups[name] if tensor.ndim == 1]
        if len(kernels) == 1 and kernels[0].shape[:2] == (3, 3) and len(groups[name]) == 2 and len(biases) == 1:
            found.append((kernels[0], biases[0]))
        elif not any(tensor.ndim == 2 for tensor in groups[name]):  # dense layers belong to a head
            others.append(name)
    # Of another network, how many convolutions it has says more than what else is in it.
    if others and not is_known and len(found) in (0, len(KERNEL_SHAPES)):
        raise WeightsError(
            f"expected VGG16's convolutions and dense layers alone in {path}, but it also holds {others[0]}"
            f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}, and of weights alone nobody knows where "
            "batch normalization and the like stand; pass the whole model (.keras, .h5 of model.save(), .onnx), where "
            "normalization is folded into the convolutions"
        )
    return found


def _in_order(file: Any, groups: Iterable[str]) -> list[str]:
    """Layers in the order of the network: as the file lists them, else as their names are numbered."""
    listed = [
        f"{layer}/{weight}".rpartition("/")[0]
        for layer in map(_text, file.attrs.get("layer_names", ()))
        for weight in map(_text, file[layer].attrs.get("weight_names", ()))
    ]
    places = {name: place for place, name in reversed(list(enumerate(listed)))}
    return sorted(groups, key=lambda name: (places.get(name, len(listed)), _natural(name)))


def _text(name: Any) -> str:
    return name.decode("utf-8", errors="replace") if isinstance(name, bytes) else str(name)


def _height_first(kernel: Tensor) -> Tensor:
    """(height, width, in, out) of a kernel that PyTorch keeps as (out, in, height, width)."""
    return kernel.transpose(2, 3, 1, 0) if kernel.shape[2:] == (3, 3) and kernel.shape[:2] != (3, 3) else kernel


def _read_onnx(path: Path, _: bool) -> _Found:
    try:
        model = read_onnx(path)
    except ArtefactError as error:
        raise WeightsError(str(error)) from None
    if any(entry.key == "tledge" for entry in model.metadata_props):
        raise WeightsError(
            f"expected a file of VGG16 weights, but {path} is an export of tledge, whose first kernel is made for RGB "
            "pixels; pass the model.keras of its run"
        )
    names = [tensor.name for tensor in model.graph.initializer]
    found = _of_count(path, trunk_graphs.of_onnx(path, model.graph, len(KERNEL_SHAPES)))
    return found, ["features.0.weight"] if model.producer_name == "pytorch" else names
