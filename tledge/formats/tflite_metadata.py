"""TFLite metadata: what MediaPipe Tasks and Android's Task Library need to classify photos with a bare file.

A `ModelMetadata` flatbuffer sits in a buffer of the model, announced as "TFLITE_METADATA"; the files it speaks of
(labels, lineage) follow the model as a zip archive, stored uncompressed.

Slots, union tags and the identifier are those of TensorFlow Lite Support's `metadata_schema.fbs` (namespace `tflite`,
identifier "M001"), for which no package that runs beside LiteRT ships generated code.
"""

from __future__ import annotations

import copy
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError, DataError
from tledge.core.image_size import ImageSize, sides_text
from tledge.core.types import Json
from tledge.formats.tflite import IDENTIFIER, parse, write_old_operator_codes
from tledge.formats.tflite_flatbuffer import DAMAGED, Table, TableView, encode

T = TypeVar("T")

_LABELS_FILE = "labels.txt"
_LINEAGE_FILE = "tledge.json"
_METADATA_IDENTIFIER = b"M001"
_METADATA_NAME = b"TFLITE_METADATA"

_MIN_PARSER_VERSION = "1.0.0"
_TENSOR_AXIS_LABELS = 2
_IMAGE_PROPERTIES = 2
_NORMALIZATION_OPTIONS = 1
_COLOR_SPACES = ("", "RGB", "GRAYSCALE")
_BUFFER_ALIGNMENT = 16
_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


class _Root(IntEnum):
    NAME, DESCRIPTION, VERSION, SUBGRAPHS, AUTHOR, LICENSE, FILES, MIN_PARSER_VERSION = range(8)


class _Subgraph(IntEnum):
    INPUTS, OUTPUTS = 2, 3


class _Tensor(IntEnum):
    NAME, DESCRIPTION, CONTENT, UNITS, STATS, FILES = 0, 1, 3, 4, 5, 6


class _File(IntEnum):
    NAME, DESCRIPTION, TYPE = 0, 1, 2


class _Union(IntEnum):
    """`Content` and `ProcessUnit`: a union takes two slots."""

    TAG, TABLE = 0, 1


class _Image(IntEnum):
    COLOR_SPACE = 0


class _Normalization(IntEnum):
    MEAN, STD = 0, 1


class _Stats(IntEnum):
    MAX, MIN = 0, 1


@dataclass(frozen=True)
class ImageClassifierMetadata:
    """What a phone app is told about a classifier of raw RGB pixels.

    `labels` are in output order, `lineage` must be JSON, `resizing` is said of the input where there is something to
    say. Whether input and output are uint8 is read from the model.

    Raises:
        DataError: a label is empty, has a line break or is no valid Unicode: a text file of one label a line cannot
            hold it.
    """

    name: str
    description: str
    version: str
    image_size_px: ImageSize
    labels: tuple[str, ...]
    lineage: Mapping[str, Any]
    resizing: str = ""
    author: str = "tledge"
    license: str | None = None

    def __post_init__(self) -> None:
        for label in self.labels:
            if not label or any(char in "\n\r" or "\ud800" <= char <= "\udfff" for char in label):
                raise DataError(f"expected class names of one line of text, but got {label!r}; rename the folder")


def finalize(model: bytes, metadata: ImageClassifierMetadata) -> bytes:
    """Free a TFLite model's batch dimension and embed metadata, labels and lineage, packing the model once.

    Operators get their codes in both fields that readers know.

    Args:
        model: a TFLite classifier of one input and one output; metadata and archive it already carries are replaced.
        metadata: what to embed; equal arguments give equal bytes.

    Returns:
        The model with its archive behind it.

    Raises:
        ArtefactError: `model` is not TFLite, or has not one input and one output of one value per label.
    """
    tree = parse(model)
    _free_batch(tree)
    write_old_operator_codes(tree)
    return _embed(tree, metadata, len(model))


def embed(model: bytes, metadata: ImageClassifierMetadata) -> bytes:
    """Embed metadata, labels and lineage and leave the graph alone; arguments and errors are those of `finalize`."""
    return _embed(parse(model), metadata, len(model))


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
    tree = parse(model)
    _free_batch(tree)
    return pack(tree, len(model))


def read_labels(model: bytes) -> tuple[str, ...] | None:
    """Class names embedded in a TFLite file, by tledge or another tool; None if it carries none.

    Raises:
        ArtefactError: `model` is not TFLite, was cut, or the archive behind it is damaged.
    """
    announced = _from_metadata(model, _labels_file_name)
    content = _associated_file(model, announced or _LABELS_FILE, expected=announced is not None)
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
    summary = read_summary(model)
    announced = summary is not None and _LINEAGE_FILE in summary["associated_files"]
    content = _associated_file(model, _LINEAGE_FILE, expected=announced)
    try:
        lineage = None if content is None else json.loads(content)
    except ValueError:
        raise ArtefactError(f"expected JSON in the model's {_LINEAGE_FILE}, but it is none; export it again") from None
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
    return _from_metadata(model, _summarize)


def _from_metadata(model: bytes, read: Callable[[TableView], T]) -> T | None:
    """Read a TFLite model's `ModelMetadata` table; None if it has none."""
    tree = parse(model)
    for entry in tree.metadata or ():
        if entry.name == _METADATA_NAME and entry.buffer < len(tree.buffers):
            content = tree.buffers[entry.buffer].data
            try:
                return read(TableView.root(b"" if content is None else content.tobytes(), _METADATA_IDENTIFIER))
            except DAMAGED as error:
                raise ArtefactError(
                    f"expected whole metadata in the TFLite model, but they are damaged ({error}); "
                    "copy or export the file again"
                ) from None
    return None


def _labels_file_name(metadata: TableView) -> str | None:
    """Name of the file of the outputs' class names; of several translations the first, which is the default."""
    for tensor in _tensors(metadata, _Subgraph.OUTPUTS):
        for file in tensor.tables(_Tensor.FILES):
            if file.byte(_File.TYPE) == _TENSOR_AXIS_LABELS:
                return file.text(_File.NAME)
    return None


def _summarize(metadata: TableView) -> Json:
    """What `read_summary` returns."""
    texts = [slot for slot in _Root if slot not in (_Root.SUBGRAPHS, _Root.FILES)]
    return {
        **{slot.name.lower(): metadata.text(slot) for slot in texts},
        "associated_files": _file_names(metadata, _Root.FILES),
        "inputs": [_tensor_summary(tensor) for tensor in _tensors(metadata, _Subgraph.INPUTS)],
        "outputs": [_tensor_summary(tensor) for tensor in _tensors(metadata, _Subgraph.OUTPUTS)],
    }


def _tensors(metadata: TableView, slot: _Subgraph) -> Sequence[TableView]:
    subgraphs = metadata.tables(_Root.SUBGRAPHS)
    return subgraphs[0].tables(slot) if subgraphs else []


def _file_names(table: TableView, slot: int) -> list[str]:
    return [file.text(_File.NAME) for file in table.tables(slot)]


def _tensor_summary(tensor: TableView) -> Json:
    content, stats = tensor.table(_Tensor.CONTENT), tensor.table(_Tensor.STATS)
    image = content.table(_Union.TABLE) if content and content.byte(_Union.TAG) == _IMAGE_PROPERTIES else None
    color_space = image.byte(_Image.COLOR_SPACE) if image else 0
    units = [unit for unit in tensor.tables(_Tensor.UNITS) if unit.byte(_Union.TAG) == _NORMALIZATION_OPTIONS]
    normalization = units[0].table(_Union.TABLE) if units else None
    return {
        "name": tensor.text(_Tensor.NAME),
        "description": tensor.text(_Tensor.DESCRIPTION),
        "color_space": _COLOR_SPACES[color_space] if color_space < len(_COLOR_SPACES) else "",
        "mean": normalization.floats(_Normalization.MEAN) if normalization else [],
        "std": normalization.floats(_Normalization.STD) if normalization else [],
        "min": stats.floats(_Stats.MIN) if stats else [],
        "max": stats.floats(_Stats.MAX) if stats else [],
        "associated_files": _file_names(tensor, _Tensor.FILES),
    }


def _metadata_buffer(metadata: ImageClassifierMetadata, output_is_uint8: bool) -> bytes:
    """Encode the `ModelMetadata` flatbuffer that goes into a buffer of the model."""
    subgraph: Table = {
        _Subgraph.INPUTS: [_input_tensor(metadata)],
        _Subgraph.OUTPUTS: [_output_tensor(255.0 if output_is_uint8 else 1.0)],
    }
    lineage = {_File.NAME: _LINEAGE_FILE, _File.DESCRIPTION: "which run and which reference model this file comes from"}
    root: Table = {
        _Root.NAME: metadata.name,
        _Root.DESCRIPTION: metadata.description,
        _Root.VERSION: metadata.version,
        _Root.SUBGRAPHS: [subgraph],
        _Root.AUTHOR: metadata.author,
        _Root.LICENSE: metadata.license,
        _Root.FILES: [lineage],
        _Root.MIN_PARSER_VERSION: _MIN_PARSER_VERSION,
    }
    return encode(root, _METADATA_IDENTIFIER)


def _input_tensor(metadata: ImageClassifierMetadata) -> Table:
    # Mean 0 and deviation 1: raw pixels go in, since the preprocessing is part of the model.
    normalization = {_Normalization.MEAN: (0.0,), _Normalization.STD: (1.0,)}
    resizing = f"; {metadata.resizing}" if metadata.resizing else ""
    # The image's size is the tensor's shape; ImageProperties has a field for it only for shapes that vary.
    image = {_Image.COLOR_SPACE: _COLOR_SPACES.index("RGB")}
    return {
        _Tensor.NAME: "image",
        _Tensor.DESCRIPTION: f"RGB image, {sides_text(metadata.image_size_px)} pixels, values 0 to 255{resizing}",
        _Tensor.CONTENT: {_Union.TAG: _IMAGE_PROPERTIES, _Union.TABLE: image},
        _Tensor.UNITS: [{_Union.TAG: _NORMALIZATION_OPTIONS, _Union.TABLE: normalization}],
        _Tensor.STATS: {_Stats.MAX: (255.0,), _Stats.MIN: (0.0,)},
    }


def _output_tensor(maximum: float) -> Table:
    labels = {
        _File.NAME: _LABELS_FILE,
        _File.DESCRIPTION: "class names in output order",
        _File.TYPE: _TENSOR_AXIS_LABELS,
    }
    return {
        _Tensor.NAME: "probability",
        _Tensor.DESCRIPTION: "probability of each class",
        _Tensor.STATS: {_Stats.MAX: (maximum,), _Stats.MIN: (0.0,)},
        _Tensor.FILES: [labels],
    }


@dataclass(frozen=True)
class _AlignedBuffer:
    """Packs a buffer at the 16-byte boundary that TFLite's schema demands and its generated Python code forgets."""

    buffer: Any

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the generated code calls it so
        if self.buffer.data is not None:
            builder.Prep(_BUFFER_ALIGNMENT, len(self.buffer.data))
        return self.buffer.Pack(builder)


def pack(tree: Any, size_hint: int) -> bytes:
    """Write a model that `parse` read; `size_hint` is about its size in bytes."""
    packed = copy.copy(tree)
    packed.buffers = [_AlignedBuffer(buffer) for buffer in tree.buffers]
    builder = _sharing_builder(size_hint + (1 << 16))
    builder.Finish(packed.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _sharing_builder(size: int) -> Any:
    """A builder that writes equal vectors of int64 once: zero points per channel, 7 % of a net of thin layers."""
    plain = require("flatbuffers").Builder
    written: dict[bytes, int] = {}

    def create_once(builder: Any, values: Any) -> int:
        if values.dtype != np.int64:
            return int(plain.CreateNumpyVector(builder, values))
        key = values.tobytes()
        if key not in written:
            written[key] = plain.CreateNumpyVector(builder, values)
        return written[key]

    # A class statement would need the package when this module is imported.
    return type("SharingBuilder", (plain,), {"CreateNumpyVector": create_once})(size)


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
    table = _metadata_buffer(metadata, _only_output(tree, len(metadata.labels)).type == schema.TensorType.UINT8)
    entries = tree.metadata or []
    if not any(entry.name == _METADATA_NAME for entry in entries):
        tree.metadata = [*entries, schema.MetadataT(name=_METADATA_NAME, buffer=len(tree.buffers))]
        tree.buffers = [*tree.buffers, schema.BufferT()]
    index = next(entry.buffer for entry in tree.metadata if entry.name == _METADATA_NAME)
    tree.buffers[index].data = np.frombuffer(table, np.uint8)
    lineage = json.dumps(dict(metadata.lineage), sort_keys=True, allow_nan=False, separators=(",", ":"))
    files = {_LABELS_FILE: "".join(f"{label}\n" for label in metadata.labels), _LINEAGE_FILE: lineage}
    stream = io.BytesIO(pack(tree, size_hint))
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
