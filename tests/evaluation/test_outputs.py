"""What a pipeline gets of a check: exit codes, JUnit, Markdown, annotations; and that a check repeats itself."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import tledge
from tests.conftest import run_cli
from tests.evaluation.test_check import sicken

pytest.importorskip("onnx")
pytest.importorskip("junit_xml")


def test_a_failed_check_in_a_pipeline(run_copy: Path, tmp_path: Path) -> None:
    sicken(run_copy)
    summary, junit, markdown = tmp_path / "summary.md", tmp_path / "out" / "junit.xml", tmp_path / "check.md"
    summary.write_text("before\n")
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    done = run_cli("check", run_copy, "--junit", junit, "--markdown", markdown, env=env)
    assert done.returncode == 1
    assert "\x1b[" not in done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if line.startswith("::error title=tledge check::")]
    assert any("fail: onnx-float32: max_drop" in line for line in errors)
    suites = {suite.get("name"): suite for suite in ElementTree.parse(junit).getroot()}
    assert len(suites) == 6
    sick = suites["tledge check: onnx-float32"]
    failed = [case.get("name") for case in sick if case.find("failure") is not None]
    assert "max_drop" in failed
    healthy = suites["tledge check: tflite-float32"]
    assert healthy.get("failures") == "0"
    assert len(healthy.findall("testcase")) == 7, "six, and that a float32 file differs from its model nowhere"
    page = markdown.read_text()
    assert summary.read_text() == "before\n" + page
    assert "## tledge check: **FAIL**" in page
    assert "| onnx-float32 | **FAIL** |" in page
    written = json.loads((run_copy / "check.json").read_text())
    for item in written["artefacts"]:
        for gate in item["gates"]:
            assert {"name", "value", "limit", "n", "interval_95", "verdict", "passed"} <= gate.keys()


def test_undecided_is_what_the_caller_says(run_copy: Path, tmp_path: Path) -> None:
    file = run_copy / "export" / "tflite-int8.tflite"
    strict = run_cli("check", run_copy, "--artefact", file, "--gate", "max_drop=0.2", "--junit", tmp_path / "a.xml")
    assert strict.returncode == 1
    assert "undecided tflite-int8: max_drop" in strict.stdout
    assert "needs about" in strict.stdout
    lenient = run_cli(
        *("check", run_copy, "--artefact", file, "--max-drop", "0.2", "--on-undecided", "pass"),
        *("--junit", tmp_path / "b.xml"),
    )
    assert lenient.returncode == 0
    assert "undecided tflite-int8: max_drop" in lenient.stdout, "it is still told"
    first, second = (ElementTree.parse(tmp_path / name).getroot() for name in ("a.xml", "b.xml"))
    assert first.find(".//failure") is not None
    assert second.find(".//failure") is None
    assert second.find(".//skipped") is not None


def test_recipe_limits_and_the_command_lines(run_copy: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text('format = "onnx"\nprecision = "float32"\n[check]\nmax_size_mb = 0.5\nmin_agreement = 0.5\n')
    file = tledge.export(run_copy, recipes=[str(recipe)]).artefacts[0].path
    by_recipe = tledge.check(run_copy, artefacts=[file])
    verdicts = {gate.name: gate.verdict for gate in by_recipe.artefacts[0].gates}
    assert verdicts["max_size_mb"] == "fail"
    assert verdicts["min_agreement"] == "pass"
    assert by_recipe.artefacts[0].reason == "", "the answers are right, so they give no cause"
    assert tledge.check(run_copy, artefacts=[file], gates={"max_size_mb": 100.0}).passed
    refused = run_cli("check", run_copy, "--gate", "max_dorp=0.1")
    assert refused.returncode == 2
    assert "expected one of drop, relative_drop, " in refused.stderr


def test_the_same_check_gives_the_same_verdict(run_copy: Path) -> None:
    """Six times, every number but the date."""
    file = run_copy / "export" / "tflite-int8.tflite"

    def numbers() -> object:
        tledge.check(
            run_copy,
            artefacts=[file],
            gates={"max_error_ratio": 2.0, "max_relative_drop": 0.1, "max_class_recall_drop": 0.3},
        )
        content = json.loads((run_copy / "check.json").read_text())
        return {key: content[key] for key in content if key != "created"}

    first = numbers()
    assert all(numbers() == first for _ in range(5))


def test_models_without_a_run(run_copy: Path, digits: Path, tmp_path: Path) -> None:
    """As from the README: the reference is a file, the artefacts are files, a folder gets the result."""
    exports, out = run_copy / "export", tmp_path / "checked"
    arguments = ("--reference", run_copy / "model.keras", "--data", digits, "--labels", run_copy / "labels.txt")
    done = run_cli(
        *("check", *arguments, "--out", out, "--max-drop", "0.1", "--on-undecided", "pass"),
        *("--artefact", exports / "tflite-float32.tflite", "--artefact", exports / "onnx-int8.onnx"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((out / "check.json").read_text())
    assert written["n"] == 60
    assert [item["name"] for item in written["artefacts"]] == ["tflite-float32.tflite", "onnx-int8.onnx"]
    assert written["artefacts"][0]["agreement"] == 1.0
    baseline = tmp_path / "baseline.json"
    assert run_cli("baseline", "save", out, "--out", baseline).returncode == 0
    again = run_cli(
        *("check", *arguments, "--max-drop", "0.1", "--baseline", baseline),
        *("--artefact", exports / "tflite-float32.tflite"),
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "onnx-int8.onnx" in again.stdout, "what the baseline has and the check has not is told"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected RUN"),
        (("--reference", "model.keras"), "--labels"),
        (("run", "--labels", "labels.txt"), "--reference"),
        (("--reference", "model.keras", "--labels", "labels.txt"), "--data"),
        (("run", "--out", "folder"), "--out"),
        (
            ("--reference", "a.keras", "--labels", "b", "--data", "c", "--gate", "max_latency_ratio=1"),
            "max_latency_ratio",
        ),
        (("run", "--gate", "max_baseline_drop=0.1"), "expected a baseline for max_baseline_drop, but got none"),
        (("run", "--gate", "disagreement < 5 %"), "expected images without labels for max_disagreement, but got none"),
        (
            ("--reference", "a", "--labels", "b", "--data", "c", "--gate", "max_baseline_drop=0.1"),
            "expected a baseline for max_baseline_drop, but got none",
        ),
    ],
)
def test_calls_that_make_no_sense(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run_cli("check", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_other_things_is_not_written_into(run_copy: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for out in (tmp_path / "mine", run_copy):
        done = run_cli(
            *("check", "--reference", run_copy / "model.keras", "--data", digits, "--labels", run_copy / "labels.txt"),
            *("--artefact", run_copy / "export" / "tflite-float32.tflite", "--out", out),
        )
        assert done.returncode == 2
        assert "choose another" in done.stderr


def test_the_screen_shows_what_matters_first(run_copy: Path) -> None:
    asked = run_cli("check", run_copy, "--gate", "drop < 0.5", "--gate", "size < 900 MB", "--on-undecided", "pass")
    assert asked.returncode == 0, asked.stdout
    lines = asked.stdout.splitlines()
    files = len(list((run_copy / "export").glob("*.json")))
    assert sum("max_size_mb" in line for line in lines) == files, "what was asked for is shown though it passed"
    assert "7 invariants hold." in lines
    assert "dead_classes" not in asked.stdout
    whole = run_cli("check", run_copy, "--on-undecided", "pass", "--verbose")
    assert whole.stdout.count("dead_classes") == files
    assert len(lines) < len(whole.stdout.splitlines())
