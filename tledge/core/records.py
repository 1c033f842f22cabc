"""Records: the typed content of every JSON and TOML file, and rows of CSV files, read and written in one place.

A `Record` is what a file, or a part of one, holds. A `Document` is a whole JSON file that tledge writes: it has a
version, which stands in the file as `schema_version`, and a sentence on what to do about a file that is not one. A
`Table` is (a part of) a TOML file that a person writes, where a field that nobody knows is a mistake. All are checked
by msgspec; what it says of a mismatch becomes one line that names file, field, what was expected and what was found.

A field with a default is left out of the file while it has that value; every other field is always there. Fields that
a record does not have are ignored in JSON: a newer tledge may have added them without a new version.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import inspect

from tledge.core.errors import RunError, TledgeError
from tledge.core.files import write_json
from tledge.core.parsing import parse_json, parse_rows, parse_toml
from tledge.core.types import Json

VERSION_FIELD = "schema_version"
_LONGEST_SHOWN = 60
_MISMATCH = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_OBJECTS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_ONE = re.compile(r"^(?:an? )?(whole number|number|text|table|object|list)")
_PLAIN_KEY = re.compile(r"[\w-]+")


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Part of a JSON file."""


class Document(Record, frozen=True, kw_only=True):
    """A whole JSON file.

    `VERSION` changes with the meaning of the content. `UPGRADES` turns the content of an older version, by its number
    (0: from before there was one), into that of the next; a version that is neither is refused. `REMEDY` ends messages
    about files that are none.
    """

    VERSION: ClassVar[int] = 1
    UPGRADES: ClassVar[Mapping[int, Callable[[Json], Json]]] = {}
    REMEDY: ClassVar[str] = "write it anew"


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TOML file, or a table in one."""


Line = Annotated[str, msgspec.Meta(pattern=r"^[^\n]*\S[^\n]*$(?!\n)", description="one line of text")]

Count = Annotated[int, msgspec.Meta(ge=0, le=10**15, description="a whole number of at least 0")]
"""How many of something, or bytes."""
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

UNNUMBERED: Mapping[int, Callable[[Json], Json]] = {0: dict}
"""`UPGRADES` of a first version that is what was there before, without a number."""

D = TypeVar("D", bound=Document)
T = TypeVar("T", bound=Table)


def read_record(path: Path, kind: type[D], error: type[TledgeError] = RunError) -> D:
    """Read a JSON file.

    Args:
        path: the file.
        kind: what it should hold.
        error: what to raise.

    Raises:
        TledgeError: it is missing, no JSON, of a version that cannot be read, or a field is missing or of another type.
    """
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise error(f"expected {path}, but it does not exist; {kind.REMEDY}") from None
    except ValueError as broken:
        raise error(f"expected JSON in {path}, but it cannot be parsed ({broken}); {kind.REMEDY}") from None
    return record_of(content, kind, str(path), error)


def record_of(content: object, kind: type[D], where: str, error: type[TledgeError] = RunError) -> D:
    """The record that parsed JSON holds; `where` is how messages call its file.

    Raises:
        TledgeError: as `read_record`.
    """
    if not isinstance(content, dict):
        raise error(f"expected a JSON object in {where}, but got {_shown(content)}; {kind.REMEDY}")
    version = found = content.get(VERSION_FIELD, 0)
    while type(version) is int and version in kind.UPGRADES:
        content = kind.UPGRADES[version](content)
        version += 1
    if type(version) is not int or version != kind.VERSION:
        newer = type(found) is int and found > kind.VERSION
        came = "it has none" if VERSION_FIELD not in content else f"it says {_shown(found)}"
        way_out = "use a newer tledge" if newer else f"use the tledge that wrote it, or {kind.REMEDY}"
        raise error(f"expected schema version {kind.VERSION} in {where}, but {came}; {way_out}")
    return _converted(content, kind, where, error, kind.REMEDY, toml=False)


def write_record(path: Path, record: Document) -> None:
    """Write a JSON file atomically: the version, then the fields in their order."""
    write_json(path, content_of(record))


def content_of(record: Document) -> Json:
    """What `write_record` writes."""
    return {VERSION_FIELD: record.VERSION, **plain(record)}


def plain(record: Record) -> Json:
    """A record as a JSON object, of dicts, lists and what stands in them."""
    content: Json = _with_lists(msgspec.to_builtins(record, enc_hook=_builtin))
    return content


def read_toml(path: Path, kind: type[T], error: type[TledgeError], remedy: str = "change the file") -> T:
    """Read a TOML file.

    Args:
        path: the file, which exists.
        kind: what it should hold.
        error: what to raise.
        remedy: how messages end.

    Raises:
        TledgeError: it is no TOML, or a field is missing, unknown or of another type.
    """
    try:
        content = parse_toml(path.read_bytes())
    except ValueError as broken:
        raise error(f"expected TOML in {path}, but it cannot be parsed ({broken}); {remedy}") from None
    return _converted(content, kind, str(path), error, remedy, toml=True)


def read_rows(path: Path, columns: Sequence[str], remedy: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Read a CSV file that tledge wrote.

    Args:
        path: the file.
        columns: those that have to be there.
        remedy: how messages end.

    Returns:
        All columns, and a dict of text for each row.

    Raises:
        RunError: it is missing, no CSV in UTF-8, or without these columns.
    """
    try:
        return parse_rows(path.read_bytes(), columns)
    except FileNotFoundError:
        raise RunError(f"expected {path}, but it does not exist; {remedy}") from None
    except ValueError as broken:
        named = ", ".join(columns)
        raise RunError(f"expected CSV with {named} in {path}, but it cannot be read ({broken}); {remedy}") from None


S = TypeVar("S", bound=msgspec.Struct)


def _converted(content: Json, kind: type[S], where: str, error: type[TledgeError], remedy: str, *, toml: bool) -> S:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as mismatch:
        raise error(f"{_explained(content, kind, str(mismatch), where, toml=toml)}; {remedy}") from None


def _with_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_lists(item) for key, item in value.items()}
    return [_with_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _builtin(value: object) -> object:
    if isinstance(value, float):  # NumPy's float64 is one
        return float(value)
    raise TypeError(f"{value!r} has no place in JSON")


def _explained(content: Json, kind: type, mismatch: str, where: str, *, toml: bool) -> str:
    """What msgspec found, with the field, the type that it should have, and the value."""
    found = _MISMATCH.fullmatch(mismatch)
    assert found is not None
    what = found["what"]
    place = _Place(inspect.type_info(kind), toml)
    value: Any = copy.deepcopy(content)
    whole = value
    for step in _STEP.finditer(found["path"] or ""):
        key: str | int
        if step["name"] is not None:
            key = step["name"]
        elif step["index"] is not None:
            key = int(step["index"])
        else:
            key = _guilty_key(whole, value, kind, mismatch)
        value = value[key]
        place.enter(key)
    if found["key"]:
        key = _guilty_key(whole, value, kind, mismatch)
        return f"expected {_described(place.keys(), toml)} as a name in {place} in {where}, but got {_shown(key)}"
    if what.startswith("Object missing required field"):
        place.enter(what.split("`")[1])
        return f"expected {place} as {_described(place.type, toml)} in {where}, but it is missing"
    if what.startswith("Object contains unknown field"):
        name, known = what.split("`")[1], place.fields()
        close = difflib.get_close_matches(name, known, 1)
        level = f"in {place}" if str(place) else "at the top level"
        hint = f" (did you mean {close[0]}?)" if close else ""
        return f"expected {', '.join(known)} {level} of {where}, but got {name}{hint}"
    if what.startswith(("Expected `", "Invalid ")):
        return f"expected {place} as {_described(place.type, toml)} in {where}, but got {_shown(value)}"
    return f"{what} in {f'{place} of ' if str(place) else ''}{where}"


def _guilty_key(whole: object, value: dict[str, Any], kind: type, mismatch: str) -> str:
    """msgspec does not name keys of mappings: the one that brings the same message when it stands there alone."""
    for key, item in list(value.items()):
        before = dict(value)
        value.clear()
        value[key] = item
        try:
            msgspec.convert(whole, kind)
        except msgspec.ValidationError as again:
            if str(again) == mismatch:
                return key
        value.clear()
        value.update(before)
    raise AssertionError(f"no key brings {mismatch!r}")


class _Place:
    """A place in a file and the type that its content should have."""

    def __init__(self, top: inspect.Type, toml: bool) -> None:
        self.type = top
        self._toml = toml
        self._steps: list[tuple[str | int, inspect.Type]] = []

    def enter(self, key: str | int) -> None:
        """Go one step down."""
        for inner in _alternatives(self.type):
            if isinstance(inner, _OBJECTS):
                self.type = next(field.type for field in inner.fields if field.encode_name == key)
            elif isinstance(inner, inspect.DictType):
                self.type = inner.value_type
            elif isinstance(inner, inspect.ListType | inspect.VarTupleType):
                self.type = inner.item_type
            elif isinstance(inner, inspect.TupleType):
                self.type = inner.item_types[int(key)]
            else:
                continue
            break
        self._steps.append((key, self.type))

    def fields(self) -> list[str]:
        """Names that are known here."""
        structs = (inner for inner in _alternatives(self.type) if isinstance(inner, _OBJECTS))
        return [field.encode_name for struct in structs for field in struct.fields]

    def keys(self) -> inspect.Type:
        """The type of the names in a mapping."""
        return next(inner.key_type for inner in _alternatives(self.type) if isinstance(inner, inspect.DictType))

    def __str__(self) -> str:
        """`split.images` in JSON; `[check].max_drop`, or `[[sources]].url (number 2)`, in TOML."""
        steps, head, number = list(self._steps), "", ""
        if self._toml and steps and (_is_table(steps[0][1]) or _is_tables(steps[0][1])):
            (name, kind), *steps = steps
            head = f"[{name}]" if _is_table(kind) else f"[[{name}]]"
            if _is_tables(kind) and steps:
                number = f" (number {int(steps.pop(0)[0]) + 1})"
        text = head
        for key, _ in steps:
            plain_key = isinstance(key, str) and _PLAIN_KEY.fullmatch(key)
            text += (f".{key}" if text else str(key)) if plain_key else f"[{json.dumps(key, ensure_ascii=False)}]"
        return text + number


def _alternatives(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        yield from _alternatives(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for inner in kind.types:
            yield from _alternatives(inner)
    else:
        yield kind


def _is_table(kind: inspect.Type) -> bool:
    return any(isinstance(inner, (*_OBJECTS, inspect.DictType)) for inner in _alternatives(kind))


def _is_tables(kind: inspect.Type) -> bool:
    lists = (inner for inner in _alternatives(kind) if isinstance(inner, inspect.ListType | inspect.VarTupleType))
    return any(_is_table(inner.item_type) for inner in lists)


def _described(kind: inspect.Type, toml: bool) -> str:
    """A type in words."""
    match kind:
        case inspect.Metadata():
            known = (kind.extra_json_schema or {}).get("description")
            return known or _described(kind.type, toml)
        case inspect.UnionType():
            inner = [one for one in kind.types if not (toml and isinstance(one, inspect.NoneType))]
            return " or ".join(_described(one, toml) for one in inner)
        case inspect.LiteralType():
            return " or ".join(json.dumps(value) for value in kind.values)
        case inspect.IntType() | inspect.FloatType():
            what = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            return f"{what}{_bounds(kind)}"
        case inspect.StrType():
            return "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case inspect.TupleType():
            return f"a list of {len(kind.item_types)}"
        case inspect.ListType() | inspect.VarTupleType():
            items = _ONE.sub(r"\1s", _described(kind.item_type, toml))
            return f"one or more {items}" if kind.min_length else f"a list of {items}"
        case _:
            return "a table" if toml else "an object"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" between {kind.ge:,} and {kind.le:,}"
    if kind.gt is not None:
        return f" above {kind.gt:g}"
    return "" if kind.ge is None else f" of at least {kind.ge:g}"


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
