"""The tables of TFLite metadata, written for an image classifier and read from any model.

Slots, union tags and the identifier are those of TensorFlow Lite Support's `metadata_schema.fbs` (namespace `tflite`,
identifier "M001"), those of `Model`, `Entry` and `Buffer` of TensorFlow Lite's own `schema.fbs` ("TFL3").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tledge.core.errors import DataError
from tledge.core.types import Json
from tledge.formats.tflite_flatbuffer import Table, TableView, encode

LABELS_FILE = "labels.txt"
LINEAGE_FILE = "tledge.json"
MODEL_IDENTIFIER = b"TFL3"
METADATA_IDENTIFIER = b"M001"
METADATA_NAME = "TFLITE_METADATA"

_MIN_PARSER_VERSION = "1.0.0"
_TENSOR_AXIS_LABELS = 2
_IMAGE_PROPERTIES = 2
_NORMALIZATION_OPTIONS = 1
_COLOR_SPACES = ("", "RGB", "GRAYSCALE")


class _Model(IntEnum):
    BUFFERS, METADATA = 4, 6


class _Entry(IntEnum):
    NAME, BUFFER = 0, 1


class _Buffer(IntEnum):
    DATA = 0


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

    `labels` are in output order, `lineage` must be JSON. Whether input and output are uint8 is read from the model.

    Raises:
        DataError: a label is empty, has a line break or is no valid Unicode: a text file of one label a line cannot
            hold it.
    """

    name: str
    description: str
    version: str
    image_size_px: int
    labels: tuple[str, ...]
    lineage: Mapping[str, Any]
    author: str = "tledge"
    license: str | None = None

    def __post_init__(self) -> None:
        for label in self.labels:
            if not label or any(char in "\n\r" or "\ud800" <= char <= "\udfff" for char in label):
                raise DataError(f"expected class names of one line of text, but got {label!r}; rename the folder")


def metadata_buffer(metadata: ImageClassifierMetadata, output_is_uint8: bool) -> bytes:
    """Encode the `ModelMetadata` flatbuffer that goes into a buffer of the model."""
    subgraph: Table = {
        _Subgraph.INPUTS: [_input_tensor(metadata.image_size_px)],
        _Subgraph.OUTPUTS: [_output_tensor(255.0 if output_is_uint8 else 1.0)],
    }
    lineage = {_File.NAME: LINEAGE_FILE, _File.DESCRIPTION: "which run and which reference model this file comes from"}
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
    return encode(root, METADATA_IDENTIFIER)


def _input_tensor(side: int) -> Table:
    # Mean 0 and deviation 1: raw pixels go in, since the preprocessing is part of the model.
    normalization = {_Normalization.MEAN: (0.0,), _Normalization.STD: (1.0,)}
    # The image's size is the tensor's shape; ImageProperties has a field for it only for shapes that vary.
    image = {_Image.COLOR_SPACE: _COLOR_SPACES.index("RGB")}
    return {
        _Tensor.NAME: "image",
        _Tensor.DESCRIPTION: f"RGB image, {side} x {side} pixels, values 0 to 255",
        _Tensor.CONTENT: {_Union.TAG: _IMAGE_PROPERTIES, _Union.TABLE: image},
        _Tensor.UNITS: [{_Union.TAG: _NORMALIZATION_OPTIONS, _Union.TABLE: normalization}],
        _Tensor.STATS: {_Stats.MAX: (255.0,), _Stats.MIN: (0.0,)},
    }


def _output_tensor(maximum: float) -> Table:
    labels = {
        _File.NAME: LABELS_FILE,
        _File.DESCRIPTION: "class names in output order",
        _File.TYPE: _TENSOR_AXIS_LABELS,
    }
    return {
        _Tensor.NAME: "probability",
        _Tensor.DESCRIPTION: "probability of each class",
        _Tensor.STATS: {_Stats.MAX: (maximum,), _Stats.MIN: (0.0,)},
        _Tensor.FILES: [labels],
    }


def find_metadata(model: bytes) -> TableView | None:
    """Find a TFLite model's `ModelMetadata` table; None if it has none.

    Raises:
        ArtefactError: `model` is not TFLite, or was cut within the tables read.
    """
    root = TableView.root(model, MODEL_IDENTIFIER)
    buffers = root.tables(_Model.BUFFERS)
    for entry in root.tables(_Model.METADATA):
        index = entry.uint(_Entry.BUFFER)
        if entry.text(_Entry.NAME) == METADATA_NAME and index < len(buffers):
            return TableView.root(buffers[index].data(_Buffer.DATA), METADATA_IDENTIFIER)
    return None


def labels_file_name(metadata: TableView) -> str | None:
    """Name of the file of the outputs' class names; of several translations the first, which is the default."""
    for tensor in _tensors(metadata, _Subgraph.OUTPUTS):
        for file in tensor.tables(_Tensor.FILES):
            if file.byte(_File.TYPE) == _TENSOR_AXIS_LABELS:
                return file.text(_File.NAME)
    return None


def summarize(metadata: TableView) -> Json:
    """Everything `read_summary` returns."""
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
