"""The files that one model consists of: their digest and size stand for the model in a check's result."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError
from tledge.core.files import sha256_file


@dataclass(frozen=True)
class ModelFiles:
    """What a model weighs and what identifies it.

    `sha256`, in hex, is that of the file; of a model of several files, that over the names and digests of all.
    """

    sha256: str
    size_bytes: int


def measure_files(path: Path) -> ModelFiles:
    """Digest and size of a model, weights in files of their own included.

    Args:
        path: a model file or a SavedModel directory that could be loaded.

    Raises:
        ArtefactError: an .onnx file names a file of weights outside its folder.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        files = [path, *(_external_files(path) if path.suffix.lower() == ".onnx" else ())]
    size_bytes = sum(file.stat().st_size for file in files)
    if files == [path]:
        return ModelFiles(sha256_file(path), size_bytes)
    root = path if path.is_dir() else path.parent
    lines = (f"{file.relative_to(root).as_posix()}\t{sha256_file(file)}\n" for file in files)
    return ModelFiles(hashlib.sha256("".join(lines).encode()).hexdigest(), size_bytes)


def _external_files(path: Path) -> list[Path]:
    """Files beside an ONNX model that hold its weights, as PyTorch's exporter writes them."""
    onnx = require("onnx")
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    names = {
        entry.value
        for tensor in tensors
        if onnx.external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in names:
        if not (path.parent / name).resolve().is_relative_to(path.parent.resolve()):
            raise ArtefactError(
                f"expected the weights of {path.name} beside it, but it names {name!r}; export it again"
            )
    return [path.parent / name for name in sorted(names)]
