"""Runs on disk: whole or absent, found again wherever they are, and never a traceback over a damaged file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.conftest import run_cli, write_digits
from tledge.conversion.artefacts import find_artefacts
from tledge.core.errors import ArtefactError, RunError
from tledge.core.files import remove_stale
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import new_run, open_run
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier

onnx = pytest.importorskip("onnx")


def test_a_run_appears_at_once_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def fail() -> None:
        with new_run(out) as run:
            run.manifest.write_text("{}")
            assert not out.exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())
    with new_run(out) as run:
        run.manifest.write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(RunError, match=rf"is a run; go on with it \(`tledge export {out}`\)"), new_run(out):
        pass


def test_leftovers_of_an_equal_process_number_are_swept_up(tmp_path: Path) -> None:
    """Processes in containers count from 1 each time, so a killed one may have had our number."""
    stale = tmp_path / f".run.partial-{os.getpid()}"
    stale.mkdir()
    (stale / "half").write_text("")
    alive = tmp_path / f".run.partial-{os.getppid()}"
    alive.mkdir()
    with new_run(tmp_path / "run"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "run"]
    (tmp_path / ".onnx-int8.partial-999999999.onnx").write_bytes(b"half")
    remove_stale(tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.slow
def test_a_run_behind_a_symbolic_link(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 6)
    real = tmp_path / "elsewhere" / "deep"
    real.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    out = tmp_path / "link" / "run"
    tledge.train(data, technique="feature-extraction", out=out, weights="random", image_size=32, epochs=1)
    assert tledge.export(out, recipes=["onnx-float32"]).artefacts
    assert tledge.check(out, on_undecided="pass").passed


def test_an_interrupted_export_is_no_passed_check(run_copy: Path) -> None:
    (run_copy / "export" / "onnx-int8.json").unlink()
    with pytest.raises(ArtefactError, match="interrupted"):
        tledge.check(run_copy)


@pytest.mark.slow
def test_a_recipe_may_change_its_format(run_copy: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    for fmt in ("tflite", "onnx"):
        recipe.write_text(f'format = "{fmt}"\nprecision = "float32"\n')
        tledge.export(run_copy, recipes=[str(recipe)])
    assert not (run_copy / "export" / "mine.tflite").exists()
    run = open_run(run_copy)
    assert "mine" in {item.name for item in find_artefacts(run, read_manifest(run))}


def test_damaged_results_are_no_traceback(run_copy: Path) -> None:
    (run_copy / "check.json").write_text('{"passed": true}')
    completed = run_cli("report", run_copy)
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    (run_copy / "check.json").unlink()
    (run_copy / "split.csv").write_text("path,class,subset,sha256\na.png,digit 0,tset,00\n")
    with pytest.raises(RunError, match="tset"):
        tledge.check(run_copy)


def test_onnx_files_of_other_tools(finished_run: Path, tmp_path: Path) -> None:
    model = onnx.load(finished_run / "export" / "onnx-float32.onnx")
    for entry in model.metadata_props:
        entry.value = "cat,dog,bird"
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    assert open_classifier(path, MODEL_OF_A_RUN).labels is None
    facts = json.loads(run_cli("inspect", path, "--json").stdout)
    assert facts["lineage"] is None
    assert facts["input"] == "float32 (N, 32, 32, 3)"
    assert "neither the file nor --input says it" in facts["pixels"]
    with pytest.raises(ArtefactError, match=r"which values foreign\.onnx takes for pixels, but neither the file"):
        tledge.predict(path, [])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, path)
    with pytest.raises(ArtefactError, match="takes 4"):
        open_classifier(path, MODEL_OF_A_RUN).prepare(np.zeros((1, 32, 32, 3), np.uint8))


def test_max_drop_is_checked_before_training(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 6)
    completed = run_cli("run", data, "--technique", "feature-extraction", "--out", tmp_path / "run", "--max-drop", "2")
    assert completed.returncode == 2
    assert "--max-drop" in completed.stderr
    assert not (tmp_path / "run").exists()
