"""Records: what stands in a file is checked once, and one line says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import pytest

from tledge.core.errors import RecipeError, RunError, WeightsError
from tledge.core.records import Document, Record, Table, read_record, read_toml, write_record
from tledge.core.types import Json


class Part(Record, frozen=True, kw_only=True):
    size: Annotated[int, msgspec.Meta(ge=1)]
    share: float | None


class Whole(Document, frozen=True, kw_only=True):
    VERSION: ClassVar[int] = 3
    UPGRADES: ClassVar[Mapping[int, Callable[[Json], Json]]] = {
        1: lambda old: {"name": old["called"], **old},
        2: lambda old: old,
    }
    REMEDY: ClassVar[str] = "run it again"

    name: str
    parts: dict[str, dict[str, Part]] = msgspec.field(default_factory=dict)
    ends: tuple[float, float] = (0.0, 1.0)
    kind: Literal["a", "b"] = "a"
    rows: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "odd":
            raise ValueError("expected an even name")


class Limits(Table, frozen=True, kw_only=True):
    max_drop: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.02
    why: str


class Source(Table, frozen=True, kw_only=True):
    url: str


class Settings(Table, frozen=True, kw_only=True):
    title: Annotated[str, msgspec.Meta(pattern=r"^\S.*$", description="one line of text")]
    limits: Limits | None = None
    sources: Annotated[tuple[Source, ...], msgspec.Meta(min_length=1)] = ()
    threads: tuple[int, ...] = ()
    operators: dict[str, tuple[Literal["fused"], ...]] = msgspec.field(default_factory=dict)


PART = {"size": 1, "share": 0.5}


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_written_is_read_again_and_defaults_are_left_out(tmp_path: Path) -> None:
    record = Whole(name="é", parts={"x": {"y": Part(size=2, share=None)}}, ends=(np.float64(0.25), 2.0))  # type: ignore[arg-type]
    write_record(tmp_path / "whole.json", record)
    text = (tmp_path / "whole.json").read_text()
    assert list(json.loads(text)) == ["schema_version", "name", "parts", "ends"]
    assert text.startswith('{\n  "schema_version": 3,\n  "name": "é",')
    assert text.endswith("}\n")
    assert read_record(tmp_path / "whole.json", Whole) == record


def test_fields_of_a_newer_tledge_are_ignored(tmp_path: Path) -> None:
    path = written(tmp_path / "whole.json", {"schema_version": 3, "name": "x", "colour": "red"})
    assert read_record(path, Whole) == Whole(name="x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "expected name as text in {}, but it is missing; run it again"),
        ({"name": 5}, "expected name as text in {}, but got 5; run it again"),
        ({"name": None}, "expected name as text in {}, but got null; run it again"),
        ({"name": "odd"}, "expected an even name in {}; run it again"),
        (
            {"name": "x", "parts": {"a b": {"c": PART, "d": {"size": "big", "share": 1}}}},
            "expected parts[\"a b\"].d.size as a whole number of at least 1 in {}, but got 'big'; run it again",
        ),
        (
            {"name": "x", "parts": {"a": {"c": PART, "d": {"size": 1}}}},
            "expected parts.a.d.share as a number or null in {}, but it is missing; run it again",
        ),
        ({"name": "x", "ends": [1]}, "expected ends as a list of 2 in {}, but got [1]; run it again"),
        ({"name": "x", "ends": [1, "z"]}, "expected ends[1] as a number in {}, but got 'z'; run it again"),
        ({"name": "x", "kind": "c"}, 'expected kind as "a" or "b" in {}, but got \'c\'; run it again'),
        ({"name": "x", "rows": [PART, 7]}, "expected rows[1] as an object in {}, but got 7; run it again"),
    ],
)
def test_a_mismatch_names_file_field_expected_and_found(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    path = written(tmp_path / "whole.json", {"schema_version": 3, **content})
    with pytest.raises(WeightsError) as caught:
        read_record(path, Whole, WeightsError)
    assert str(caught.value) == says.replace("{}", str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "expected {}, but it does not exist; run it again"),
        ("{", "expected JSON in {}, but it cannot be parsed (Expecting property name"),
        ("[1]", "expected a JSON object in {}, but got [1]; run it again"),
        ({"name": "x"}, "expected schema version 3 in {}, but it has none; use the tledge that wrote it, or run it"),
        ({"schema_version": 4}, "expected schema version 3 in {}, but it says 4; use a newer tledge"),
        ({"schema_version": "3"}, "expected schema version 3 in {}, but it says '3'; use the tledge that wrote it"),
    ],
)
def test_other_files_and_versions_are_refused_by_name(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "whole.json"
    if content is not None:
        written(path, content)
    with pytest.raises(RunError) as caught:
        read_record(path, Whole)
    assert str(caught.value).startswith(says.replace("{}", str(path)))
    assert "\n" not in str(caught.value)


def test_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = written(tmp_path / "whole.json", {"schema_version": 1, "called": "x"})
    assert read_record(path, Whole) == Whole(name="x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "title = ",
            "expected TOML in {}, but it cannot be parsed (Invalid value (at end of document)); change the file",
        ),
        ("", "expected title as one line of text in {}, but it is missing; change the file"),
        ('title = " "', "expected title as one line of text in {}, but got ' '; change the file"),
        (
            'title = "t"\nthread = 1',
            "expected title, limits, sources, threads, operators at the top level of {}, but got thread "
            "(did you mean threads?); change the file",
        ),
        (
            'title = "t"\n[limits]\nwhy = "w"\nmaxdrop = 1',
            "expected max_drop, why in [limits] of {}, but got maxdrop (did you mean max_drop?); change the file",
        ),
        (
            'title = "t"\n[limits]\nwhy = "w"\nmax_drop = 2',
            "expected [limits].max_drop as a number between 0 and 1 in {}, but got 2; change the file",
        ),
        ('title = "t"\nlimits = 3', "expected [limits] as a table in {}, but got 3; change the file"),
        ('title = "t"\nsources = []', "expected [[sources]] as one or more tables in {}, but got []; change the file"),
        (
            'title = "t"\n[[sources]]\nurl = "u"\n[[sources]]\nurl = 1',
            "expected [[sources]].url (number 2) as text in {}, but got 1; change the file",
        ),
        (
            'title = "t"\nthreads = [1, true]',
            "expected threads[1] as a whole number in {}, but got true; change the file",
        ),
        (
            'title = "t"\n[operators]\nCONV_2D = ["fused"]\nSOFTMAX = ["fast"]',
            "expected [operators].SOFTMAX[0] as \"fused\" in {}, but got 'fast'; change the file",
        ),
    ],
)
def test_a_mistake_in_toml_names_table_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path / "mine.toml", text)
    with pytest.raises(RecipeError) as caught:
        read_toml(path, Settings, RecipeError)
    assert str(caught.value) == says.replace("{}", str(path))


def test_lists_are_described_by_what_they_hold(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.toml", 'title = "t"\nthreads = 2\n')
    with pytest.raises(RecipeError, match=r"expected threads as a list of whole numbers in .*, but got 2; change"):
        read_toml(path, Settings, RecipeError)
