"""Goals: their grammar, the choice among given numbers, and a search from the command to the chosen run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

import tledge
from tests.conftest import run_cli
from tledge.compression.search import trials as search_trials
from tledge.compression.search.goal import METRICS, parse_goal
from tledge.compression.search.numbers import FileNumbers, Latency, TrialRecord, nearest, pareto_front, preferred
from tledge.compression.search.plan import PLAIN, Needs, needs, not_worth_it, plan
from tledge.compression.search.record import Origin, SearchFile, TrialRecords
from tledge.compression.search.search import SearchSettings, search
from tledge.core.errors import RunError, SettingsError
from tledge.core.files import sha256_file
from tledge.core.limits import Comparison, Condition
from tledge.runs.rundir import SearchDir
from tledge.runtimes.litert_micro import measure_arena
from tledge.stats.metrics import Proportion


def condition(metric: str, comparison: Comparison, limit: float) -> Condition:
    return Condition(METRICS[metric], comparison, limit)


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("p50 < 10 ms", (("p50", "<", 10.0),)),
        ("p50<500us,p90 <= 0.01 s", (("p50", "<", 0.5), ("p90", "<=", 10.0))),
        ("size < 2 MB", (("size", "<", 2e6),)),
        ("Size <= 300kb, SPEEDUP > 4x", (("size", "<=", 3e5), ("speedup", ">", 4.0))),
        ("size < 1e6 B,", (("size", "<", 1e6),)),
        ("drop < 0.01, accuracy >= 95 %", (("drop", "<", 0.01), ("accuracy", ">=", 0.95))),
        ("drop <= 1 point", (("drop", "<=", 0.01),)),
        ("drop <= 0, accuracy >= 1", (("drop", "<=", 0.0), ("accuracy", ">=", 1.0))),
    ],
)
def test_goals_are_read(text: str, conditions: tuple[tuple[str, Comparison, float], ...]) -> None:
    goal = parse_goal(text)
    assert goal.conditions == tuple(condition(*each) for each in conditions)
    assert parse_goal(str(goal)) == goal


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "condition"),
        ("p50", "such as"),
        ("p50 = 3 ms", "such as"),
        ("p50 < ten ms", "such as"),
        ("p50 < 1.2.3 ms", "a number"),
        ("drop < 0,01", "drop < 0"),
        ("p99 < 3 ms", "p50, p90, size, flash, arena, drop, accuracy, speedup"),
        ("gzip < 1 MB", "'gzip'"),
        (
            "agreement > 0.9",
            "expected one of p50, p90, size, flash, arena, drop, accuracy, speedup in a goal, but got 'agreement'",
        ),
        ("max_drop=0.02", "'max_drop'"),
        ("p50 < 10", "a unit (ms, us, µs, s)"),
        ("p50 < 10 MB", "a unit (ms"),
        ("size < 2", "a unit (B, kB, MB)"),
        ("accuracy > 3 ms", "no unit or one of %"),
        ("p50 > 3 ms", "turn the comparison"),
        ("accuracy < 0.9", "turn the comparison"),
        ("p50 < 0 ms", "above 0"),
        ("p50 < nan ms", "such as"),
        ("p50 < 1e400 ms", "above 0"),
        ("drop < 1", "1 %"),
        ("drop < -0.1", "between 0 and 1"),
        ("accuracy > 95", "95 %"),
        ("accuracy > 1", "between 0 and 1"),
        ("speedup > 0", "above 0"),
        ("p50 < 1 ms, p50 < 2 ms", "each metric once"),
    ],
)
def test_bad_goals_get_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_goal(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_limits_hold_up_to_rounding() -> None:
    assert condition("drop", "<=", 0.01).holds(0.99 - 0.98)
    assert not condition("drop", "<", 0.01).holds(0.99 - 0.98)
    assert condition("accuracy", ">=", 0.9).holds(0.9)
    assert condition("p50", "<", 10).miss(12) == pytest.approx(0.2)
    assert condition("speedup", ">", 10).miss(8) == pytest.approx(0.25)
    assert condition("drop", "<", 0.01).miss(0.05) == pytest.approx(0.04)
    assert condition("p50", "<", 10).miss(9) == 0
    assert condition("p50", "<", 10).verdict(12) == "p50 is 12 ms: misses p50 < 10 ms by 20%"


def test_trial_records_take_back_what_they_wrote(tmp_path: Path) -> None:
    goal = parse_goal("drop < 0.1")
    about = SearchFile(
        goal=str(goal),
        origin=Origin(model_sha256="a", reference_sha256="a", data_fingerprint="f"),
        latency_conditions={"threads": 1},
        run="../run",
        created="",
        versions={},
        candidates=(),
    )
    folder = SearchDir(tmp_path)
    export = folder.candidate("small").exports
    export.mkdir(parents=True)
    (export / "tflite-int8.tflite").write_bytes(b"model")
    file = replace(numbers("small", 0.9, 5, 5), sha256=sha256_file(export / "tflite-int8.tflite"))
    TrialRecords(folder, goal, about).add(record(file))
    again = TrialRecords(folder, goal, about)
    assert again.by_key == {"small": record(file)}
    assert again.latencies_comparable
    assert not TrialRecords(
        folder, goal, structs.replace(about, latency_conditions={"threads": 2})
    ).latencies_comparable
    other = structs.replace(about.origin, model_sha256="b")
    assert not TrialRecords(folder, goal, structs.replace(about, origin=other)).by_key
    (export / "tflite-int8.tflite").write_bytes(b"another")
    assert not TrialRecords(folder, goal, about).by_key
    whole = json.loads(folder.numbers.read_text())
    damaged = {**whole["candidates"][0], "files": [{}]}
    for content, says in (
        ({}, r"expected schema version 1 in .*search\.json, but it has none"),
        (whole | {"origin": None}, "expected origin as an object in .*, but got null"),
        (
            whole | {"candidates": [damaged]},
            r"candidates\[0\]\.files\[0\]\.candidate as",
        ),
    ):
        folder.numbers.write_text(json.dumps(content))
        with pytest.raises(RunError, match=f"{says}.*; .*remove the folder of the search"):
            TrialRecords(folder, goal, about)


def numbers(name: str, accuracy: float, p50_ms: float, size_bytes: int) -> FileNumbers:
    latency = Latency(p50_ms, 1.2 * p50_ms, 100 / p50_ms, (90 / p50_ms, 110 / p50_ms), 50)
    share = Proportion(accuracy, accuracy - 0.1, accuracy, 100)
    return FileNumbers(name, "tflite-int8", name, size_bytes, share, 0.95 - accuracy, 0, 0, latency, None)


def record(*files: FileNumbers) -> TrialRecord:
    name = files[0].candidate
    return TrialRecord(name, name, name, (), 1.0, files, None)


def test_front_preference_and_nearest() -> None:
    large = numbers("large", 0.95, 40, 4_000_000)
    small = numbers("small", 0.90, 5, 900_000)
    slower = numbers("slower", 0.90, 6, 800_000)
    beaten = numbers("beaten", 0.89, 6, 900_000)
    files = (large, small, slower, beaten)
    assert pareto_front(files) == (large, small, slower)
    assert preferred(files, parse_goal("p50 < 10 ms")) is small
    assert preferred(files, parse_goal("size < 5 MB")) is large
    assert preferred(files, parse_goal("size < 850 kB")) is slower
    assert preferred(files, parse_goal("p50 < 10 ms, accuracy > 0.92")) is None
    assert nearest(files, parse_goal("p50 < 10 ms, accuracy > 0.92")) is small
    assert nearest(files, parse_goal("p50 < 35 ms, drop < 0.01")) is small
    assert nearest((), parse_goal("p50 < 10 ms")) is None


def test_the_plan_follows_the_goal() -> None:
    plain = (numbers("plain", 0.95, 100, 15_000_000), numbers("plain", 0.95, 60, 15_000_000))
    assert needs(parse_goal("drop < 0.1"), plain) == Needs(1, 1)
    needed = needs(parse_goal("p50 < 10 ms, size < 2 MB, drop < 0.1"), plain)
    assert needed == Needs(pytest.approx(6), pytest.approx(7.5))
    # Without a file there is nothing to read the needs off, but there is something to try.
    assert needs(parse_goal("p50 < 10 ms, drop < 0.1"), ()) == Needs(1.5, 1)
    assert needs(parse_goal("size < 2 MB"), ()) == Needs(1, 1.5)
    names = [candidate.name for candidate in plan(needed, 224, 60, 0)]
    assert names[:3] == ["plain", "low-rank-6x-size-8x", "low-rank-8x-size-12x"]
    assert names[4] == "distilled-6x-size-8x"
    assert [c.settings[0].epochs for c in plan(needed, 224, 60, 0)[1:7]] == [0, 0, 0, 60, 60, 60]
    assert names[7:9] == ["plain-qat", "distilled-6x-size-8x-qat"]
    sizes = [candidate.name for candidate in plan(Needs(1.5, 1), 224, 0, 0)]
    assert sizes == ["plain", "input-160px", "input-128px", "low-rank-1.5x", "low-rank-2x", "low-rank-3x"]
    assert plan(Needs(1, 1), 224, 0, 0) == (PLAIN,)
    fitting = [candidate.name for candidate in plan(Needs(1, 1, 4), 224, 0, 0)]
    assert fitting == ["plain", "input-112px", "input-96px", "low-rank-16x-112px"]
    micro = plan(Needs(1, 12, 1.1), 64, 0, 0)
    names = ["4x-size-16x-64px", "4x-size-24x-64px", "8x-size-16x-48px", "8x-size-24x-48px"]
    assert [candidate.name for candidate in micro] == ["plain", *(f"low-rank-{name}" for name in names)]
    assert [candidate.settings[0].image_size_px for candidate in micro[1:]] == [64, 64, 48, 48]


def test_a_goal_for_a_microcontroller_asks_for_other_files() -> None:
    goal = parse_goal("arena < 512 kB, flash < 1 MiB, drop < 0.03")
    assert str(goal) == "arena < 512 kB, flash < 1.048576 MB, drop < 0.03"
    assert (goal.recipes, parse_goal("size < 1 MB").recipes) == (("micro-int8",), ("tflite-int8", "onnx-int8"))
    large = replace(numbers("plain", 0.95, 100, 14_000_000), recipe="micro-int8", arena_bytes=1_024_000)
    assert needs(goal, (large,)) == Needs(1, pytest.approx(14_000 / 1048.576), pytest.approx(2))
    assert goal.missed(large.values()) == ("arena", "flash")
    assert goal.holds(replace(large, arena_bytes=500_000, size_bytes=900_000).values())


def test_candidates_that_cannot_be_chosen_are_left_out() -> None:
    goal = parse_goal("p50 < 10 ms, drop < 0.1")
    candidates = plan(Needs(4, 1), 32, 5, 0)
    by_name = {candidate.name: candidate for candidate in candidates}
    shrunk = [f"{k}-{r}x" for k in ("low-rank", "distilled") for r in (4, 6, 8)]
    assert list(by_name) == ["plain", *shrunk, "plain-qat", *(f"{name}-qat" for name in shrunk[3:])]

    def reason(name: str, *tried: FileNumbers) -> str | None:
        records = {file.candidate: record(file) for file in tried}
        return not_worth_it(by_name[name], candidates, records, tried, goal)

    slow, good, perfect = (numbers("low-rank-4x", *v, 9) for v in ((0.9, 20), (0.9, 5), (0.95, 5)))
    assert reason("low-rank-6x") is None
    assert "too slow" in str(reason("distilled-4x", slow))
    assert reason("distilled-6x", slow) is None
    assert "cuts less" in str(reason("low-rank-6x", good))
    assert reason("distilled-4x", good) is None
    assert "loses nothing" in str(reason("distilled-4x", perfect))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--goal", "p50 < 10"), "a unit (ms"),
        (("--goal", "p50 < 10 ms", "--speedup", "3", "--method", "filters"), "--method, --speedup"),
        (("--goal", "p50 < 10 ms", "--max-drop", "0.1"), "--max-drop"),
        (("--goal", "p50 < 10 ms", "--time-budget", "0"), "--time-budget"),
        (("--speedup", "3", "--threads", "1"), "--goal"),
        (("--goal", "p50 < 10 ms", "--last-layer", "none"), "--last-layer"),
        (("--goal", "p50 < 10 ms", "--remote-python", "python3"), "--on"),
    ],
)
def test_contradictions_are_refused_at_once(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    completed = run_cli("optimize", tmp_path / "nothing", *arguments, "--out", tmp_path / "small")
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert says in completed.stderr


def test_a_strange_directory_is_left_alone(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "small.search").mkdir()
    (tmp_path / "small.search" / "holiday.txt").write_text("")
    settings = SearchSettings(parse_goal("size < 1.2 MB"), threads=1)
    with pytest.raises(RunError, match="is no search"):
        search(finished_run, settings, tmp_path / "small")


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_interrupted(
    vgg16_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, folder = tmp_path / "small", tmp_path / "small.search"
    goal = parse_goal("size < 1.2 MB, drop <= 0.6")
    settings = SearchSettings(goal, threads=1, epochs=0, final_rounds=2)
    real, calls = search_trials.optimize, []

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search_trials, "optimize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(vgg16_run, settings, out)
    assert not out.exists()
    (before,) = json.loads((folder / "search.json").read_text())["candidates"]
    assert before["name"] == "plain"
    leftover = folder / ".low-rank-size-16x-00000000.partial-999999999"
    leftover.mkdir()

    def counted(*arguments: object) -> object:
        calls.append(arguments[2])
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(search_trials, "optimize", counted)
    lines: list[str] = []
    result = search(vgg16_run, settings, out, tell=lines.append)
    assert not leftover.exists()
    assert len(calls) == 1
    assert [line.split(":")[0] for line in lines] == ["low-rank-size-16x", "low-rank-size-16x"]
    assert [r.name for r in result.records] == ["plain", "low-rank-size-16x"]
    assert result.chosen is not None
    assert result.chosen.candidate == "low-rank-size-16x"
    assert result.chosen.final_latency is not None
    _is_a_whole_run(out, vgg16_run, result.chosen)
    _is_kept(json.loads((out / "search.json").read_text()), before)
    _another_goal_uses_what_is_there(vgg16_run, out)


def _is_a_whole_run(out: Path, parent: Path, chosen: FileNumbers) -> None:
    manifest = json.loads((out / "run.json").read_text())
    assert (out / manifest["parent"]["path"]).resolve() == parent.resolve()
    assert (out / "reference.keras").samefile(parent / "model.keras")
    (file,) = (path for path in (out / "export").glob(f"{chosen.recipe}.*") if path.suffix != ".json")
    assert file.stat().st_size == chosen.size_bytes < 1_200_000
    checked = tledge.check(out, max_drop=1.0)
    assert {item.name for item in checked.artefacts} == {"tflite-int8", "onnx-int8"}
    assert "validation images, which flatters" in " ".join(tledge.report(out).notes)


def _is_kept(content: dict[str, object], before: dict[str, object]) -> None:
    plain, small = content["candidates"]  # type: ignore[misc]
    assert plain["seconds"] == before["seconds"]
    assert plain["files"][0]["own_latency"] == before["files"][0]["own_latency"]  # type: ignore[index]
    for file in small["files"]:
        assert file["n"] == file["accuracy"]["n"] == 12
        assert file["drop"] == pytest.approx((file["lost"] - file["won"]) / 12)
        assert [verdict["condition"] for verdict in file["verdicts"]] == ["size < 1.2 MB", "drop <= 0.6"]


def _another_goal_uses_what_is_there(run: Path, out: Path) -> None:
    shutil.rmtree(out)
    goal = ("--goal", "p50 < 1 us, size < 1.2 MB", "--threads", "1")
    completed = run_cli("optimize", run, *goal, "--epochs", "0", "--out", out)
    assert completed.returncode == 1, completed.stderr
    assert "candidate" not in completed.stderr
    assert "low-rank-size-16x" in completed.stdout
    assert "FAIL: no file holds p50 < 0.001 ms, size < 1.2 MB" in completed.stdout
    assert "misses p50 < 0.001 ms by" in completed.stdout
    assert "small.search" in completed.stdout
    assert not out.exists()


@pytest.mark.slow
def test_a_search_for_a_microcontroller_measures_in_its_interpreter(vgg16_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro")
    out = tmp_path / "small"
    goal = parse_goal("arena < 512 kB, flash < 1.2 MB, drop <= 0.6")
    result = search(vgg16_run, SearchSettings(goal, threads=1, epochs=0, final_rounds=2), out)
    assert result.chosen is not None
    assert {file.recipe for record in result.records for file in record.files} == {"micro-int8"}
    path = out / "export" / "micro-int8.tflite"
    assert result.chosen.size_bytes == path.stat().st_size < 1_200_000
    assert result.chosen.arena_bytes == measure_arena(path).bytes < 512_000
    # Asked again for less, the candidates that are there do.
    shutil.rmtree(out)
    again = search(vgg16_run, SearchSettings(parse_goal("arena < 1 MB, drop <= 0.6"), threads=1, epochs=0), out)
    assert [record.name for record in again.records] == [record.name for record in result.records]


@pytest.mark.slow
def test_a_killed_search_goes_on(vgg16_run: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "small", tmp_path / "small.search"
    arguments = ("--goal", "size < 500 kB, drop < 0.9", "--epochs", "2", "--out", str(out))
    command = [sys.executable, "-m", "tledge", "optimize", str(vgg16_run), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while (
        not (folder / "search.json").is_file()
        or len(json.loads((folder / "search.json").read_text())["candidates"]) < 2
    ):
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    completed = run_cli("optimize", vgg16_run, *arguments)
    assert completed.returncode == 0, completed.stderr
    assert "plain: candidate" not in completed.stderr
    assert (out / "run.json").is_file()
    assert not list(folder.glob(".*"))
