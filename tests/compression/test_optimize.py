"""Stage optimize: a new run that every later stage takes, compared with the original model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tledge
from tests.conftest import run_cli
from tledge.compression import ShrinkSettings
from tledge.compression.optimize import optimize
from tledge.core.errors import RunError, SettingsError
from tledge.core.files import sha256_file
from tledge.runs.rundir import open_run
from tledge.runtimes import open_classifier


def test_an_optimized_run_goes_through_every_stage(vgg16_run: Path, tmp_path: Path) -> None:
    run, small = shutil.copytree(vgg16_run, tmp_path / "run"), tmp_path / "small"
    arguments = ("--speedup", "4", "--epochs", "2", "--pictures", "80", "--out", small)
    completed = run_cli("optimize", run, *arguments)
    assert completed.returncode == 0, completed.stderr
    assert "distilled" in completed.stdout
    manifest = json.loads((small / "run.json").read_text())
    assert manifest["reference_sha256"] == sha256_file(run / "model.keras") == sha256_file(small / "reference.keras")
    assert manifest["model_sha256"] == sha256_file(small / "model.keras") != manifest["reference_sha256"]
    assert manifest["parent"]["model_sha256"] == manifest["reference_sha256"]
    assert manifest["optimization"]["multiply_add_ratio"] >= 4
    assert (small / "split.csv").read_text() == (run / "split.csv").read_text()
    recipes = ["tflite-float32", "tflite-int8", "onnx-int8"]
    made = {a.name: a for a in tledge.export(small, recipes=recipes).artefacts}
    assert made["tflite-float32"].path.stat().st_size < 0.5 * (run / "export" / "tflite-float32.tflite").stat().st_size
    checked = tledge.check(small, max_drop=1.0)
    original = tledge.check(run, max_drop=1.0)
    assert checked.reference_accuracy == original.reference_accuracy
    measured = tledge.bench(small, rounds=1, samples=2, threads=1).measurements
    assert measured[0].sha256 == manifest["reference_sha256"]
    assert len(tledge.report(small).rows) == 4


@pytest.mark.slow
def test_the_reference_keeps_its_own_input_size(tmp_path: Path, digits: Path) -> None:
    run, small = tmp_path / "run", tmp_path / "small"
    tledge.train(digits, technique="feature-extraction", out=run, image_size=64, epochs=20)
    optimize(run, ShrinkSettings(speedup=5, image_size_px=32, epochs=0, pictures=80), small, lambda *_: None)
    tledge.export(small, recipes=["tflite-float32"])
    result = tledge.check(small, max_drop=1.0)
    assert open_classifier(open_run(small).reference).image_size_px == 64
    assert open_classifier(small / "export" / "tflite-float32.tflite").image_size_px == 32
    tledge.export(run, recipes=["tflite-float32"])
    assert result.reference_accuracy == tledge.check(run, max_drop=1.0).reference_accuracy


def test_targets_that_make_no_sense(finished_run: Path, tmp_path: Path) -> None:
    for settings in ({}, {"speedup": 2, "max_drop": 0.1}, {"speedup": 0.5}, {"max_drop": 2.0}):
        with pytest.raises(SettingsError):
            ShrinkSettings(**settings)
    completed = run_cli("optimize", finished_run, "--out", tmp_path / "x")
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(RunError, match="exists"):
        optimize(finished_run, ShrinkSettings(speedup=2), tmp_path / "taken", lambda *_: None)
