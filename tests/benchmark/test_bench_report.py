"""Bench and report: honest measurements, and one table that says what was and what was not done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.conftest import run_cli
from tledge.benchmark import bench as bench_stage
from tledge.core.errors import ArtefactError, SettingsError
from tledge.reporting.report import COLUMNS


@pytest.fixture(scope="module")
def measured(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    import shutil

    run = finished_run.parent / "measured"
    shutil.copytree(finished_run, run)
    return run, tledge.bench(run, threads=1, rounds=3, samples=4, warmup=1)


def test_raw_samples_and_percentiles_fit(measured: tuple[Path, object]) -> None:
    run, _ = measured
    written = json.loads((run / "bench.json").read_text())
    assert written["results"][0]["name"] == "keras"
    assert len(written["results"]) == 7
    for item in written["results"]:
        samples = np.concatenate(item["samples_ms"])
        assert np.shape(item["samples_ms"]) == (3, 4)
        assert item["n"] == 12
        assert (item["batch"], item["threads"]) == (1, 1)
        assert item["latency_ms"]["p50"] == pytest.approx(np.median(samples), abs=1e-3)
        assert item["latency_ms"]["min"] == pytest.approx(samples.min(), abs=1e-3)
        assert item["latency_ms"]["min"] <= item["latency_ms"]["p50"] <= item["latency_ms"]["p90"]
        assert item["load_ms"] > 0
        assert item["first_ms"] > 0
        assert item["peak_rss_mb"] > item["model_rss_mb"] > 0
    keras = written["results"][0]
    for item in written["results"]:
        assert item["speedup_vs_keras"] == pytest.approx(
            keras["latency_ms"]["p50"] / item["latency_ms"]["p50"], rel=0.01
        )
    assert {"machine", "versions", "busy_cores_before"} <= written["environment"].keys()
    assert written["environment"]["machine"]["cpu"]


def test_each_model_has_a_process_of_its_own(measured: tuple[Path, object]) -> None:
    _, result = measured
    peaks = {item.name: item.peak_rss_mb for item in result.measurements}
    assert peaks["keras"] > 2 * peaks["tflite-int8"], "TensorFlow's memory must not be counted for LiteRT"


@pytest.mark.slow
def test_batches(finished_run: Path, run_copy: Path) -> None:
    result = tledge.bench(run_copy, batch=3, rounds=1, samples=2, threads=1)
    assert {item.batch for item in result.measurements} == {3}


def test_without_tensorflow_only_artefacts_are_measured(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_copy / "model.keras").unlink()
    monkeypatch.setattr(bench_stage, "installed", lambda package: False)
    result = tledge.bench(run_copy, rounds=1, samples=2, threads=1)
    assert "keras" not in {item.name for item in result.measurements}
    assert all(item.speedup_vs_keras is None for item in result.measurements)
    assert any("TensorFlow is not installed" in note for note in result.notes)


@pytest.mark.parametrize("option", ["--rounds", "--samples", "--batch", "--threads"])
def test_settings_that_make_no_sense(option: str, finished_run: Path) -> None:
    completed = run_cli("bench", finished_run, option, "0" if option != "--threads" else "-1")
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert option in completed.stderr


def test_more_threads_than_cores(finished_run: Path) -> None:
    with pytest.raises(SettingsError, match="cores available"):
        tledge.bench(finished_run, threads=10_000)


def test_a_model_that_cannot_run_is_named(run_copy: Path) -> None:
    for path in (run_copy / "export").iterdir():
        if not path.name.startswith("onnx-float32"):
            path.unlink()
    (run_copy / "export" / "onnx-float32.onnx").write_bytes(b"nothing")
    with pytest.raises(ArtefactError, match="onnx-float32"):
        tledge.bench(run_copy, rounds=1, samples=1)


def test_report_says_what_is_not_known(finished_run: Path, run_copy: Path) -> None:
    result = tledge.report(run_copy)
    assert {row.status for row in result.rows[1:]} == {"not checked"}
    assert result.check is None
    assert result.bench is None


def test_report_of_everything(measured: tuple[Path, object]) -> None:
    run, _ = measured
    tledge.check(run, max_drop=0.3)
    result = tledge.report(run)
    assert len(result.rows) == 7
    assert {row.status for row in result.rows[1:]} == {"pass"}
    page = (run / "report.md").read_text()
    for cell in (*COLUMNS, "tflite-int8", "onnx-int8", "## Training", "## Recall per class", "n = 12"):
        assert cell in page
    shown = run_cli("report", run)
    assert shown.returncode == 0
    assert "tflite-float16" in shown.stdout
    assert "\x1b[" not in shown.stdout


def test_report_after_a_new_export_does_not_show_old_numbers(measured: tuple[Path, object], run_copy: Path) -> None:
    run, _ = measured
    for name in ("check.json", "bench.json"):
        if (run / name).is_file():
            text = (run / name).read_text()
            for item in json.loads(text).get("artefacts", []) + json.loads(text).get("results", []):
                text = text.replace(item["sha256"], "0" * 64)
            (run_copy / name).write_text(text)
    assert {row.status for row in tledge.report(run_copy).rows[1:]} == {"not checked"}
