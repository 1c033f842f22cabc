"""Calls over a Ray cluster: the results of this process, whatever becomes of a worker."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from tests.conftest import run_cli, write_digits
from tledge.compression.search.goal import parse_goal
from tledge.compression.search.search import SearchResult, SearchSettings, search
from tledge.core import dependencies
from tledge.core.cluster import ALONE, HERE, ClusterSettings, connected
from tledge.core.errors import DataError, MissingDependencyError, RemoteError
from tledge.core.parsing import parse_json

LOCAL = ClusterSettings(ray="local")


def test_without_an_address_calls_are_made_here() -> None:
    told: list[tuple[int, int]] = []
    with connected(ALONE) as calls:
        assert calls is HERE
        assert calls.map(divmod, [(7, 2), (9, 4)], lambda *done: told.append(done)) == [(3, 1), (2, 1)]
    assert told == [(1, 2), (2, 2)]


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "installed", lambda package: package != "ray")
    with pytest.raises(MissingDependencyError, match=r"pip install 'tledge\[ray\]'"), connected(LOCAL):
        pass


def test_a_lost_process_an_error_and_the_order(tmp_path: Path) -> None:
    """A process that ends itself in its first call: the call is made again. What a call raises comes as it was."""
    pytest.importorskip("ray")
    before = signal.getsignal(signal.SIGTERM)
    once = tmp_path / "once"
    once.write_text("")

    def squared(number: int) -> int:
        if number == 3 and once.exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 9:
            raise DataError("expected so, but got 9; take another")
        return number * number

    told: list[tuple[int, int]] = []
    with connected(LOCAL) as calls:
        assert signal.getsignal(signal.SIGTERM) is before
        assert calls.map(squared, [(n,) for n in range(6)], lambda *done: told.append(done)) == [0, 1, 4, 9, 16, 25]
        assert not once.exists()
        assert told[-1] == (6, 6)
        with pytest.raises(DataError, match=r"^expected so, but got 9; take another$"):
            calls.map(squared, [(9,)], lambda *_: None)


@pytest.mark.parametrize("address", ["not an address", "127.0.0.1:9"])
def test_no_cluster_there(address: str) -> None:
    pytest.importorskip("ray")
    said = rf"expected a Ray cluster at --ray {address}, but .*; begin one with `ray start --head`"
    with pytest.raises(RemoteError, match=said), connected(ClusterSettings(ray=address)):
        pass


def without_times(record: Path) -> Any:
    content = parse_json(record.read_bytes())
    del content["created"]
    return content


def kill_a_worker(doing: str, killed: list[int], over: Callable[[], bool]) -> None:
    """Kill the first worker of this process's cluster that is seen at a call of this name."""
    while not killed and not over():
        for process in psutil.Process().children(recursive=True):
            try:
                # Ray writes what a worker does into its title.
                if process.cmdline()[:1] == [f"ray::{doing}"] and process.cpu_times().user > 2:
                    process.kill()
                    killed.append(process.pid)
                    break
            except psutil.Error:
                continue
        time.sleep(0.02)


@pytest.mark.slow
def test_a_shared_check_is_the_same_check(run_copy: Path, tmp_path: Path, every_core: None) -> None:
    pytest.importorskip("ray")
    data = write_digits(tmp_path / "more", 170)
    unlabelled = write_digits(tmp_path / "others", 40, (2, 3))
    given = ["check", run_copy, "--data", data, "--unlabelled", unlabelled, "--resize-robustness", "--max-drop", "0.05"]
    code = run_cli(*given).returncode
    alone = without_times(run_copy / "check.json")
    lines = (run_copy / "predictions.csv").read_bytes()
    (run_copy / "check.json").unlink()
    killed: list[int] = []
    ended: list[bool] = []
    hand = Thread(target=kill_a_worker, args=("_answers_of", killed, lambda: bool(ended)))
    hand.start()
    try:
        assert run_cli(*given, "--ray", "local").returncode == code
    finally:
        ended.append(True)
        hand.join()
    assert killed
    assert without_times(run_copy / "check.json") == alone
    assert (run_copy / "predictions.csv").read_bytes() == lines


@pytest.mark.slow
def test_a_shared_search_comes_to_the_same(finished_run: Path, tmp_path: Path, every_core: None) -> None:
    """A goal that no file can hold, so that all is tried; sizes and accuracies are those of one process."""
    pytest.importorskip("ray")

    def found(out: Path, ray: str | None, say: Callable[[str], None]) -> SearchResult:
        goal = parse_goal("size < 60 kB, drop <= 0.0")
        return search(finished_run, SearchSettings(goal, threads=1, epochs=0, final_rounds=1, ray=ray), out, tell=say)

    alone = found(tmp_path / "alone", None, lambda _: None)
    killed: list[int] = []
    ended: list[bool] = []
    hand = Thread(target=kill_a_worker, args=("_made", killed, lambda: bool(ended)))
    hand.start()
    lines: list[str] = []
    try:
        shared = found(tmp_path / "shared", "local", lines.append)
    finally:
        ended.append(True)
        hand.join()
    assert killed
    assert any(line.startswith("made on the cluster: ") for line in lines)

    def numbers(result: SearchResult) -> dict[str, tuple[object, ...]]:
        return {f"{f.candidate}/{f.recipe}": (f.sha256, f.accuracy, f.drop) for r in result.records for f in r.files}

    assert numbers(shared) == numbers(alone)
    assert (shared.chosen and shared.chosen.sha256) == (alone.chosen and alone.chosen.sha256)
    again: list[str] = []
    shutil.rmtree(tmp_path / "shared", ignore_errors=True)
    found(tmp_path / "shared", "local", again.append)
    assert not again
