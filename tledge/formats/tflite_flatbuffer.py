"""Write and read flatbuffer tables by slot number, for a schema of which nobody ships generated code."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError

Table = Mapping[int, Any]
"""Slot to value: str a string, int an enum or union tag of one byte, tuple a vector of float32, Table a table, list a
vector of tables, None an absent field."""


DAMAGED = (struct.error, TypeError, ValueError, IndexError)
"""What reading a truncated or hostile flatbuffer raises."""


def encode(table: Table, identifier: bytes) -> bytes:
    """Write a flatbuffer whose root is `table`; equal tables give equal bytes."""
    builder = require("flatbuffers").Builder(1024)
    builder.Finish(_write(builder, table), identifier)
    return bytes(builder.Output())


def _write(builder: Any, value: Any) -> int:
    """Write what a parent can only point to, and return its offset."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, tuple):
        return int(builder.CreateNumpyVector(np.array(value, np.float32)))
    if isinstance(value, list):
        offsets = [_write(builder, item) for item in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    children = {int(slot): _write(builder, v) for slot, v in value.items() if v is not None and not isinstance(v, int)}
    builder.StartObject(max(value) + 1)
    for slot, offset in children.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, tag in value.items():
        if isinstance(tag, int):
            builder.PrependInt8Slot(int(slot), tag, 0)
    return int(builder.EndObject())


class TableView:
    """One table of a flatbuffer, read by the flatbuffers package.

    What is cut or points beyond the content's end raises one of `DAMAGED` when it is read.
    """

    __slots__ = ("_table",)

    def __init__(self, content: bytes, start: int) -> None:
        self._table = require("flatbuffers.table").Table(content, start)

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
        return cls(content, int.from_bytes(content[:4], "little"))

    def text(self, slot: int) -> str:
        """A string; empty if absent."""
        at = self._at(slot)
        return str(self._table.String(at).decode("utf-8", errors="replace")) if at else ""

    def floats(self, slot: int) -> list[float]:
        """A vector of float32; empty if absent."""
        offset = self._offset(slot)
        float32 = require("flatbuffers.number_types").Float32Flags
        return [float(value) for value in self._table.GetVectorAsNumpy(float32, offset)] if offset else []

    def byte(self, slot: int) -> int:
        """An enum or union tag; 0 if absent."""
        at = self._at(slot)
        return int(self._table.Get(require("flatbuffers.number_types").Uint8Flags, at)) if at else 0

    def table(self, slot: int) -> TableView | None:
        """A table; None if absent."""
        at = self._at(slot)
        return self._follow(at) if at else None

    def tables(self, slot: int) -> Sequence[TableView]:
        """A vector of tables; empty if absent."""
        offset = self._offset(slot)
        if not offset:
            return []
        first = self._table.Vector(offset)
        return [self._follow(first + 4 * index) for index in range(self._table.VectorLen(offset))]

    def _offset(self, slot: int) -> int:
        """Where a field is, from the table's start; 0 if absent."""
        return int(self._table.Offset(4 + 2 * slot))

    def _at(self, slot: int) -> int:
        """Where a field is in the content; 0 if absent."""
        offset = self._offset(slot)
        return int(self._table.Pos) + offset if offset else 0

    def _follow(self, at: int) -> TableView:
        return TableView(self._table.Bytes, self._table.Indirect(at))
