"""Bench: when enough is measured, what else the machine does, sweeps, energy, options of runtimes, any files."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from msgspec import structs

import tledge
from tests.conftest import run_cli
from tledge.benchmark import bench as bench_stage
from tledge.benchmark import measure as bench_measure
from tledge.benchmark import worker as bench_worker
from tledge.benchmark.conditions import EnergyMeter, Watch, condition, drift_notes, throttle_notes
from tledge.benchmark.measure import Subject, Turn, measure_watched
from tledge.benchmark.settings import BenchGrid, BenchSettings
from tledge.benchmark.sweep import variants
from tledge.cli.bench import command
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError, FixedBatchError, SettingsError
from tledge.stats.latency import drift, half_width_percent, median_interval, ratio_interval

QUICK: dict[str, Any] = {"rounds": 2, "samples": 2, "warmup": 1, "threads": 1}
QUICK_OPTIONS = [part for name, value in QUICK.items() for part in (f"--{name}", str(value))]
SILENT = lambda *_: None  # noqa: E731


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


class FakeWorker:
    """A model whose latency is 10 ms with a given noise per round."""

    noise: float = 0.0

    def __init__(self, subject: Subject, threads: int, batch: int, seed: int) -> None:
        if subject.name == "fixed" and batch != 1:
            raise FixedBatchError("expected a model whose batch can be another one")
        self.subject, self.threads, self.pid = subject, threads, os.getpid()
        self.hello = {"runtime": "none", "load_ms": 1.0, "first_ms": 1.0, "rss_before_load_mb": 1.0}
        self._rng = np.random.default_rng(len(subject.name))

    def measure(self, warmup: int, warmup_ms: int, samples: int) -> Turn:
        level = 10 * (1 + self.noise * self._rng.standard_normal())
        return Turn(warmup, tuple(level * (1 + 0.001 * self._rng.standard_normal(samples))))

    def stop(self) -> float:
        return 2.0

    def kill(self) -> None:
        pass


@pytest.fixture
def subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Subject]:
    monkeypatch.setattr(bench_measure, "Worker", FakeWorker)
    model = tmp_path / "model.onnx"
    model.write_bytes(b"model")
    return [Subject(name, model, "float32", "0" * 64) for name in ("one", "other")]


def test_intervals_cover_the_median_and_shrink_with_rounds() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        rounds = 10 + rng.standard_normal((30, 1)) + 0.1 * rng.standard_normal((30, 5))
        interval = median_interval(rounds.tolist())
        assert interval.low <= interval.value <= interval.high
        covered += interval.low <= 10 <= interval.high
    assert 175 <= covered <= 200, "about 95 %; samples within a round count once"
    many = (10 + rng.standard_normal((300, 1)) + 0.1 * rng.standard_normal((300, 5))).tolist()
    assert half_width_percent(median_interval(many)) < half_width_percent(median_interval(many[:10]))
    ratio = ratio_interval([[4.0, 4.0]] * 6, [[2.0, 2.0]] * 6)
    assert (ratio.value, ratio.low, ratio.high) == (2, 2, 2)


def test_drift_is_that_of_all_models() -> None:
    steady, slower = [[1.0]] * 9, [[1.0]] * 3 + [[1.1]] * 3 + [[1.2]] * 3
    assert drift([slower, slower]) == pytest.approx(1.2)
    assert drift([steady, slower]) == pytest.approx(1.2**0.5)
    assert drift([steady[:5]]) is None
    assert drift_notes(1.04) == drift_notes(None) == []
    assert "20 % higher" in drift_notes(1.2)[0]
    assert "20 % lower" in drift_notes(0.8)[0]


def test_rounds_go_on_until_stable(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = BenchSettings(1, rounds=5, until_stable=2.0, max_rounds=60)
    measured = measure_watched(subjects, settings, SILENT)
    assert measured.settings.rounds == 5
    assert [item.stable for item in measured.measurements] == [True, True]
    assert measured.measurements[0].n == 25
    monkeypatch.setattr(FakeWorker, "noise", 0.02)
    measured = measure_watched(subjects, settings, SILENT)
    assert 5 < measured.settings.rounds < 60
    for item in measured.measurements:
        low, high = item.p50_interval_95
        p50 = item.latency_ms["p50"]
        assert p50 * 0.98 <= low <= high <= p50 * 1.02
    assert not any("never was stable" in note for note in measured.notes)


def test_what_never_was_stable_is_said_for_each_model(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeWorker, "noise", 0.2)
    measured = measure_watched(subjects, BenchSettings(1, rounds=5, until_stable=1.0, max_rounds=12), SILENT)
    assert measured.settings.rounds == 12
    assert [item.stable for item in measured.measurements] == [False, False]
    said = [note for note in measured.notes if "never was stable within ±1 % in 12 rounds" in note]
    assert [note.split()[2] for note in said] == ["one", "other"]
    plain = measure_watched(subjects, BenchSettings(1, rounds=3), SILENT)
    assert {item.stable for item in plain.measurements} == {None}
    assert {item.energy_j for item in plain.measurements} <= {None}, "no sensor, no number"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"until_stable": 0.0}, "--until-stable between"),
        ({"until_stable": 2.0, "rounds": 3}, "--rounds of at least 5"),
        ({"until_stable": 2.0, "max_rounds": 7}, "--max-rounds not below it"),
    ],
)
def test_impossible_stability(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        BenchSettings(1, **wrong)


@pytest.mark.usefixtures("every_core")
def test_grid_of_threads_and_batches() -> None:
    if available_cores() < 2:
        pytest.skip("needs two cores")
    grid = BenchGrid((2, 1), (1, 8), 4, 3, 2).each()
    assert [(one.threads, one.batch) for one in grid] == [(2, 1), (1, 1), (2, 8), (1, 8)]
    assert [one.batch for one in BenchGrid((), (), 4, 3, 2).each()] == [1]
    with pytest.raises(SettingsError, match="each --threads once"):
        BenchGrid((1, 1), (), 4, 3, 2).each()


def test_a_file_of_fixed_batch_is_left_out_and_named(subjects: list[Subject]) -> None:
    fixed = Subject("fixed", subjects[0].path, "int8", "1" * 64)
    measured = measure_watched([*subjects, fixed], BenchSettings(1, batch=4, rounds=2), SILENT)
    assert [item.name for item in measured.measurements] == ["one", "other"]
    assert any(note.startswith("fixed was not measured with batch 4") for note in measured.notes)
    with pytest.raises(FixedBatchError):
        measure_watched([fixed], BenchSettings(1, batch=4, rounds=2), SILENT)


def test_other_work_is_noticed_and_our_own_is_not() -> None:
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch, knowing = Watch([]), Watch([burner.pid])
        deadline = 2.0
        psutil.cpu_percent(interval=deadline)
        spent = psutil.Process(burner.pid).cpu_times().user
        watch.look()
        knowing.look()
    finally:
        burner.kill()
        burner.wait()
    seen, notes = watch.result(None)
    known, _ = knowing.result(None)
    assert seen.other_cores > 0.3
    assert any("other work kept" in note for note in notes)
    assert seen.other_cores - known.other_cores > 0.5 * spent / deadline


def test_load_clock_and_theft_by_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, ours busy on one: 0.8 cores of other work and 0.1 stolen, at a clock that falls."""
    clock = itertools.count()
    frequency = tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
    write(tmp_path, {str(frequency.relative_to(tmp_path)): 2_000_000})

    def read(_: Watch) -> tuple[float, float, float, float]:
        seconds = float(next(clock))
        return seconds, 1.8 * seconds, 1.0 * seconds, 0.1 * seconds

    monkeypatch.setattr(Watch, "_read", read)
    watch = Watch([], tmp_path)
    watch.look()
    frequency.write_text("1500000\n")
    watch.look()
    seen, notes = watch.result(None)
    assert (seen.other_cores, seen.stolen_cores, seen.looks) == (0.8, 0.1, 2)
    assert seen.clock_mhz == (1500, 2000)
    assert any("0.8 cores busy while measuring (above 0.3 in 2 of 2 looks)" in note for note in notes)
    assert any("hypervisor gave 0.10 cores" in note for note in notes)
    assert any("between 1500 and 2000 MHz" in note for note in notes)


def test_throttling_is_said(tmp_path: Path) -> None:
    calm = condition(tmp_path)
    assert {value for name, value in structs.asdict(calm).items() if name != "throttled_flags"} == {None}
    assert throttle_notes(calm, calm) == []
    hot = condition(
        write(
            tmp_path,
            {
                "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 4,
                "class/thermal/cooling_device0/type": "thermal-cpufreq-0",
                "class/thermal/cooling_device0/cur_state": 2,
                "class/thermal/cooling_device1/type": "intel_powerclamp",
                "class/thermal/cooling_device1/cur_state": 7,
                "class/thermal/thermal_zone0/type": "cpu-thermal",
                "class/thermal/thermal_zone0/temp": 85000,
            },
        )
    )
    assert (hot.throttle_count, hot.cooling_state) == (4, 2)
    assert hot.temperature_c == {"thermal_zone0 cpu-thermal": 85.0}
    said = throttle_notes(structs.replace(hot, throttle_count=1), hot)
    assert any("throttled for heat 3 times" in note for note in said)
    assert any("held the processor's clock down" in note for note in said)
    past = structs.replace(calm, throttled_flags="0x50000")
    assert throttle_notes(past, past) == [], "it was throttled once, but not while measuring"
    assert (
        "vcgencmd 0x0 before, 0x50005 after"
        in throttle_notes(calm, structs.replace(calm, throttled_flags="0x50005"))[0]
    )
    assert "governor changed" in throttle_notes(structs.replace(calm, governor="performance"), calm)[0]


def test_energy_counters(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).source is None
    assert EnergyMeter(tmp_path).joules() is None
    zone = "class/powercap/intel-rapl:"
    write(
        tmp_path,
        {
            f"{zone}0/name": "package-0",
            f"{zone}0/energy_uj": 9_000_000,
            f"{zone}0/max_energy_range_uj": 10_000_000,
            f"{zone}0:0/name": "core",
            f"{zone}0:0/energy_uj": 1,
            f"{zone}1/name": "psys",
            f"{zone}1/energy_uj": 1,
        },
    )
    meter = EnergyMeter(tmp_path)
    assert meter.source == "RAPL: package-0"
    write(tmp_path, {f"{zone}0/energy_uj": 9_500_000})
    assert meter.joules() == pytest.approx(0.5)
    write(tmp_path, {f"{zone}0/energy_uj": 1_500_000})
    assert meter.joules() == pytest.approx(2.5), "the counter began anew at its range"
    (tmp_path / f"{zone}0/energy_uj").unlink()
    assert meter.joules() is None


def test_energy_from_a_power_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"class/hwmon/hwmon0/name": "ina3221", "class/hwmon/hwmon0/power1_input": 4_000_000})
    meter = EnergyMeter(tmp_path)
    assert meter.source == "hwmon power: ina3221 power1_input"
    times = iter((10.0, 12.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    meter.start()
    write(tmp_path, {"class/hwmon/hwmon0/power1_input": 6_000_000})
    assert meter.joules() == pytest.approx(10.0)


def test_energy_of_an_inference(subjects: list[Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    class Sensor:
        source = "RAPL: package-0"

        def start(self) -> None:
            pass

        def joules(self) -> float:
            return 14.0

    monkeypatch.setattr(bench_measure, "EnergyMeter", Sensor)
    measured = measure_watched(subjects, BenchSettings(1, rounds=3, samples=5, warmup=2), SILENT)
    assert {item.energy_j for item in measured.measurements} == {2.0}
    assert measured.energy_source == "RAPL: package-0"


@pytest.fixture
def small_run(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two files, measured without TensorFlow, which takes long to start."""
    return _with_two_files(run_copy, monkeypatch)


def _with_two_files(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in (run / "export").iterdir():
        if path.stem not in ("tflite-int8", "onnx-int8"):
            path.unlink()
    monkeypatch.setattr(bench_stage, "installed", lambda package: False)
    return run


def test_a_sweep_of_batches_leaves_the_first_setting_where_it_was(small_run: Path) -> None:
    options = [str(small_run), *QUICK_OPTIONS, "--batch", "1,2", "--batch", "4"]
    assert command.main(options, standalone_mode=False) == 0
    written = json.loads((small_run / "bench.json").read_text())
    assert written["settings"]["batch"] == 1
    assert {item["batch"] for item in written["results"]} == {1}
    assert [other["settings"]["batch"] for other in written["other_settings"]] == [2, 4]
    for other in written["other_settings"]:
        assert {item["name"] for item in other["results"]} == {"tflite-int8", "onnx-int8"}
        assert other["conditions"]["looks"] >= 0
    assert {"conditions", "energy_source"} <= written["environment"].keys()
    page = tledge.report(small_run).run.report.read_text()
    assert "### 1 threads, batch 4" in page
    tledge.check(small_run, max_drop=0.9)  # reads bench.json


def test_runtime_options(vgg16_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The whole VGG16: a thin net loads so fast that a cache of weights does not show.
    small_run = _with_two_files(shutil.copytree(vgg16_run, tmp_path / "run"), monkeypatch)
    tledge.bench(small_run, **QUICK)
    artefact = small_run / "export" / "tflite-int8.tflite"
    done = command.main([str(small_run), *QUICK_OPTIONS, "--sweep", "--artefact", str(artefact)], standalone_mode=False)
    assert done == 0
    written = json.loads((small_run / "bench.json").read_text())
    assert len(written["results"]) == 2, "what was measured before stays"
    (entry,) = written["runtime_options"]
    by_name = {item["name"]: item for item in entry["variants"]}
    assert list(by_name)[:2] == ["default", "XNNPACK off"]
    assert by_name["XNNPACK off"]["options"]["provider"] == "builtin"
    assert by_name["default"]["speedup_vs_default"] is None
    cached = by_name["weight cache (CompiledModel)"]
    assert cached["options"]["weight_cache"] is True
    assert cached["load_ms"] < by_name["default"]["load_ms"]
    # The older kernels are many times slower: an option that did not arrive would make this fail.
    # The least of the samples, since other work while this test runs makes some of them slow.
    assert by_name["XNNPACK off"]["latency_ms"]["min"] > 1.25 * by_name["default"]["latency_ms"]["min"]
    assert entry["best"]["name"] in by_name
    assert "## Runtime options" in tledge.report(small_run).run.report.read_text()
    tledge.bench(small_run, **QUICK)
    assert json.loads((small_run / "bench.json").read_text())["runtime_options"] == [entry]


def test_each_option_reaches_its_runtime(finished_run: Path, tmp_path: Path) -> None:
    from tledge.runtimes.onnxruntime import load_session
    from tledge.runtimes.options import RuntimeOptions

    tried = variants(Path("model.onnx"), 1, "")
    assert next(iter(tried)) == "default"
    assert {"graph optimization off", "arena off", "spinning off"} <= tried.keys()
    assert not any("graph" in name for name in variants(Path("model.ort"), 1, ""))
    path = finished_run / "export" / "onnx-int8.onnx"
    for options in (option for option, _ in tried.values()):
        found = load_session(path, 1, options).get_session_options()
        assert found.enable_cpu_mem_arena == options.arena
        assert found.get_session_config_entry("session.intra_op.allow_spinning") == str(int(options.spinning))
        level = {"all": "ALL", "extended": "EXTENDED", "basic": "BASIC", "off": "DISABLE_ALL"}
        assert found.graph_optimization_level.name.endswith(level[options.graph_optimization])
    assert RuntimeOptions.from_json(RuntimeOptions(arena=False).as_json()) == RuntimeOptions(arena=False)


def two_inputs(path: Path, open_size: bool = False) -> Path:
    """An ONNX file of no pictures at all: ids (N, 4) int64 and numbers (N, 4) float."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    size = "length" if open_size else 4
    graph = helper.make_graph(
        [helper.make_node("Cast", ["ids"], ["cast"], to=kinds.FLOAT), helper.make_node("Add", ["cast", "x"], ["y"])],
        "sum",
        [
            helper.make_tensor_value_info("ids", kinds.INT64, ["N", size]),
            helper.make_tensor_value_info("x", kinds.FLOAT, ["N", size]),
        ],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["N", size])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def test_any_files_side_by_side(finished_run: Path, tmp_path: Path) -> None:
    files = [finished_run / "export" / "tflite-int8.tflite", two_inputs(tmp_path / "sum.onnx")]
    out = tmp_path / "bench.json"
    done = run_cli("bench", *files, "--json", out, *QUICK_OPTIONS, "--batch", "1", "--batch", "2", "--rounds", "3")
    assert done.returncode == 0, done.stderr
    assert "speed-up over the first" in done.stdout
    written = json.loads(out.read_text())
    assert [bench["settings"]["batch"] for bench in written["benches"]] == [1, 2]
    for bench in written["benches"]:
        first, second = bench["results"]
        assert bench["base"] == first["name"] == str(files[0])
        assert first["speedup_vs_base"] is None
        ratio = first["latency_ms"]["p50"] / second["latency_ms"]["p50"]
        assert second["speedup_vs_base"] == pytest.approx(ratio, rel=0.02)
        low, high = second["speedup_interval_95"]
        assert low <= second["speedup_vs_base"] <= high
        assert second["n"] == 6


def test_files_that_cannot_be_measured(finished_run: Path, tmp_path: Path) -> None:
    good, text = two_inputs(tmp_path / "sum.onnx"), tmp_path / "model.tflite"
    text.write_text("I am no model")
    for arguments, says in (
        ((good, tmp_path / "missing.onnx"), "missing.onnx"),
        ((good, text), "model.tflite is truncated or something else"),
        ((good, good), "each file once"),
        ((good, finished_run), "expected model files"),
        ((two_inputs(tmp_path / "open.onnx", open_size=True),), "only open size is the batch"),
    ):
        with pytest.raises((ArtefactError, SettingsError), match=says):
            tledge.bench_files(arguments, **QUICK)
    with pytest.raises(SettingsError, match="place for a JSON file"):
        tledge.bench_files([good], out=tmp_path / "nowhere" / "out.json", **QUICK)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--threads", "one"), "whole numbers joined by commas"),
        (("--json", "out.json"), "expected --json with model files"),
        (("--sweep", "--batch", "1,2"), "expected --sweep on this machine with one setting"),
        (("--on", "ssh://a", "--until-stable", "2"), "but got --until-stable"),
    ],
)
def test_options_that_do_not_fit(options: tuple[str, ...], says: str, finished_run: Path) -> None:
    done = run_cli("bench", finished_run, *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("fewest", "shortest_ms", "expected"), [(0, 0, 0), (3, 0, 3), (1, 20, 4), (6, 20, 6)])
def test_a_warm_up_has_a_fewest_and_a_shortest(
    fewest: int, shortest_ms: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]

    class FiveMilliseconds:
        runtime = "none"

        def invoke(self) -> None:
            seconds[0] += 0.005

    monkeypatch.setattr(bench_worker.time, "perf_counter", lambda: seconds[0])
    assert bench_worker._warm_up(FiveMilliseconds(), fewest, shortest_ms) == expected
