"""Real photographs at full size, with ImageNet weights: minutes each, so `pytest -m slow`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import PHOTOS, run_cli

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photographs beside the project"),
]

MAJORITY = 73 / 164


def test_feature_extraction_at_full_size(tmp_path: Path) -> None:
    run = tmp_path / "run"
    completed = run_cli("run", PHOTOS, "--technique", "feature-extraction", "--out", run)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    check = json.loads((run / "check.json").read_text())
    assert check["reference"]["accuracy"] >= 0.93
    assert len(check["artefacts"]) == 6
    assert all(item["passed"] for item in check["artefacts"])
    bench = {item["name"]: item for item in json.loads((run / "bench.json").read_text())["results"]}
    for name in ("tflite-int8", "onnx-int8"):
        assert bench[name]["size_bytes"] <= 17.5e6
    flags = json.loads((run / "bench.json").read_text())["environment"]["machine"]["cpu_flags"]
    if {"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags):
        assert bench["tflite-int8"]["speedup_vs_keras"] >= 3
        assert bench["onnx-int8"]["speedup_vs_keras"] >= 3


@pytest.mark.parametrize(("technique", "size"), [("freeze", 160), ("architecture", 96)])
def test_techniques_that_train_the_trunk(technique: str, size: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("--image-size", size, "--epochs", 4, "--recipe", "tflite-int8", "--recipe", "onnx-int8")
    completed = run_cli("run", PHOTOS, "--technique", technique, "--out", run, *arguments, "--max-drop", "0.1")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    check = json.loads((run / "check.json").read_text())
    assert check["reference"]["accuracy"] >= MAJORITY + 0.2
