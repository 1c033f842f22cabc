"""No name becomes a command of what displays it: terminals, GitHub Actions, Markdown, XML, JSON; in every command."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import tledge
from tests.conftest import run_cli
from tledge.core import escaping
from tledge.reporting.model_card import ModelCard, as_markdown

NAMES = (
    "plain name",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "a\n::error::b",
    "a\r::add-mask::b",
    "::set-output name=a::b",
    "##[error]b",
    "x ##[group]y",
    "\u202etxt.exe",
    "a\u2028b",
    "\u200b\ufeff",
    "a|b\\|c",
    "<script>alert(1)</script>",
    "![a](http://tracker.invalid/a.png)",
    "[a](javascript:b)",
    "a\0b",
    "\ud800",
    "100%25, a: b",
    '"]]>&amp;<a b="',
)
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def harmless(text: str) -> None:
    """What a log shows: nothing unseen, no line that is a command."""
    assert not UNSEEN.search(text), ascii(text)
    for line in text.split("\n"):
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line, line


@pytest.mark.parametrize("name", NAMES, ids=map(ascii, NAMES))
def test_each_kind_of_output(name: str) -> None:
    for printed in (escaping.terminal(name), escaping.terminal(f"{name}: wrong")):
        harmless(printed)
        assert "\n" not in printed
    page = escaping.markdown(name)
    assert not UNSEEN.search(page)
    assert "\n" not in page
    assert not re.search(r"(?<!\\)(\\\\)*[\[|]|<[a-z/!]", page), "a cell, a link or a tag begins"
    message = escaping.workflow_message(name)
    assert not UNSEEN.search(message)
    assert "\n" not in message
    assert not set(escaping.workflow_property(name)) & {":", ",", "\n"}
    text = escaping.json_text({name: [name]})
    assert not UNSEEN.search(text)
    assert json.loads(text) == {name: [name]}
    card = as_markdown(ModelCard(name, {"name": [name]}, ()))
    assert not UNSEEN.search(card)
    assert json.loads(card.splitlines()[1].removeprefix("name: ")) == [name]


def test_readable_names_stay_as_they_are() -> None:
    for name in ("Müller – 3 °C", "日本語", "می‌خواهم", "क्‍ष", "a: b", "C:: d"):
        assert escaping.terminal(name) == name
        assert escaping.markdown(name) == name
    assert escaping.markdown("**FAIL** drop < 0.02 `x`") == "**FAIL** drop < 0.02 `x`"


def test_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        escaping.json_text({"a": float("nan")})


HOSTILE = "\x1b[31mcat\x1b[0m\n::error::x \u202edog|[a](b)<img src=x>"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An .onnx file of somebody else whose labels are hostile."""
    onnx = pytest.importorskip("onnx")
    from tests.runtimes.test_hostile_models import classifier

    path = classifier(tmp_path / "model.onnx")
    content = onnx.load(str(path))
    onnx.helper.set_model_props(content, {"labels": json.dumps([HOSTILE, "::notice::b", "##[error]c"])})
    onnx.save(content, str(path))
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "a\n::error::b\x1b[2J.png"
    Image.new("RGB", (8, 8), (9, 99, 199)).save(path)
    return path


def test_labels_and_paths_of_predict_and_inspect(model: Path, picture: Path) -> None:
    bytes_in = ("--input", "0..255")
    for words in (("predict", model, picture), ("inspect", model)):
        for more in ((), ("--json",)):
            ended = run_cli(*words, *bytes_in, *more)
            assert ended.returncode == 0, ended.stderr
            harmless(ended.stdout)
            harmless(ended.stderr)
    assert json.loads(run_cli("inspect", model, *bytes_in, "--json").stdout)["labels"][0] == HOSTILE


COMMANDS = ("run", "train", "adopt", "select", "export", "check", "bench", "diagnose", "report", "inspect", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_path_in_every_message(command: str, tmp_path: Path) -> None:
    path = tmp_path / HOSTILE.replace("/", "")
    more = {"run": ("--out", path / "run"), "train": ("--technique", "freeze", "--out", path / "run")}
    more |= {"adopt": (path, "--out", path / "run"), "diagnose": (path,)}
    ended = run_cli(command, path, *more.get(command, ()))
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr.count("\n") == 1
    harmless(ended.stderr)


def test_a_run_and_a_recipe_with_hostile_names(run_copy: Path, tmp_path: Path) -> None:
    run = run_copy.rename(run_copy.with_name(f"copy ::error::{HOSTILE}".replace("/", "")))
    try:
        for words in (("report", run), ("doctor", run), ("inspect", run)):
            ended = run_cli(*words)
            assert ended.returncode in (0, 1), ended.stderr
            harmless(ended.stdout)
            harmless(ended.stderr)
        page = (run / "report.md").read_text()
        assert not UNSEEN.search(page)
        assert "<img" not in page
    finally:
        run.rename(run_copy)


def test_what_a_pipeline_gets(finished_run: Path, tmp_path: Path) -> None:
    """A recipe's name is in the file, and so is whatever somebody wrote there."""
    pytest.importorskip("junit_xml")
    from tledge.evaluation.outputs import as_annotations, as_junit
    from tledge.reporting.check import as_markdown, on_screen
    from tledge.reporting.terminal import render

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tledge.evaluation.check.write_check", lambda result: None)
        file = finished_run / "export" / "tflite-float32.tflite"
        result = tledge.check(finished_run, artefacts=[file], gates={"max_size_mb": 0.001})
    (item,) = result.artefacts
    hostile = dataclasses.replace(result, artefacts=(dataclasses.replace(item, name=HOSTILE, reason=HOSTILE),))
    lines = as_annotations(hostile)
    assert lines
    for line in lines:
        assert re.fullmatch(r"::(error|warning|notice) title=tledge check::[^\n\r]*", line)
        assert not UNSEEN.search(line)
    page = as_markdown(hostile)
    assert not UNSEEN.search(page)
    assert "<img" not in page
    xml = as_junit(hostile)
    ElementTree.fromstring(xml)
    assert not UNSEEN.search(xml.replace("\t", ""))
    out = tmp_path / "out"
    with out.open("w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        render(*on_screen(hostile, verbose=True))
    harmless(out.read_text())
