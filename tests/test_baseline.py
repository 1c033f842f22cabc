"""Baselines: the last release image by image, what flipped since, and what may not be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.conftest import run_cli, write_digits
from tests.test_check import sicken
from tledge.errors import RunError
from tledge.stages.baseline import AcceptedArtefact, change_since, read_baseline

pytest.importorskip("onnx")


def test_the_same_release_passes_and_a_worse_one_names_the_images(run_copy: Path, tmp_path: Path) -> None:
    file = run_copy / "export" / "onnx-float32.onnx"
    tledge.check(run_copy, on_undecided="pass")
    baseline = tmp_path / "baseline.json"
    accepted = tledge.save_baseline(run_copy, baseline)
    assert len(accepted.artefacts) == 6
    assert len(accepted.images) == 12
    same = tledge.check(run_copy, baseline=baseline, on_undecided="pass")
    gates = {gate.name: gate for gate in same.artefacts[0].gates}
    assert gates["max_baseline_drop"].verdict == "pass"
    assert gates["max_baseline_drop"].note == "the very same file"
    assert all(item.change and not (item.change.lost or item.change.won) for item in same.artefacts)

    sicken(run_copy)
    worse = tledge.check(run_copy, artefacts=[file], baseline=baseline, on_undecided="pass")
    change = worse.artefacts[0].change
    assert change is not None
    assert {flip.path for flip in change.lost} <= set(accepted.images)
    assert len(change.lost) > 6
    assert all(flip.before == flip.label != flip.after for flip in change.lost)
    assert not change.improved
    assert {gate.name: gate.verdict for gate in worse.artefacts[0].gates}["max_baseline_drop"] == "fail"
    assert set(worse.missing) == accepted.artefacts.keys() - {"onnx-float32"}
    written = json.loads((run_copy / "check.json").read_text())
    assert len(written["artefacts"][0]["since_baseline"]["lost"]) == len(change.lost)
    shown = run_cli("check", run_copy, "--artefact", file, "--baseline", baseline)
    assert shown.returncode == 1
    assert f"onnx-float32 since the baseline: {len(change.lost)} lost, 0 won" in shown.stdout
    assert f"lost: {change.lost[0].path}" in shown.stdout


def test_improvement_beyond_chance_is_told() -> None:
    labels = np.zeros(200, np.int64)
    before = AcceptedArtefact("0" * 64, tuple([1] * 30 + [0] * 170))
    now = np.asarray([0] * 25 + [1] * 3 + [2] * 2 + [0] * 170)
    paths = [f"{i}.png" for i in range(200)]
    change = change_since(before, now, paths, labels, ("cat", "dog", "owl"))
    assert (len(change.won), len(change.lost), len(change.moved)) == (25, 0, 2)
    assert change.improved
    assert change.drop.value == pytest.approx(-25 / 200)
    assert (change.moved[0].before, change.moved[0].after) == ("dog", "owl")
    few = change_since(before, np.asarray([0, *before.predicted[1:]]), paths, labels, ("cat", "dog", "owl"))
    assert len(few.won) == 1
    assert not few.improved


def test_other_images_or_classes_are_not_compared(run_copy: Path, tmp_path: Path) -> None:
    tledge.check(run_copy, on_undecided="pass")
    baseline = tmp_path / "baseline.json"
    tledge.save_baseline(run_copy, baseline)
    other = write_digits(tmp_path / "other", 5)
    refused = run_cli("check", run_copy, "--baseline", baseline, "--data", other)
    assert refused.returncode == 2
    assert "these are others (15," in refused.stderr
    assert refused.stderr.count("\n") <= 2
    before = (run_copy / "check.json").read_text()
    content = json.loads(baseline.read_text()) | {"classes": ["a", "b", "c"]}
    baseline.write_text(json.dumps(content))
    with pytest.raises(RunError, match="a, b, c"):
        tledge.check(run_copy, baseline=baseline)
    assert (run_copy / "check.json").read_text() == before, "nothing is lost"


def test_damaged_baselines(run_copy: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    with pytest.raises(RunError, match="tledge check"):
        tledge.save_baseline(run_copy, baseline)
    assert not baseline.exists()
    with pytest.raises(RunError, match="does not exist"):
        read_baseline(baseline)
    for content in ("{}", '{"schema_version": 99}', "[1]", "not json"):
        baseline.write_text(content)
        with pytest.raises(RunError):
            read_baseline(baseline)
