"""Write and read flatbuffer tables by slot number, without a schema compiler."""

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
