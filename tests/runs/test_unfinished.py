"""Unfinished work: one process at a time, kept for the same command alone, gone when the run is whole."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tledge.core.errors import RunError, SettingsError
from tledge.runs.unfinished import ResumeSettings, unfinished


def begin(out: Path, basis: dict[str, object], error: BaseException) -> Path:
    """Work that ends in an error when something is kept."""
    folders = []

    def work() -> None:
        with unfinished(out) as found:
            folders.append(found.work(basis))
            (folders[0] / "training.npz").write_bytes(b"kept")
            raise error

    with pytest.raises(type(error)):
        work()
    return folders[0]


def test_it_is_kept_for_the_same_command_until_the_run_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tledge")
    out = tmp_path / "run"
    folder = begin(out, {"epochs": 3}, KeyboardInterrupt())
    assert caplog.messages == [f"what was trained so far is kept in {folder}; the same command goes on from there"]
    caplog.clear()
    with unfinished(out) as found:
        assert found.work({"epochs": 3}) == folder
        assert sorted(path.name for path in folder.iterdir()) == ["basis.json", "training.npz"]
    assert not caplog.messages
    assert not list(tmp_path.iterdir())


def test_other_settings_begin_anew_and_say_what_differs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "run"
    folder = begin(out, {"epochs": 3, "split": {"val": 0.1}}, OSError())
    caplog.set_level(logging.INFO, "tledge")
    other = begin(out, {"epochs": 4, "split": {"val": 0.2}}, SettingsError("not possible"))
    assert caplog.messages == [
        f"beginning anew: what an interrupted command left in {folder} was made with epochs 3, not 4; split.val 0.1, "
        "not 0.2"
    ]
    assert (folder / "training.npz").is_file(), "it may have been other settings by mistake"
    assert not other.exists(), "the same command would end like that again"


def test_fresh_gives_it_up_and_nothing_kept_leaves_nothing(tmp_path: Path) -> None:
    folder = begin(tmp_path / "run", {"epochs": 3}, RuntimeError())

    def work() -> None:
        with unfinished(tmp_path / "run", ResumeSettings(fresh=True)) as found:
            assert not folder.exists()
            assert found.work({"epochs": 3}) == folder
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert not list(tmp_path.iterdir())


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with unfinished(tmp_path / "run") as found:
        folder = found.work({})
        with pytest.raises(RunError, match="one command at a time"), unfinished(tmp_path / "run"):
            pass
        assert folder.is_dir()
    with unfinished(tmp_path / "run"):
        pass
