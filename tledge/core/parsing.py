"""JSON, TOML and CSV from anywhere: parsed, or refused with a `ValueError` of one line, whatever the bytes are.

Parsers accept more than the formats mean. Python's take `NaN` for JSON, the last of two equal keys, and integers of any
length up to one that they then refuse with another error; what nests too deep ends in a RecursionError, here or in
whoever walks over the content later.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tomllib
from collections.abc import Sequence
from typing import Any, NoReturn

_DEEPEST = 64
_TOO_DEEP = f"it is nested more than {_DEEPEST} deep"
_MOST_DOTS = 2000
# Far more than any number here needs, far less than what a comparison with a float overflows on.
_LARGEST = 10**30


def parse_json(content: bytes | str) -> Any:
    """Parse JSON in UTF-8, with or without a byte order mark.

    Args:
        content: the bytes of a file, or text.

    Returns:
        Objects as dicts, all numbers finite, all texts such as can be written again.

    Raises:
        ValueError: no JSON, NaN or infinity, a key twice in an object, nested more than 64 deep, a whole number beyond
            1e30, or half a character (`\\ud800`).
    """
    try:
        found = json.loads(_text(content), parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_object_of)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _require_plain(found)
    return found


def parse_toml(content: bytes) -> dict[str, Any]:
    """Parse TOML in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: no TOML, or what `parse_json` refuses.
    """
    # Time and memory that tomllib takes grow with the square of a name's parts (`a.b.c = 1`): gigabytes for 200 kB.
    if any(line.count(b".") > _MOST_DOTS for line in content.split(b"\n")):
        raise ValueError(f"a line of it has more than {_MOST_DOTS} dots")
    try:
        found = tomllib.loads(_text(content), parse_float=_finite)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _require_plain(found)
    return found


def parse_rows(content: bytes, columns: Sequence[str]) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Parse CSV with a header line, in UTF-8, with or without a byte order mark.

    Args:
        content: the bytes of a file.
        columns: those that have to be there.

    Returns:
        All columns, and a dict of text for each row.

    Raises:
        ValueError: a column is missing or there twice, or a row has more or fewer cells; not UTF-8, or NUL in it.
    """
    text = _text(content)
    if "\0" in text:
        raise ValueError("it holds a NUL character")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = tuple(next(reader, ()))
        if missing := [name for name in columns if name not in header]:
            raise ValueError(f"it has no column {missing[0]}")
        if len(set(header)) != len(header):
            raise ValueError("two of its columns have the same name")
        rows = []
        for row in reader:
            if len(row) != len(header):
                raise ValueError(f"line {reader.line_num} has {len(row)} cells instead of {len(header)}")
            rows.append(dict(zip(header, row, strict=True)))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return header, rows


def _text(content: bytes | str) -> str:
    return content.decode("utf-8-sig") if isinstance(content, bytes) else content.removeprefix("\ufeff")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{json.dumps(twice)[:60]} is there twice")
    return found


def _require_plain(content: Any) -> None:
    """Refuse what no reader can mean; not by recursion, which the content decides the depth of."""
    level = [content]
    for _ in range(_DEEPEST + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                _require_writable(value)
            elif isinstance(value, int) and abs(value) > _LARGEST:
                raise ValueError("one of its whole numbers is beyond 1e30")
        if not below:
            return
        level = below
    raise ValueError(_TOO_DEEP)


def _require_writable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text[:40]!a} holds half a character") from None
