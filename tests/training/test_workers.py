"""Several processes that train one model: the steps of one process with the whole batch, and an end after a kill."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.conftest import run_cli, write_digits
from tledge.cli.workers import _devices, without_workers
from tledge.core.errors import SettingsError
from tledge.training.workers import ALONE, VARIABLE, Workers, joined

_TRAINING = ("--weights", "random", "--image-size", "32", "--epochs", "4", "--batch-size", "16")


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("size", [2, 3])
def test_shares_make_up_the_batch(rows: int, size: int) -> None:
    """The mean over workers of the mean loss of each share is that of the batch; every share is as large."""
    losses = np.random.default_rng(0).uniform(size=rows)
    shares = [Workers(rank, size).share(np.arange(rows)) for rank in range(size)]
    assert len({len(own) for own, _ in shares}) == 1
    assert np.mean([np.mean(losses[own] * counts) for own, counts in shares]) == pytest.approx(losses.mean())
    counted = [row for own, counts in shares for row, count in zip(own, counts, strict=True) if count]
    assert sorted(counted) == list(range(rows))


def test_one_worker_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert joined() is ALONE
    one = {"cluster": {"worker": ["localhost:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv(VARIABLE, json.dumps(one))
    assert joined() is ALONE


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_a_wrong_variable_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(SettingsError, match=r"^expected TF_CONFIG as .*; correct it, or unset it"):
        joined()


def test_a_process_that_computes_already_cannot_join(tmp_path: Path) -> None:
    two = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}
    run_cli("--version")
    import tensorflow

    tensorflow.constant(1.0).numpy()
    ended = run_cli(
        "train",
        write_digits(tmp_path / "digits", 4),
        "--technique",
        "freeze",
        "--out",
        tmp_path / "run",
        env={VARIABLE: json.dumps(two)},
    )
    assert ended.returncode == 2
    assert "train in a process of its own" in ended.stderr
    ended = run_cli(
        "train",
        "digits",
        "--technique",
        "freeze",
        "--out",
        tmp_path / "run",
        "--workers",
        "2",
        env={VARIABLE: json.dumps(two)},
    )
    assert ended.returncode == 2
    assert "expected --workers without TF_CONFIG" in ended.stderr


def test_a_command_without_its_workers() -> None:
    assert without_workers(["train", "--workers", "2", "a", "--workers=3", "--out", "b"]) == [
        "train",
        "a",
        "--out",
        "b",
    ]


@pytest.mark.parametrize(
    ("workers", "found", "shown", "expected"),
    [
        (2, 0, None, [None, None]),
        (2, 4, None, ["0", "1"]),
        (2, 4, "2, 3", ["2", "3"]),
        (2, 4, "", [None, None]),
        (2, 4, "-1", [None, None]),
        (2, 0, "7", [None, None]),
    ],
)
def test_each_worker_has_a_gpu_of_its_own(
    workers: int, found: int, shown: str | None, expected: list[str | None]
) -> None:
    given = _devices(workers, found, shown)
    assert [one.get("CUDA_VISIBLE_DEVICES") for one in given] == expected


@pytest.mark.parametrize(("found", "shown"), [(1, None), (4, "3")])
def test_two_workers_do_not_share_a_gpu(found: int, shown: str | None) -> None:
    with pytest.raises(SettingsError, match="at most 1 --workers, one for each GPU, but got 2; ask for fewer"):
        _devices(2, found, shown)


def _curve(run: Path) -> list[list[float]]:
    with (run / "history.csv").open(newline="") as stream:
        return [
            [float(row[key]) for key in ("loss", "accuracy", "val_loss", "val_accuracy")]
            for row in csv.DictReader(stream)
        ]


def _started(data: Path, out: Path, technique: str, *more: str) -> subprocess.Popen[str]:
    words = ["train", data, "--technique", technique, *_TRAINING, *more, "--out", out]
    return subprocess.Popen([sys.executable, "-m", "tledge", *map(str, words)], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("technique", ["freeze", "feature-extraction"])
def test_two_workers_train_as_one(technique: str, tmp_path: Path, every_core: None) -> None:
    """Class weights, and a last batch of 5 of which one row fills up a share, are among what has to agree."""
    data = write_digits(tmp_path / "digits", 40)
    for path in sorted((data / "digit 7").iterdir())[28:]:
        path.unlink()
    ended = [
        _started(data, tmp_path / name, technique, *more).wait()
        for name, more in (("one", ()), ("two", ("--workers", "2")))
    ]
    assert ended == [0, 0]
    one, two = (_curve(tmp_path / name) for name in ("one", "two"))
    assert np.abs(np.array(one)[:, 2:] - np.array(two)[:, 2:]).max() < 1e-3
    assert np.abs(np.array(one)[:, 0] - np.array(two)[:, 0]).max() < 1e-3
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_killed_worker_is_started_again(tmp_path: Path, every_core: None) -> None:
    data = write_digits(tmp_path / "digits", 40)
    process = _started(data, tmp_path / "run", "freeze", "--workers", "2")
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".run.unfinished/*/training.npz")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    psutil.Process(process.pid).children()[1].kill()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "a worker was killed (signal 9): all start again" in said
    assert "training resumed after" in said
    assert len(_curve(tmp_path / "run")) == 4
    assert not list(tmp_path.glob(".*"))
