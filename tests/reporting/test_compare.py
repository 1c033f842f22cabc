"""Runs side by side: the numbers their stages wrote, and marks where they cannot be compared."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tledge
from tests.conftest import run_cli
from tledge.benchmark import bench as bench_stage
from tledge.core.errors import RunError, SettingsError
from tledge.reporting.compare import compare_runs


@pytest.fixture(scope="module")
def pair(finished_run: Path) -> list[Path]:
    """Two whole runs of the same model with one file each, measured without TensorFlow."""
    runs = [finished_run.parent / name for name in ("left", "right")]
    for run in runs:
        shutil.copytree(finished_run, run)
        for path in (run / "export").iterdir():
            if path.stem != "tflite-int8":
                path.unlink()
    tledge.check(runs[0], max_drop=0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_stage, "installed", lambda package: False)
        tledge.bench(runs[0], rounds=2, samples=2, threads=1)
    for name in ("check.json", "bench.json"):
        shutil.copy(runs[0] / name, runs[1] / name)
    return runs


def change(path: Path, edit: Any) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def runs(pair: list[Path], tmp_path: Path) -> list[Path]:
    copies = [pair[0].parent / f"{tmp_path.name}-{run.name}" for run in pair]
    for source, target in zip(pair, copies, strict=True):
        shutil.copytree(source, target)
    return copies


def test_the_same_conditions_need_no_marks(runs: list[Path], tmp_path: Path) -> None:
    done = run_cli("compare", *runs, "--markdown", tmp_path / "c.md", "--json", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    result = compare_runs(*runs)
    assert (result.accuracy_comparable, result.latency_comparable) == (True, True)
    assert [row[:2] for row in result.rows] == [(f, r) for f in ("keras", "tflite-int8") for r in result.runs]
    check = json.loads((runs[0] / "check.json").read_text())["artefacts"][0]
    bench = json.loads((runs[0] / "bench.json").read_text())["results"][0]
    row = next(row for row in result.rows if row[:2] == ("tflite-int8", result.runs[0]))
    low, high = check["accuracy_interval_95"]
    assert row[3:6] == (f"{check['accuracy']:.3f} ({low:.3f}–{high:.3f})", "12", f"{check['accuracy_drop']:+.3f}")
    assert row[7] == f"{bench['latency_ms']['p50']:.2f}"
    assert not any("DIFFERENT" in note for note in result.notes)
    assert row[3] in done.stdout
    assert "| tflite-int8 | " in (tmp_path / "c.md").read_text()
    written = json.loads((tmp_path / "c.json").read_text())
    assert {file["run"] for file in written["files"]} == set(result.runs)
    assert "samples_ms" not in json.dumps(written)


def test_other_machines_and_other_images_are_marked(runs: list[Path]) -> None:
    change(runs[1] / "bench.json", lambda content: content["environment"]["machine"].update(cpu="Another CPU"))
    change(runs[1] / "check.json", lambda content: content.update(data_fingerprint="f" * 64))
    result = compare_runs(*runs)
    assert (result.accuracy_comparable, result.latency_comparable) == (False, False)
    left, right = (row for row in result.rows if row[0] == "tflite-int8")
    assert left[3].endswith("[1]")
    assert right[3].endswith("[2]")
    assert left[7].endswith("[A]")
    assert right[7].endswith("[B]")
    notes = "\n".join(result.notes)
    assert "DIFFERENT images" in notes
    assert "DIFFERENT conditions" in notes
    assert "[B] measured on Another CPU" in notes


@pytest.mark.parametrize("what", ["threads", "batch"])
def test_other_settings_are_marked_too(runs: list[Path], what: str) -> None:
    change(runs[1] / "bench.json", lambda content: content["settings"].update({what: 7}))
    assert not compare_runs(*runs).latency_comparable


def measured_on_a_board(content: dict[str, Any]) -> None:
    """Put a host into bench.json that measured the same but for one p50."""
    board = {"board": "Raspberry Pi 5", "cpu": None, "architecture": "aarch64", "memory_gb": None}
    condition = content["environment"]["conditions"]["before"]
    results = copy.deepcopy(content["results"])
    results[0]["latency_ms"]["p50"] = 123.456
    host = {
        "on": "ssh://pi@board",
        "created": content["created"],
        "environment": {
            "machine": content["environment"]["machine"] | board,
            "versions": {},
            "before": condition,
            "after": condition,
        },
        "settings": {"batch": 1, "rounds": 2, "samples": 2, "warmup": 2, "threads": [1], "target": None},
        "skipped": [],
        "over_limits": [],
        "notes": ["the board says that it was throttled"],
        "results": results,
    }
    content["hosts"] = [host]


def test_hosts_stand_in_a_table_of_their_own(runs: list[Path]) -> None:
    change(runs[1] / "bench.json", measured_on_a_board)
    (row,) = compare_runs(*runs).host_rows
    assert any("pi@board: the board says that it was throttled" in note for note in compare_runs(*runs).notes)
    assert row[:5] == (
        "tflite-int8",
        compare_runs(*runs).runs[1],
        "pi@board (Raspberry Pi 5, aarch64)",
        "1",
        "123.46",
    )


def answered_on_a_board(content: dict[str, Any]) -> None:
    """Put a host into check.json that lost one class."""
    item = copy.deepcopy(content["artefacts"][0])
    item["recall"]["digit 7"] = 0.0
    item["accuracy"] = 0.5
    item["against_here"] = {
        **{"max_probability_difference": 1.0, "mean_probability_difference": 0.5, "other_class": 4, "reason": "no VNNI"}
    }
    machine = content["machine"] | {"board": "Raspberry Pi 5"}
    host = {"on": "ssh://pi@board", "passed": True, "verdict": "pass", "notes": [], "artefacts": [item]}
    content["hosts"] = [host | {"environment": {"machine": machine, "versions": {"ai-edge-litert": "1.0"}}}]


def test_one_run_over_machines(runs: list[Path], tmp_path: Path) -> None:
    run = runs[0]
    change(run / "bench.json", measured_on_a_board)
    change(run / "check.json", answered_on_a_board)
    page = tmp_path / "page.html"
    done = run_cli("compare", run, "--html", page, "--json", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    result = compare_runs(run)
    assert (result.over, result.runs, result.accuracy_comparable) == ("machine", ("here", "pi@board, 1 threads"), True)
    here, there = (row for row in result.rows if row[0] == "tflite-int8")
    p50 = json.loads((run / "bench.json").read_text())["results"][0]["latency_ms"]["p50"]
    assert (here[1], here[7]) == ("here", f"{p50:.2f} [A]")
    assert (there[1], there[3][:5], there[7]) == ("pi@board, 1 threads", "0.500", "123.46 [B]")
    assert any(note.startswith("[B] measured on Raspberry Pi 5, aarch64") for note in result.notes)
    text = page.read_text()
    assert "One run on 2 machines" in text
    assert 'id="figure-hosts"' in text
    assert "<bdi>-1.000</bdi>" in text, "recall of digit 7 there, against here"
    assert {item["run"] for item in json.loads((tmp_path / "c.json").read_text())["files"]} == {
        "here",
        "pi@board, 1 threads",
    }
    change(run / "bench.json", lambda content: content.update(hosts=[]))
    assert compare_runs(run).runs == ("here", "pi@board")


def test_what_was_not_measured_is_said(runs: list[Path]) -> None:
    (runs[1] / "bench.json").unlink()
    (runs[1] / "check.json").unlink()
    result = compare_runs(*runs)
    row = next(row for row in result.rows if row[:2] == ("tflite-int8", result.runs[1]))
    assert row[2:6] == ("–",) * 4
    assert sum("not measured, run" in note for note in result.notes) == 2
    change(runs[0] / "bench.json", lambda content: content["results"][0].update(sha256="0" * 64))
    left = next(row for row in compare_runs(*runs).rows if row[0] == "tflite-int8")
    assert left[7] == "–", "numbers of an older file are not shown"


def test_what_cannot_be_compared(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="two or more different runs"):
        compare_runs(runs[0], runs[0])
    with pytest.raises(SettingsError, match=r"two or more runs, or one that other machines .*bench .* --on HOST"):
        compare_runs(runs[0])
    with pytest.raises(RunError, match="does not exist"):
        compare_runs(runs[0], tmp_path / "nowhere")
    change(runs[1] / "check.json", lambda content: content.pop("n"))
    with pytest.raises(
        RunError, match=r"expected n as a whole number of at least 0 in .*check\.json, but it is missing; run"
    ):
        compare_runs(*runs)
