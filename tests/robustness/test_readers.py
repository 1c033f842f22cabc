"""The short form of the campaign: readers under content that hypothesis makes up; benchmarks/robustness.py is the long.

Cases are the same in every run (`derandomize`), so that a pipeline does not flake; what a longer search finds becomes a
test of its own in tests/core.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.core.test_hostile_files import READERS, _changed, _places  # noqa: E402
from tledge.core import escaping  # noqa: E402
from tledge.core.errors import TledgeError  # noqa: E402
from tledge.core.parsing import parse_json, parse_rows, parse_toml  # noqa: E402
from tledge.core.records import read_record  # noqa: E402
from tledge.data.archives import unpack  # noqa: E402
from tledge.runs.manifest import Manifest  # noqa: E402

ROOT = Path(__file__).parents[2]
FEW = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = ("schema_version", "classes", "seed", "split", "image_size_px", "artefacts", "machine", "n", "predicted")
DOCUMENTS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), VALUES, max_size=6)


def said(call: Callable[[], object], refusal: type[Exception]) -> str | None:
    """What a call is refused with, None if it is not; any other exception fails the test."""
    try:
        call()
    except refusal as error:
        return str(error)
    return None


@FEW
@given(content=st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")))
def test_parsers_parse_or_raise_a_value_error_of_one_line(content: bytes) -> None:
    for parse in (parse_json, parse_toml, lambda content: parse_rows(content, ("a",))):
        assert said(lambda parse=parse: parse(content), ValueError) != ""


@FEW
@given(value=VALUES)
def test_what_json_is_written_as_is_read_as_the_same(value: Any) -> None:
    try:
        text = escaping.json_text(value)
    except ValueError:
        return
    try:
        found = parse_json(text)
    except ValueError:
        return  # halves of characters, numbers beyond any use
    assert found == value or _has_zero(value)


def _has_zero(value: Any) -> bool:
    """-0.0 and keys that differ in their type are told apart by nobody."""
    return any(isinstance(one, float) and (one == 0 or math.isnan(one)) for one in _leaves(value))


def _leaves(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] if not inner else [leaf for one in inner for leaf in _leaves(one)]


@FEW
@given(
    rows=st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), min_size=2, max_size=2))
)
def test_rows_come_back_as_they_were_written(rows: list[list[str]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([["a", "b"], *rows])
    header, found = parse_rows(buffer.getvalue().encode(), ("a", "b"))
    assert header == ("a", "b")
    assert [list(row.values()) for row in found] == rows


@settings(FEW, max_examples=40)
@given(document=DOCUMENTS)
def test_every_reader_of_json_names_the_file(document: dict[str, Any], tmp_path: Path) -> None:
    content = json.dumps(document).encode("utf-8", "surrogatepass")
    for read, file, _ in READERS.values():
        if not file.endswith(".json"):
            continue
        path = tmp_path / file
        path.write_bytes(content)
        assert str(path) in (said(lambda read=read, path=path: read(path), TledgeError) or str(path))


@settings(FEW, max_examples=100)
@given(data=st.data())
def test_fields_of_a_manifest(data: st.DataObject, finished_run: Path, tmp_path: Path) -> None:
    content = parse_json((finished_run / "run.json").read_bytes())
    for _ in range(2):
        ways = [way for way in _places(content) if way]
        content = _changed(content, data.draw(st.sampled_from(ways)), data.draw(VALUES))
    path = tmp_path / "run.json"
    path.write_bytes(json.dumps(content).encode("utf-8", "surrogatepass"))
    assert str(path) in (said(lambda: read_record(path, Manifest), TledgeError) or str(path))


@FEW
@given(content=st.binary(max_size=200), suffix=st.sampled_from(("x.npz", "images-idx3-ubyte", "images-idx3-ubyte.gz")))
def test_arrays_of_any_bytes(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / "labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01a")
    path = tmp_path / suffix
    path.write_bytes(content)
    with pytest.raises(TledgeError):
        unpack(path)


BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def robustness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The long form, as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("robustness")


@pytest.mark.parametrize(
    ("code", "told", "fault"),
    [
        (0, "", None),
        (0, "a warning of a library\n", None),
        (143, "", None),
        (2, "tledge: data: 3 images\ntledge: expected a run, but got none", None),
        (2, "", "traceback"),
        (2, "tledge: expected a run\nSegmentation fault", "traceback"),
        (2, "W0000 a library\ntledge: expected a run", "noise"),
        (1, "Traceback (most recent call last):\n", "traceback"),
        (3, "tledge: an error of tledge itself", "unforeseen"),
        (1, "tledge: x", "code"),
        (-11, "", "code"),
        (120, "", "code"),
        (124, "", "late"),
    ],
)
def test_the_campaign_tells_faults_apart(code: int, told: str, fault: str | None, robustness: Any) -> None:
    found = robustness.faults_of(robustness.Ended(code, "", told, 1.0))
    assert (fault in found) if fault else not found


@pytest.mark.parametrize(
    ("file", "how", "code", "out", "told", "outcome"),
    [
        ("run/split.csv", "cut", 2, "", "tledge: expected", "refused"),
        ("run/split.csv", "cut", 0, "table", "", "equal"),
        ("run/split.csv", "cut", 0, "another", "", "silent"),
        ("run/split.csv", "cut", 0, "another", "split.csv is damaged", "told"),
        ("run/bench.json", "changed_json", 0, "another", "", "other"),
        ("run/bench.json", "changed_json", 0, "p50 nan ms", "", "nonsense"),
        ("run/bench.json", "cut", 0, "another", "", "silent"),
    ],
)
def test_the_campaign_tells_results_apart(
    file: str, how: str, code: int, out: str, told: str, outcome: str, robustness: Any
) -> None:
    reader = next(one for one in robustness.READERS if one.file == file)
    done = robustness.Ended(code, out, told, 1.0)
    made, expected = {"out": out, "told": told}, {"out": "table", "told": ""}
    assert robustness.judged(reader, how, done, 0, expected, made) == outcome
    assert robustness.judged(reader, how, done, 0, expected, made, must_be_seen=True) == (
        "silent" if reader.bound and code == 0 else outcome
    )


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign")


@pytest.mark.slow
@pytest.mark.parametrize("plant", ["traceback", "code", "unforeseen", "silent", "leftover"])
def test_a_planted_fault_is_found(plant: str, material: Path) -> None:
    """A campaign that finds nothing where something is proves nothing."""
    log, found = material / f"{plant}.jsonl", []
    program = [sys.executable, str(BENCHMARKS / "robustness.py"), "--log", str(log), "--work", str(material / "work")]
    kind = "--kills" if plant == "leftover" else "--inputs"
    for cases in range(20, 200, 20):
        subprocess.run([*program, "--plant", plant, kind, str(cases)], check=False, capture_output=True)
        found = [fault for line in log.read_text().splitlines() for fault in json.loads(line)["faults"]]
        if plant in found:
            break
    assert plant in found
