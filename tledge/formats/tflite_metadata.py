"""TFLite metadata: what MediaPipe Tasks and Android's Task Library need to classify photos with a bare file.

A `ModelMetadata` flatbuffer sits in a buffer of the model, announced as "TFLITE_METADATA"; the files it speaks of
(labels, lineage) follow the model as a zip archive, stored uncompressed.
"""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError
from tledge.core.types import Json
from tledge.formats.tflite_schema import (
    LABELS_FILE,
    LINEAGE_FILE,
    METADATA_NAME,
    MODEL_IDENTIFIER,
    ImageClassifierMetadata,
    find_metadata,
    labels_file_name,
    metadata_buffer,
    summarize,
)

__all__ = [
    "ImageClassifierMetadata",
    "embed",
    "finalize",
    "make_batch_resizable",
    "read_labels",
    "read_lineage",
    "read_summary",
]

_BUFFER_ALIGNMENT = 16
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


def finalize(model: bytes, metadata: ImageClassifierMetadata) -> bytes:
    """Free a TFLite model's batch dimension and embed metadata, labels and lineage, packing the model once.

    Args:
        model: a TFLite classifier of one input and one output; metadata and archive it already carries are replaced.
        metadata: what to embed; equal arguments give equal bytes.

    Returns:
        The model with its archive behind it.

    Raises:
        ArtefactError: `model` is not TFLite, or has not one input and one output of one value per label.
    """
    tree = _unpack(model)
    _free_batch(tree)
    return _embed(tree, metadata, len(model))


def embed(model: bytes, metadata: ImageClassifierMetadata) -> bytes:
    """Embed metadata, labels and lineage and leave the graph alone; arguments and errors are those of `finalize`."""
    return _embed(_unpack(model), metadata, len(model))


def make_batch_resizable(model: bytes) -> bytes:
    """Let `resize_tensor_input` change the batch of a model that was converted with batch 1.

    The converter leaves a constant shape (1, K) in the reshape before a dense layer; this makes it (-1, K).

    Args:
        model: a TFLite model; an archive behind it is dropped, so free the batch before embedding.

    Returns:
        The model, packed anew.

    Raises:
        ArtefactError: `model` is not TFLite.
    """
    tree = _unpack(model)
    _free_batch(tree)
    return _pack(tree, len(model))


def read_labels(model: bytes) -> tuple[str, ...] | None:
    """Class names embedded in a TFLite file, by tledge or another tool; None if it carries none.

    Raises:
        ArtefactError: `model` is not TFLite, was cut, or the archive behind it is damaged.
    """
    metadata = find_metadata(model)
    announced = labels_file_name(metadata) if metadata else None
    content = _associated_file(model, announced or LABELS_FILE, expected=announced is not None)
    if content is None:
        return None
    # Not splitlines: a class name may hold a character that only Unicode takes for a line break.
    lines = content.decode("utf-8", errors="replace").removesuffix("\n").split("\n")
    return tuple(line.removesuffix("\r") for line in lines)


def read_lineage(model: bytes) -> Json | None:
    """Lineage that tledge embedded in a TFLite file; None if another tool wrote it.

    Raises:
        ArtefactError: `model` is not TFLite, was cut, or the archive behind it is damaged.
    """
    metadata = find_metadata(model)
    announced = metadata is not None and LINEAGE_FILE in summarize(metadata)["associated_files"]
    content = _associated_file(model, LINEAGE_FILE, expected=announced)
    try:
        lineage = None if content is None else json.loads(content)
    except ValueError:
        raise ArtefactError(f"expected JSON in the model's {LINEAGE_FILE}, but it is none; export it again") from None
    return lineage if isinstance(lineage, dict) else None


def read_summary(model: bytes) -> Json | None:
    """What a TFLite file's metadata says; None if it has none.

    Returns:
        `name`, `description`, `version`, `author`, `license`, `min_parser_version`, `associated_files` (names), and
        `inputs` and `outputs`: one object per tensor with `name`, `description`, `color_space`, normalisation `mean`
        and `std`, stats `min` and `max`, `associated_files`. What the file does not say is "" or [].

    Raises:
        ArtefactError: `model` is not TFLite, or was cut within the model.
    """
    metadata = find_metadata(model)
    return None if metadata is None else summarize(metadata)


def _unpack(model: bytes) -> Any:
    schema = require("ai_edge_litert.schema_py_generated")
    if model[4:8] != MODEL_IDENTIFIER:
        raise ArtefactError(f"expected a TFLite model, but its identifier is {model[4:8]!r}; export it again")
    try:
        return schema.ModelT.InitFromPackedBuf(model, 0)
    except (struct.error, ValueError, IndexError) as error:
        raise ArtefactError(f"expected a whole TFLite model, but it is damaged ({error}); export it again") from None


@dataclass(frozen=True)
class _AlignedBuffer:
    """Packs a buffer at the 16-byte boundary that TFLite's schema demands and its generated Python code forgets."""

    buffer: Any

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the generated code calls it so
        if self.buffer.data is not None:
            builder.Prep(_BUFFER_ALIGNMENT, len(self.buffer.data))
        return self.buffer.Pack(builder)


def _pack(tree: Any, size_hint: int) -> bytes:
    packed = copy.copy(tree)
    packed.buffers = [_AlignedBuffer(buffer) for buffer in tree.buffers]
    builder = require("flatbuffers").Builder(size_hint + (1 << 16))
    builder.Finish(packed.Pack(builder), MODEL_IDENTIFIER)
    return bytes(builder.Output())


def _free_batch(tree: Any) -> None:
    reshape = require("ai_edge_litert.schema_py_generated").BuiltinOperator.RESHAPE
    for graph in tree.subgraphs:
        for op in graph.operators:
            if tree.operatorCodes[op.opcodeIndex].builtinCode != reshape:
                continue
            before, after = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape
            if not all(shape is not None and len(shape) and shape[0] == 1 for shape in (before, after)):
                continue
            shape = np.array([-1, *after[1:]], np.int32)
            constant = tree.buffers[graph.tensors[op.inputs[1]].buffer] if len(op.inputs) > 1 else None
            if constant is not None and constant.data is not None:
                constant.data = shape.view(np.uint8)
            if op.builtinOptions is not None and op.builtinOptions.newShape is not None:
                op.builtinOptions.newShape = shape


def _embed(tree: Any, metadata: ImageClassifierMetadata, size_hint: int) -> bytes:
    schema = require("ai_edge_litert.schema_py_generated")
    table = metadata_buffer(metadata, _only_output(tree, len(metadata.labels)).type == schema.TensorType.UINT8)
    entries = tree.metadata or []
    if not any(entry.name == METADATA_NAME.encode() for entry in entries):
        tree.metadata = [*entries, schema.MetadataT(name=METADATA_NAME.encode(), buffer=len(tree.buffers))]
        tree.buffers = [*tree.buffers, schema.BufferT()]
    index = next(entry.buffer for entry in tree.metadata if entry.name == METADATA_NAME.encode())
    tree.buffers[index].data = np.frombuffer(table, np.uint8)
    lineage = json.dumps(dict(metadata.lineage), sort_keys=True, allow_nan=False, separators=(",", ":"))
    files = {LABELS_FILE: "".join(f"{label}\n" for label in metadata.labels), LINEAGE_FILE: lineage}
    stream = io.BytesIO(_pack(tree, size_hint))
    # Mode "a" keeps the zip's offsets relative to the start of the whole file, as the phone libraries expect.
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            # Fixed, or else Windows would give other bytes.
            info.create_system, info.external_attr = _UNIX, 0o644 << 16
            archive.writestr(info, text.encode())
    return stream.getvalue()


def _only_output(tree: Any, labels: int) -> Any:
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ArtefactError(
            f"expected a TFLite model of one input and one output, but it has {len(graph.inputs)} and "
            f"{len(graph.outputs)}; export a classifier"
        )
    output = graph.tensors[graph.outputs[0]]
    if output.shape[-1] != labels:
        raise ArtefactError(
            f"expected one label for each of the model's {output.shape[-1]} outputs, but got {labels}; "
            "take labels and model from the same run"
        )
    return output


def _associated_file(model: bytes, name: str, expected: bool) -> bytes | None:
    stream = io.BytesIO(model)
    if not expected and not zipfile.is_zipfile(stream):
        return None
    try:
        with zipfile.ZipFile(stream) as archive:
            if expected or name in archive.namelist():
                return archive.read(name)
    except (zipfile.BadZipFile, KeyError, EOFError, RuntimeError, ValueError, zlib.error):
        raise ArtefactError(
            f"expected {name} behind the TFLite model, but the archive there is cut or damaged; copy or export it again"
        ) from None
    return None
