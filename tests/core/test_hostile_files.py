"""Every reader of JSON, TOML, CSV and lists of classes, and what nobody should have written: one line, or read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tledge.compression.search.record import SearchFile
from tledge.conversion.kept_calibration import CalibrationFile
from tledge.conversion.recipe import load_recipes
from tledge.conversion.sidecar import Sidecar
from tledge.core.errors import TledgeError
from tledge.core.parsing import parse_json
from tledge.core.records import Document, read_record
from tledge.data.labels import read_labels_file
from tledge.data.tables import read_table
from tledge.deployment.targets import load_target
from tledge.evaluation.baseline import BaselineFile, read_baseline
from tledge.model.catalogue import load_candidate
from tledge.model.ranges import RangesFile
from tledge.model.user_trunks import UserTrunk
from tledge.runs.bench_json import BenchFile
from tledge.runs.check_json import CheckFile
from tledge.runs.manifest import Manifest, read_split
from tledge.runs.rundir import RunDir
from tledge.selection.select_json import ImageSelectionFile

DEEP = 200_000
JSON = {
    "open lists": b"[" * DEEP,
    "open objects": b'{"a":' * DEEP,
    "lists in a field": b'{"schema_version":1,"created":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "not too deep to parse": b'{"schema_version":1,"optimization":' + b'{"a":' * 900 + b"1" + b"}" * 901,
    "digits in the version": b'{"schema_version":' + b"9" * 5000 + b"}",
    "digits in a field": b'{"schema_version":1,"n":' + b"9" * 5000 + b"}",
    "beyond any float": b'{"schema_version":1,"n":' + b"9" * 400 + b"}",
    "NaN": b'{"schema_version":1,"n":NaN}',
    "infinity": b'{"schema_version":1,"n":-Infinity}',
    "infinity by its digits": b'{"schema_version":1,"n":1e999}',
    "null": b"null",
    "a list": b"[]",
    "text": b'"text"',
    "no UTF-8": b'{"schema_version":1,"created":"\xff"}',
    "UTF-16": "{}".encode("utf-16"),
    "half a character": b'{"schema_version":1,"created":"\\ud800"}',
    "a key twice": b'{"schema_version":1,"schema_version":1}',
    "a mark and nothing else": b"\xef\xbb\xbf",
    "empty": b"",
    "NUL": b"\0" * 100,
    "cut": b'{"schema_version":1,',
    "version as a list": b'{"schema_version":[]}',
    "version as an object": b'{"schema_version":{}}',
    "version as true": b'{"schema_version":true}',
    "version as text": b'{"schema_version":"1"}',
    "version null": b'{"schema_version":null}',
    "negative version": b'{"schema_version":-1}',
    "parts of other types": b'{"schema_version":0,"machine":[],"hosts":1,"targets":2,"calibrations":3,"classes":"cat"}',
}
TOML = {
    "open lists": b"a=" + b"[" * DEEP,
    "lists": b"a=" + b"[" * DEEP + b"]" * DEEP,
    "tables": b"[" + b"a." * DEEP + b"a]\n",
    "dotted keys": b"a." * DEEP + b"a=1\n",
    "open inline tables": b"a=" + b"{a=" * DEEP,
    "digits": b"name=" + b"9" * 5000,
    "NaN": b"[check]\nmax_drop=nan\n",
    "infinity": b"[check]\nmax_drop=inf\n",
    "infinity by its digits": b"[check]\nmax_drop=1e999\n",
    "no UTF-8": b'title="\xff"\n',
    "a mark and nothing else": b"\xef\xbb\xbf",
    "a key twice": b"a=1\na=2\n",
    "a date": b"format=2020-01-01\n",
    "empty": b"",
    "NUL": b"\0",
}
HEAD = b"path,class,subset,sha256\n"
CSV = {
    "empty": b"",
    "other columns": b"a,b\n1,2\n",
    "NUL": HEAD + b"\0,a,train,b\n",
    "no UTF-8": HEAD + b"\xff,a,train,b\n",
    "a short row": HEAD + b"a,b\n",
    "a long row": HEAD + b"a,b,train,d,e\n",
    "a cell of megabytes": HEAD + b"a" * 2_000_000 + b",b,train,d\n",
    "a column twice": b"path," + HEAD + b"a,a,b,train,d\n",
    "an open quotation": HEAD + b'"a,b,train,d\n',
    "many columns": b"a," * 100_000 + b"\n",
    "another subset": HEAD + b"a,b,trains,d\n",
}
LABELS = {
    "empty": b"",
    "one": b"cat\n",
    "no UTF-8": b"\xff\ndog\n",
    "NUL": b"\0\ndog\n",
    "an empty line": b"cat\n\ndog\n",
    "twice": b"cat\ncat\n",
    "an escape": b"cat\n\x1b[2Jdog\n",
    "one line of megabytes": b"a" * 2_000_000,
}


def documents() -> dict[str, Callable[[Path], object]]:
    kinds: tuple[type[Document], ...] = (
        *(BenchFile, CalibrationFile, CheckFile, ImageSelectionFile, Manifest),
        *(RangesFile, SearchFile, Sidecar, UserTrunk, BaselineFile),
    )

    def reader(kind: type[Document]) -> Callable[[Path], object]:
        return lambda path: read_record(path, kind)

    return {kind.__name__: reader(kind) for kind in kinds} | {"read_baseline": read_baseline}


def split_in(path: Path) -> object:
    return read_split(RunDir(path.parent))


READERS: dict[str, tuple[Callable[[Path], object], str, Mapping[str, bytes]]] = {
    **{name: (read, "x.json", JSON) for name, read in documents().items()},
    "recipe": (lambda path: load_recipes((str(path),)), "x.toml", TOML),
    "target": (lambda path: load_target(str(path)), "x.toml", TOML),
    "catalogue": (load_candidate, "x.toml", TOML),
    "split": (split_in, "split.csv", CSV),
    "table": (read_table, "x.csv", {name: content for name, content in CSV.items() if b"a" * 1000 not in content}),
    "table of JSON lines": (read_table, "x.jsonl", {name: content for name, content in JSON.items() if content}),
    "labels": (read_labels_file, "labels.txt", LABELS),
}


def refused(read: Callable[[Path], object], path: Path, content: bytes) -> str:
    """What the reader says; a message of one line that names the file and not much more."""
    path.write_bytes(content)
    with pytest.raises(TledgeError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize("name", READERS)
def test_hostile_content_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    read, file, contents = READERS[name]
    for content in contents.values():
        refused(read, tmp_path / file, content)


def test_a_byte_order_mark_is_no_content(run_copy: Path) -> None:
    run = RunDir(run_copy)
    for path, read in ((run.manifest, documents()["Manifest"]), (run.split, split_in)):
        before = read(path)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert read(path) == before


WRONG = (None, True, -1, 10**9, 10**29, 1e308, -1e308, "", "x", "a\nb", "\x1b[2J", [], {}, [[]], [None], {"": None})


def _places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in parsed JSON, of lists the first two items."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*way, key))


def _changed(content: Any, way: tuple[Any, ...], value: object) -> Any:
    if not way:
        return value
    if isinstance(content, dict):
        return {**content, way[0]: _changed(content[way[0]], way[1:], value)}
    return [*content[: way[0]], _changed(content[way[0]], way[1:], value), *content[way[0] + 1 :]]


@pytest.mark.parametrize("file", ["run.json", "export/tflite-int8.json", "calibration.json"])
def test_any_field_may_be_of_another_type(file: str, run_copy: Path, tmp_path: Path) -> None:
    """Read, where the value can be meant, or refused in one line."""
    kind = {"run.json": Manifest, "calibration.json": CalibrationFile}.get(file, Sidecar)
    content, path = parse_json((run_copy / file).read_bytes()), tmp_path / "x.json"
    accepted, wrong = 0, []
    for way in _places(content):
        if len(way) > 4:
            continue
        for value in WRONG:
            path.write_text(json.dumps(_changed(content, way, value)))
            try:
                read_record(path, kind)
                accepted += 1
            except TledgeError as error:
                if str(path) not in str(error) or "\n" in str(error):
                    wrong.append((way, value, str(error)))
    assert not wrong
    assert accepted, "texts may be any text"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("image_size_px", 10**9, "image_size_px of 1 to 8192"),
        ("image_size_px", [32, 0], "image_size_px of 1 to 8192"),
        ("seed", -1, "seed as a whole number between 0 and"),
        ("classes", "cat", "classes as .* but got 'cat'"),
        ("classes", ["cat"], "classes as"),
        ("classes", ["cat", "cat"], "each class once"),
        ("classes", ["cat", "do\ng"], "on one line"),
        ("split", None, "split as an object"),
        ("data_root", None, "data_root as text"),
    ],
)
def test_values_that_no_run_can_have(field: str, value: object, says: str, run_copy: Path) -> None:
    path = run_copy / "run.json"
    content = json.loads(path.read_text()) | {field: value}
    message = refused(lambda path: read_record(path, Manifest), path, json.dumps(content).encode())
    assert re.search(says, message), message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": ["cat"]}, "a confusion of 1 by 1"),
        ({"reference": {"confusion": [[1, 0], [0]]}}, "a confusion of 2 by 2"),
        ({"reference": {"recall": {"cat": 1, "owl": 1}}}, "recalls of cat, dog, but got cat, owl"),
    ],
)
def test_a_check_whose_parts_do_not_fit(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    """Found by the campaign: a page that shows confusions beside each other ended in a ValueError."""
    from tests.evaluation.test_baseline import checked

    checked(tmp_path)
    path = tmp_path / "check.json"
    content = json.loads(path.read_text())
    content["reference"] |= {"confusion": [[1, 0], [0, 1]], "recall": {"cat": 1, "dog": 1}}
    content["reference"] |= changes.pop("reference", {})
    message = refused(lambda path: read_record(path, CheckFile), path, json.dumps(content | changes).encode())
    assert says in message
