"""Read .onnx files whose weights may stand in files beside them, as PyTorch's exporter writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError
from tledge.core.foreign import foreign


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX model that hold its weights, sorted; none if it holds them itself.

    Raises:
        ArtefactError: damaged, or it names a file that is outside its own folder or missing.
    """
    folder = path.parent.resolve()
    names = sorted({name for tensor in _tensors(_read(path).graph) if (name := _location(tensor)) is not None})
    for name in names:
        # Resolved, since a link may lead out as well.
        if not name or not (path.parent / name).resolve().is_relative_to(folder):
            raise ArtefactError(
                f"expected the weights of {path.name} beside it, but it names {name!r}; export it again"
            )
        if not (path.parent / name).is_file():
            raise ArtefactError(
                f"expected the weights of {path.name} in {name} beside it, but there is none; copy both files together"
            )
    return [path.parent / name for name in names]


def read_onnx(path: Path) -> Any:
    """Read an ONNX model with all of its weights.

    Returns:
        A `ModelProto` that names no other files.

    Raises:
        ArtefactError: damaged, or its weights are outside its own folder, missing or cut.
    """
    onnx, outside = require("onnx"), external_files(path)
    model = _read(path)

    def refusal(reason: str) -> ArtefactError:
        return ArtefactError(
            f"expected the whole weights of {path.name} beside it, but they cannot be read ({reason}); "
            "copy both files again"
        )

    if outside:
        with foreign(refusal):
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent.resolve()))
    return model


def _read(path: Path) -> Any:
    onnx = require("onnx")

    def refusal(reason: str) -> ArtefactError:
        return ArtefactError(f"expected a whole ONNX model in {path}, but it cannot be read ({reason}); copy it again")

    with foreign(refusal):
        return onnx.load(str(path), load_external_data=False)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every constant of a graph, those of nodes and of graphs inside it as well."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _location(tensor: Any) -> str | None:
    if not require("onnx").external_data_helper.uses_external_data(tensor):
        return None
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")
