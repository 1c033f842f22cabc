"""TFLite metadata: what MediaPipe Tasks and Android's Task Library need to classify photos with a bare file.

The layout is that of TensorFlow Lite Support's `metadata_schema.fbs`, version 1: a `ModelMetadata` flatbuffer in a
buffer of the model, and the files it speaks of in a zip archive behind the model.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tledge.dependencies import require
from tledge.errors import ArtefactError
from tledge.types import Json

LABELS_FILE = "labels.txt"
LINEAGE_FILE = "tledge.json"
METADATA_NAME = b"TFLITE_METADATA"

_IDENTIFIER = b"M001"
_MIN_PARSER_VERSION = "1.0.0"
_TENSOR_AXIS_LABELS = 2
_IMAGE_PROPERTIES = 2
_NORMALIZATION_OPTIONS = 1
_RGB = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class ImageClassifierMetadata:
    """What a phone app is told about a classifier of raw RGB pixels; `lineage` must be JSON."""

    name: str
    description: str
    version: str
    image_size_px: int
    labels: tuple[str, ...]
    lineage: Mapping[str, Any]


def finalize(model: bytes, metadata: ImageClassifierMetadata) -> bytes:
    """Embed metadata, labels and lineage in a TFLite model and free its batch dimension.

    The converter leaves a constant shape (1, K) in the reshape before a dense layer; as (-1, K) the same graph takes
    any batch through `resize_tensor_input`.

    Args:
        model: a TFLite flatbuffer without metadata.
        metadata: what to embed; equal arguments give equal bytes.
    """
    flatbuffers, schema = require("flatbuffers"), require("ai_edge_litert.schema_py_generated")
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    _free_batch(tree, schema)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(_metadata_table(metadata), np.uint8)
    tree.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA_NAME, len(tree.buffers) - 1
    tree.metadata = [*(tree.metadata or []), entry]
    builder = flatbuffers.Builder(len(model) + (1 << 16))
    builder.Finish(tree.Pack(builder), b"TFL3")
    stream = io.BytesIO(bytes(builder.Output()))
    lineage = json.dumps(dict(metadata.lineage), sort_keys=True, ensure_ascii=False)
    # Mode "a" keeps the zip's offsets relative to the start of the whole file, as the phone libraries expect.
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS_FILE, _EPOCH), "".join(f"{label}\n" for label in metadata.labels))
        archive.writestr(zipfile.ZipInfo(LINEAGE_FILE, _EPOCH), lineage)
    return stream.getvalue()


def _free_batch(tree: Any, schema: Any) -> None:
    for graph in tree.subgraphs:
        for op in graph.operators:
            code = tree.operatorCodes[op.opcodeIndex].builtinCode
            if code == schema.BuiltinOperator.RESHAPE:
                shape_buffer = tree.buffers[graph.tensors[op.inputs[1]].buffer]
                shape = np.frombuffer(bytes(shape_buffer.data), np.int32).copy()
                if shape[0] == 1:
                    shape[0] = -1
                    shape_buffer.data = np.frombuffer(shape.tobytes(), np.uint8)
                    if op.builtinOptions is not None:
                        op.builtinOptions.newShape = shape


def _table(builder: Any, fields: Mapping[int, int], small: Mapping[int, int] | None = None) -> int:
    """Write a table; `fields` maps slots to offsets, `small` maps slots to one-byte values."""
    small = small or {}
    builder.StartObject(max((*fields, *small)) + 1)
    for slot, offset in fields.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in small.items():
        builder.PrependInt8Slot(slot, value, 0)
    return int(builder.EndObject())


def _vector(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _metadata_table(metadata: ImageClassifierMetadata) -> bytes:
    builder = require("flatbuffers").Builder(1024)

    def text(value: str) -> int:
        return int(builder.CreateString(value))

    def floats(value: float) -> int:
        return int(builder.CreateNumpyVector(np.array([value], np.float32)))

    def associated(name: str, description: str, kind: int) -> int:
        return _table(builder, {0: text(name), 1: text(description)}, {2: kind})

    subgraph = _table(
        builder,
        {
            2: _vector(builder, [_input_tensor(builder, text, floats, metadata)]),
            3: _vector(builder, [_output_tensor(builder, text, floats, associated)]),
        },
    )
    lineage = associated(LINEAGE_FILE, "which run and which reference model this file comes from", 0)
    root = _table(
        builder,
        {
            0: text(metadata.name),
            1: text(metadata.description),
            2: text(metadata.version),
            3: _vector(builder, [subgraph]),
            4: text("tledge"),
            6: _vector(builder, [lineage]),
            7: text(_MIN_PARSER_VERSION),
        },
    )
    builder.Finish(root, _IDENTIFIER)
    return bytes(builder.Output())


def _input_tensor(
    builder: Any, text: Callable[[str], int], floats: Callable[[float], int], metadata: ImageClassifierMetadata
) -> int:
    content = _table(builder, {1: _table(builder, {}, {0: _RGB})}, {0: _IMAGE_PROPERTIES})
    # Mean 0 and deviation 1: raw pixels go in, since the preprocessing is part of the model.
    normalization = _table(builder, {0: floats(0.0), 1: floats(1.0)})
    unit = _table(builder, {1: normalization}, {0: _NORMALIZATION_OPTIONS})
    side = metadata.image_size_px
    return _table(
        builder,
        {
            0: text("image"),
            1: text(f"RGB image, {side} x {side} pixels, values 0 to 255"),
            3: content,
            4: _vector(builder, [unit]),
            5: _table(builder, {0: floats(255.0), 1: floats(0.0)}),
        },
    )


def _output_tensor(
    builder: Any, text: Callable[[str], int], floats: Callable[[float], int], associated: Callable[[str, str, int], int]
) -> int:
    labels = associated(LABELS_FILE, "class names in output order", _TENSOR_AXIS_LABELS)
    return _table(
        builder,
        {
            0: text("probability"),
            1: text("probability of each class"),
            5: _table(builder, {0: floats(1.0), 1: floats(0.0)}),
            6: _vector(builder, [labels]),
        },
    )


def read_labels(model: bytes) -> tuple[str, ...] | None:
    """Class names embedded in a TFLite file; None if it carries none.

    Raises:
        ArtefactError: the archive behind the model is damaged.
    """
    names = [name for name in _archive_names(model) if name.endswith(".txt")]
    if not names:
        return None
    name = LABELS_FILE if LABELS_FILE in names else names[0]
    return tuple(_archive_member(model, name).decode().splitlines())


def read_lineage(model: bytes) -> Json | None:
    """Lineage that tledge embedded in a TFLite file; None if another tool wrote it."""
    if LINEAGE_FILE not in _archive_names(model):
        return None
    lineage = json.loads(_archive_member(model, LINEAGE_FILE))
    return lineage if isinstance(lineage, dict) else None


def has_metadata(model: bytes) -> bool:
    """Whether the model announces metadata; then an archive must follow it, or the file was cut."""
    schema = require("ai_edge_litert.schema_py_generated")
    root = schema.Model.GetRootAs(model, 0)
    return any(root.Metadata(i).Name() == METADATA_NAME for i in range(root.MetadataLength()))


def _archive_names(model: bytes) -> list[str]:
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        if has_metadata(model):
            raise ArtefactError(
                "expected labels behind the TFLite model, but the file ends early; copy or export it again"
            ) from None
        return []


def _archive_member(model: bytes, name: str) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            return archive.read(name)
    except (zipfile.BadZipFile, EOFError):
        raise ArtefactError(
            f"expected {name} in the TFLite file, but its archive is damaged; copy or export it again"
        ) from None
