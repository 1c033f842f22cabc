"""What trackers of experiments get of a run is what its files say."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tledge
from tests.conftest import run_cli
from tledge.runs.check_json import read_check

FILE = "tflite-int8"


@pytest.fixture(scope="module")
def checked(finished_run: Path) -> Path:
    artefact = finished_run / "export" / f"{FILE}.tflite"
    out = finished_run.parent / "tracked"

    shutil.copytree(finished_run, out)
    tledge.check(out, artefacts=[out / "export" / artefact.name], on_undecided="pass")
    return out


def last_epoch(run: Path) -> dict[str, str]:
    return list(csv.DictReader((run / "history.csv").open()))[-1]


def test_tensorboard_shows_curves_and_files(checked: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for _ in range(2):  # the second time replaces the first
        done = run_cli("report", checked, "--tensorboard", tmp_path / "logs")
        assert done.returncode == 0, done.stderr
    events: Any = accumulator.EventAccumulator(str(tmp_path / "logs" / "tracked"), size_guidance={"tensors": 0})
    events.Reload()
    last = last_epoch(checked)
    curve = events.Tensors("training/loss")
    assert len(curve) == int(last["epoch"])
    (loss,) = curve[-1].tensor_proto.float_val or [float(curve[-1].tensor_proto.double_val[0])]
    assert loss == pytest.approx(float(last["loss"]))
    assert len(events.Tensors(f"accuracy/{FILE}")) == 1


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield mlflow
    mlflow.set_tracking_uri(before)


def test_mlflow_gets_parameters_metrics_and_artefacts(checked: Path, tmp_path: Path, store: Any) -> None:
    done = run_cli("report", checked, "--mlflow")
    assert done.returncode == 0, done.stderr
    (logged,) = store.search_runs(search_all_experiments=True, output_format="list")
    assert logged.info.run_id in done.stdout
    check = read_check(checked / "check.json")
    assert check is not None
    assert logged.data.params["settings/technique"] == "feature-extraction"
    assert logged.data.metrics[f"{FILE}/accuracy"] == check.artefacts[0].accuracy
    assert logged.data.metrics["training/val_accuracy"] == float(last_epoch(checked)["val_accuracy"])
    names = {path.path for path in store.MlflowClient().list_artifacts(logged.info.run_id)}
    assert {"report.html", "MODEL_CARD.md", "check.json", "export"} <= names
