"""Check: int8 files whose ranges do not fit the run's calibration images are refused, whatever their accuracy."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.integration.sabotage import FaultContext, noise_calibration
from tledge.conversion import kept_calibration
from tledge.evaluation.gates.gate import Gate
from tledge.evaluation.results import CheckResult
from tledge.runs.manifest import read_split
from tledge.runs.rundir import open_run

pytest.importorskip("tensorflow")
pytest.importorskip("onnx")


def ranges_gate(result: CheckResult, name: str) -> Gate | None:
    [item] = [item for item in result.artefacts if item.name == name]
    return next((gate for gate in item.gates if gate.name == "ranges_off"), None)


def test_healthy_int8_files_pass_and_floats_have_no_such_gate(run_copy: Path) -> None:
    result = tledge.check(run_copy)
    for name in ("tflite-int8", "onnx-int8"):
        gate = ranges_gate(result, name)
        assert gate is not None
        assert (gate.value, gate.verdict) == (0, "pass")
        assert gate.n > 0
    assert ranges_gate(result, "tflite-float32") is ranges_gate(result, "tflite-dynamic") is None
    assert result.notes == ()


@pytest.mark.parametrize("name", ["tflite-int8", pytest.param("onnx-int8", marks=pytest.mark.slow)])
def test_files_calibrated_on_noise_fail(run_copy: Path, tmp_path: Path, name: str) -> None:
    context = FaultContext(run_copy, run_copy, tmp_path, np.random.default_rng(0))
    result = tledge.check(run_copy, artefacts=[noise_calibration(context, name)], max_drop=1.0)
    gate = ranges_gate(result, name)
    assert gate is not None
    assert gate.verdict == "fail"
    assert "calibration images need" in gate.note
    assert not result.passed


def test_ranges_are_worked_out_once_for_a_model(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, files = open_run(run_copy).calibration, [run_copy / "export" / "tflite-int8.tflite"]
    tledge.check(run_copy, artefacts=files)
    kept = path.read_bytes()

    def again(*_: object) -> None:
        raise AssertionError("worked out again")

    with monkeypatch.context() as patch:
        patch.setattr(kept_calibration, "calibrate", again)
        assert tledge.check(run_copy, artefacts=files).verdict != "fail"
    # What is damaged or another model's is made anew.
    for damage in ("{", json.dumps(json.loads(kept) | {"model_sha256": "0" * 64})):
        path.write_text(damage)
        tledge.check(run_copy, artefacts=files)
        assert path.read_bytes() == kept


def test_without_training_images_it_is_said(run_copy: Path, tmp_path: Path, digits: Path) -> None:
    others = shutil.copytree(digits, tmp_path / "others")
    for file in others.glob("*/*"):  # under the run's own names they would be the run's images, moved
        file.rename(file.with_name(f"other-{file.name}"))
    manifest = run_copy / "run.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data_root": "gone"}))
    open_run(run_copy).calibration.unlink(missing_ok=True)
    files = [run_copy / "export" / name for name in ("tflite-int8.tflite", "onnx-int8.onnx")]
    result = tledge.check(run_copy, artefacts=files, data=others)
    assert ranges_gate(result, "tflite-int8") is None
    assert sorted(note.partition(":")[0] for note in result.notes) == ["onnx-int8.onnx", "tflite-int8.tflite"]
    assert "calibration is not checked" in result.notes[0]
    assert json.loads((run_copy / "check.json").read_text())["notes"] == list(result.notes)


def test_with_some_training_images_gone_it_is_said(run_copy: Path, tmp_path: Path, digits: Path) -> None:
    """The root is still there, and the test images too."""
    images = shutil.copytree(digits, tmp_path / "images")
    run = open_run(run_copy)
    for row in read_split(run, "train"):
        (images / row.path).unlink()
    manifest = run_copy / "run.json"
    root = os.path.relpath(images, run_copy.resolve())
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data_root": root}))
    run.calibration.unlink(missing_ok=True)
    result = tledge.check(run_copy)
    assert result.n == 12
    assert ranges_gate(result, "tflite-int8") is None
    assert sorted(note.partition(":")[0] for note in result.notes) == ["onnx-int8.onnx", "tflite-int8.tflite"]
    assert "calibration is not checked: expected the train images" in result.notes[0]
