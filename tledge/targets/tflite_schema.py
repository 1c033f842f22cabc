"""Write and read the flatbuffer tables of TFLite metadata without a schema compiler.

Slots, union tags and the identifier are those of TensorFlow Lite Support's `metadata_schema.fbs` (namespace `tflite`,
file identifier "M001"), and, for `MODEL_*`, of TensorFlow Lite's `schema.fbs` ("TFL3"). A union takes two slots: its tag
and, after it, its table.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np

from tledge.dependencies import require
from tledge.errors import ArtefactError

MODEL_IDENTIFIER = b"TFL3"
METADATA_IDENTIFIER = b"M001"
METADATA_NAME = "TFLITE_METADATA"

MODEL_BUFFERS, MODEL_METADATA = 4, 6
BUFFER_DATA = 0
ENTRY_NAME, ENTRY_BUFFER = 0, 1

TENSOR_AXIS_LABELS = 2
IMAGE_PROPERTIES = 2
NORMALIZATION_OPTIONS = 1
COLOR_SPACES = ("UNKNOWN", "RGB", "GRAYSCALE")
RGB = COLOR_SPACES.index("RGB")


class Root(IntEnum):
    """Slots of `ModelMetadata`."""

    NAME, DESCRIPTION, VERSION, SUBGRAPHS, AUTHOR, LICENSE, FILES, MIN_PARSER_VERSION = range(8)


class Subgraph(IntEnum):
    """Slots of `SubGraphMetadata`, as far as used."""

    INPUTS, OUTPUTS = 2, 3


class Tensor(IntEnum):
    """Slots of `TensorMetadata`, as far as used."""

    NAME, DESCRIPTION, CONTENT, UNITS, STATS, FILES = 0, 1, 3, 4, 5, 6


class File(IntEnum):
    """Slots of `AssociatedFile`, as far as used."""

    NAME, DESCRIPTION, TYPE, LOCALE = range(4)


class Union(IntEnum):
    """Slots of `Content` and of `ProcessUnit`."""

    TAG, TABLE = range(2)


class Stats(IntEnum):
    """Slots of `Stats`."""

    MAX, MIN = range(2)


class Normalization(IntEnum):
    """Slots of `NormalizationOptions`."""

    MEAN, STD = range(2)


class TableWriter:
    """Builds one flatbuffer, children before parents; every method returns an offset to put into a parent."""

    def __init__(self) -> None:
        self._builder = require("flatbuffers").Builder(1024)

    def text(self, value: str) -> int:
        """Write a string."""
        return int(self._builder.CreateString(value))

    def floats(self, *values: float) -> int:
        """Write a vector of float32."""
        return int(self._builder.CreateNumpyVector(np.array(values, np.float32)))

    def vector(self, *tables: int) -> int:
        """Write a vector of tables."""
        self._builder.StartVector(4, len(tables), 4)
        for offset in reversed(tables):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def table(self, offsets: Mapping[int, int], tags: Mapping[int, int] | None = None) -> int:
        """Write a table.

        Args:
            offsets: slot to the offset of a string, vector or table.
            tags: slot to the value of an enum or union tag, one byte each.
        """
        tags = tags or {}
        self._builder.StartObject(max((*offsets, *tags)) + 1)
        for slot, offset in offsets.items():
            self._builder.PrependUOffsetTRelativeSlot(int(slot), offset, 0)
        for slot, tag in tags.items():
            self._builder.PrependInt8Slot(int(slot), tag, 0)
        return int(self._builder.EndObject())

    def finish(self, root: int, identifier: bytes) -> bytes:
        """Close the flatbuffer; returns its bytes."""
        self._builder.Finish(root, identifier)
        return bytes(self._builder.Output())


class TableView:
    """One table of a flatbuffer that may be truncated or hostile: every access is checked against the content's end."""

    __slots__ = ("_content", "_start")

    def __init__(self, content: bytes, start: int) -> None:
        self._content = content
        self._start = start

    @classmethod
    def root(cls, content: bytes, identifier: bytes) -> TableView:
        """The root table of `content`.

        Raises:
            ArtefactError: `content` is not a flatbuffer of that identifier.
        """
        if content[4:8] != identifier:
            raise ArtefactError(
                f"expected a flatbuffer {identifier.decode()}, but got {content[4:8]!r}; copy or export the file again"
            )
        view = cls(content, 0)
        view._start = view._unpack("<I", 0)
        return view

    def text(self, slot: int) -> str:
        """A string; empty if absent."""
        return self._vector(slot, 1).decode("utf-8", errors="replace")

    def data(self, slot: int) -> bytes:
        """A vector of bytes; empty if absent."""
        return self._vector(slot, 1)

    def floats(self, slot: int) -> list[float]:
        """A vector of float32; empty if absent."""
        return [value for (value,) in struct.iter_unpack("<f", self._vector(slot, 4))]

    def byte(self, slot: int) -> int:
        """An enum or union tag; 0 if absent."""
        at = self._field(slot)
        return self._unpack("<B", at) if at else 0

    def uint(self, slot: int) -> int:
        """A uint32; 0 if absent."""
        at = self._field(slot)
        return self._unpack("<I", at) if at else 0

    def table(self, slot: int) -> TableView | None:
        """A table; None if absent."""
        at = self._field(slot)
        return TableView(self._content, at + self._unpack("<I", at)) if at else None

    def tables(self, slot: int) -> Sequence[TableView]:
        """A vector of tables; empty if absent."""
        at = self._field(slot)
        if not at:
            return []
        first = at + self._unpack("<I", at) + 4
        offsets = struct.iter_unpack("<I", self._vector(slot, 4))
        return [TableView(self._content, first + 4 * i + offset) for i, (offset,) in enumerate(offsets)]

    def _field(self, slot: int) -> int:
        vtable = self._start - self._unpack("<i", self._start)
        if 4 + 2 * slot >= self._unpack("<H", vtable):
            return 0
        offset = self._unpack("<H", vtable + 4 + 2 * slot)
        return self._start + offset if offset else 0

    def _vector(self, slot: int, item_size: int) -> bytes:
        at = self._field(slot)
        if not at:
            return b""
        start = at + self._unpack("<I", at)
        return self._slice(start + 4, self._unpack("<I", start) * item_size)

    def _unpack(self, layout: str, at: int) -> int:
        return int(struct.unpack(layout, self._slice(at, struct.calcsize(layout)))[0])

    def _slice(self, at: int, size: int) -> bytes:
        if at < 0 or at + size > len(self._content):
            raise ArtefactError(
                f"expected a whole flatbuffer, but it points at byte {at + size} of {len(self._content)}; "
                "copy or export the file again"
            )
        return self._content[at : at + size]
