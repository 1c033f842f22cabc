"""Bench on Android through a program that behaves like adb: no device was ever here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tledge
from tests.conftest import run_cli
from tledge.core.errors import RemoteError, SettingsError
from tledge.core.records import plain
from tledge.deployment.benchmark_model import parse_launch, summary
from tledge.deployment.hosts.adb import AdbHost
from tledge.deployment.hosts.host import Access

# As the real one: `-s`, `devices`, `push`, `shell -T`, its own complaints on stderr with exit code 1, the shell's exit
# code otherwise. The device's only writable folder is a folder here.
FAKE_ADB = """#!{python}
import os, shutil, subprocess, sys
place, words = {place!r}, sys.argv[1:]
devices = dict(line.split() for line in open({devices!r}) if line.strip())
with open({log!r}, "a") as log:
    print(" ".join(words), file=log)
serial = None
if words[0] == "-s":
    serial, words = words[1], words[2:]
if words[0] == "devices":
    print("* daemon not running; starting now at tcp:5037")
    print("* daemon started successfully")
    print("List of devices attached")
    for name, state in devices.items():
        print(name + "\\t" + state)
    print()
    sys.exit(0)
if serial not in devices:
    sys.exit(f"adb: device '{{serial}}' not found")
if words[0] == "push":
    target = words[2].replace("/data/local/tmp", place)
    shutil.copyfile(words[1], target)
    print(words[1] + ": 1 file pushed, 0 skipped. 5.0 MB/s (9 bytes in 0.001s)")
    sys.exit(0)
assert words[:2] == ["shell", "-T"], words
command = " ".join(words[2:]).replace("/data/local/tmp", place).replace("/sys/", place + "/sys/")
command = "getprop() {{ echo \\"fake $1\\"; }}; " + command
if "/sys/" not in command:
    sys.exit(subprocess.run(["sh", "-c", command], cwd="/").returncode)
done = subprocess.run(["sh", "-c", command], cwd="/", stdout=subprocess.PIPE, text=True)
print(done.stdout.replace(place + "/sys/", "/sys/"), end="")
sys.exit(done.returncode)
"""

# What LiteRT's program prints, on stderr; without `p5= median= p95=` in older releases.
FAKE_BENCHMARK_MODEL = """#!{python}
import sys
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
known = {{"graph", "num_threads", "num_runs", "min_secs", "warmup_runs", "warmup_min_secs"}}
if set(flags) - known:
    sys.exit("ERROR: Unconsumed cmdline flags: " + " ".join(set(flags) - known))
open(flags["graph"], "rb").close()
runs, threads = int(flags["num_runs"]), int(flags["num_threads"])
say = lambda text: print("INFO: " + text, file=sys.stderr)
say("STARTING!")
say("Loaded model " + flags["graph"])
say("Initialized session in 5.25ms.")
say("count=3 first=9000 curr=7000 min=6900 max=9000 avg=7633.33 std=964 p5=6900 median=7000 p95=9000")
say(f"count={{runs}} first=5100 curr=5000 min=4900 max=5400 avg={{5050 / threads}} std=90{tail}")
say("Inference timings in us: Init: 5250, First inference: 9000, Warmup (avg): 7633.33, Inference (avg): 5050")
say("Memory footprint delta from the start of the tool (MB): init=10.5 overall=12.25")
"""


class Phone:
    def __init__(self, folder: Path) -> None:
        self.place, self.log, self.devices = folder / "place", folder / "adb.log", folder / "devices"
        self.bin = folder / "bin"
        for made in (self.place, self.bin):
            made.mkdir()
        self.connected(emulator="device")
        text = FAKE_ADB.format(
            python=sys.executable, place=str(self.place), devices=str(self.devices), log=str(self.log)
        )
        self._program(self.bin / "adb", text)
        self.benchmark_model = folder / "android_benchmark_model"
        self.benchmark("p5=4900 median=4980 p95=5300")

    def connected(self, **states: str) -> None:
        self.devices.write_text("".join(f"{name} {state}\n" for name, state in states.items()))

    def benchmark(self, tail: str) -> None:
        text = FAKE_BENCHMARK_MODEL.format(python=sys.executable, tail=f" {tail}" if tail else "")
        self._program(self.benchmark_model, text)

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.is_file() else []

    @staticmethod
    def _program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    made = Phone(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}{os.pathsep}{os.environ['PATH']}")
    return made


QUICK: dict[str, Any] = {"rounds": 2, "samples": 3, "warmup": 1, "threads": 1}


def test_benchmark_model_the_whole_way(run_copy: Path, phone: Phone) -> None:
    zone = phone.place / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-0-0\n")
    (zone / "temp").write_text("41000\n")
    options = ("--on", "adb", "--benchmark-model", phone.benchmark_model, "--rounds", "2", "--samples", "3")
    done = run_cli("bench", run_copy, *options, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "adb:emulator" in done.stdout
    (entry,) = json.loads((run_copy / "bench.json").read_text())["hosts"]
    assert entry["on"] == "adb:emulator"
    assert {item["name"] for item in entry["results"]} == {p.stem for p in (run_copy / "export").glob("*.tflite")}
    assert {item["name"] for item in entry["skipped"]} == {p.stem for p in (run_copy / "export").glob("*.onnx")}
    for item in entry["results"]:
        assert item["latency_ms"] == {"p50": 4.98, "p90": None, "p99": None, "mean": 5.05, "min": 4.9}
        assert (item["n"], item["threads"], item["batch"], item["runtime"]) == (6, 1, 1, "benchmark_model")
        assert (item["load_ms"], item["first_ms"], item["model_rss_mb"]) == (5.25, 9.0, 12.2)
    machine = entry["environment"]["machine"]
    assert machine["board"] == "fake ro.product.manufacturer fake ro.product.model"
    assert machine["architecture"] == os.uname().machine
    assert entry["environment"]["before"]["temperature_c"] == {"thermal_zone0 cpu-0-0": 41.0}
    assert "p50 is the median over 2 launches of each one's median" in entry["notes"][0]
    assert list(phone.place.glob("tledge*")) == [], "nothing is left there"
    launched = [line for line in phone.asked() if "--graph" in line]
    assert len(launched) == 2 * len(entry["results"])
    assert all("--num_runs=3 --min_secs=0" in line for line in launched)
    page = tledge.report(run_copy).run.report.read_text()
    assert "adb:emulator, 1 threads" in page
    assert "answers not verified" in page


def test_an_older_program_without_medians(run_copy: Path, phone: Phone) -> None:
    phone.benchmark("")
    result = tledge.bench_on(run_copy, "adb:emulator", benchmark_model=phone.benchmark_model, **QUICK)
    entry = plain(result.hosts[0].entry)
    assert {item["latency_ms"]["p50"] for item in entry["results"]} == {5.05}
    assert "each one's mean" in entry["notes"][0]


def test_a_kit_through_the_device_s_python(run_copy: Path, phone: Phone) -> None:
    for path in (run_copy / "export").iterdir():
        if path.stem != "tflite-int8":
            path.unlink()
    result = tledge.bench_on(run_copy, "adb", remote_python=sys.executable, **QUICK)
    entry = plain(result.hosts[0].entry)
    assert entry["on"] == "adb:emulator"
    assert [item["name"] for item in entry["results"]] == ["tflite-int8"]
    assert entry["results"][0]["n"] == 6
    assert list(phone.place.glob("tledge*")) == [], "the kit is gone"
    assert all("TMPDIR=/data/local/tmp " in line for line in phone.asked() if "shell" in line)


def test_a_check_through_the_device_s_python(run_copy: Path, phone: Phone) -> None:
    only = [run_copy / "export" / "tflite-int8.tflite"]
    result = tledge.check(run_copy, on="adb", artefacts=only, remote_python=sys.executable, on_undecided="pass")
    (host,) = result.hosts
    assert (host.on, host.result.n) == ("adb:emulator", result.n)
    assert host.against_here[0].max_probability_difference <= 1e-3
    assert list(phone.place.glob("tledge*")) == []


def refused(run: Path, says: str, on: str = "adb", **options: Any) -> None:
    with pytest.raises((RemoteError, SettingsError), match=says) as caught:
        tledge.bench_on(run, on, **{**QUICK, **options})
    assert "\n" not in str(caught.value)
    assert not (run / "bench.json").exists()


def test_no_adb(finished_run: Path, tmp_path: Path) -> None:
    done = run_cli("bench", finished_run, "--on", "adb", env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "expected adb on this machine" in done.stderr
    assert not (finished_run / "bench.json").exists()


def test_devices_that_are_not_to_be_had(finished_run: Path, phone: Phone) -> None:
    phone.connected()
    refused(finished_run, "adb lists none; plug one in")
    phone.connected(one="device", other="device")
    refused(finished_run, r"expected one Android device, but adb lists one, other; choose with --on adb:SERIAL")
    refused(finished_run, "expected the Android device third, but adb lists one, other", on="adb:third")
    phone.connected(one="unauthorized")
    refused(finished_run, "does not trust this machine")
    phone.connected(one="offline")
    refused(finished_run, "it is offline")
    phone.connected(one="device", **{"192.168.1.5:5555": "device"})
    assert AdbHost.reach("adb:192.168.1.5:5555", Access()).on == "adb:192.168.1.5:5555"
    for wrong in ("adb:", "adb:-s", "adb:a b", "adb:a;reboot"):
        refused(finished_run, "expected --on as adb or adb:SERIAL", on=wrong)
    phone.connected(one="device")
    with pytest.raises(SettingsError, match="each host once"):
        tledge.bench_on(finished_run, ["adb", "adb:one"], **QUICK)


def test_no_python_there_and_no_benchmark_model(finished_run: Path, phone: Phone) -> None:
    refused(
        finished_run, "there is no such command; give Google's program .* --benchmark-model", remote_python="nopython3"
    )


def test_benchmark_model_that_does_not_fit(finished_run: Path, phone: Phone, tmp_path: Path) -> None:
    refused(finished_run, "expected --benchmark-model as a file", benchmark_model=tmp_path / "nowhere")
    binary = phone.benchmark_model
    refused(finished_run, "expected --threads of at most", benchmark_model=binary, threads=10_000)
    binary.write_text("#!/bin/sh\necho 'not executable: 64-bit ELF file'; exit 1\n")
    refused(finished_run, "ended with 1: not executable: 64-bit ELF file", benchmark_model=binary)
    binary.write_text("#!/bin/sh\necho hello\n")
    refused(finished_run, "expected benchmark_model's statistics of tflite-dynamic.*hello", benchmark_model=binary)
    binary.write_text("#!/bin/sh\nsleep 8\n")
    refused(finished_run, "to end in time, but it did not", benchmark_model=binary, time_limit=3.0)
    assert list(phone.place.glob("tledge*")) == []


def test_a_device_that_leaves(finished_run: Path, phone: Phone) -> None:
    script = f"#!/bin/sh\n: > {phone.devices}\nexit 1\n"
    phone.benchmark_model.write_text(script)
    with pytest.raises(RemoteError):
        tledge.bench_on(finished_run, "adb", benchmark_model=phone.benchmark_model, **QUICK)
    refused(finished_run, "adb lists none")
    assert not (finished_run / "bench.json").exists()


def test_benchmark_model_only_with_adb(finished_run: Path, phone: Phone) -> None:
    for on, says in ((("--on", "ssh://board"), "expected --benchmark-model with --on adb"), ((), "together with --on")):
        done = run_cli("bench", finished_run, *on, "--benchmark-model", phone.benchmark_model)
        assert done.returncode == 2
        assert says in done.stderr


def test_what_the_program_prints() -> None:
    """Lines as LiteRT's program writes them, timings in microseconds."""
    text = (
        "INFO: Initialized session in 80.5ms.\n"
        "INFO: count=2 first=9100 curr=4100 min=4100 max=9100 avg=6600 std=2500 p5=4100 median=6600 p95=9100\n\n\n"
        "INFO: count=50 first=4000 curr=4200 min=3900 max=9.5e+03 avg=4250 std=300 p5=3950 median=4125 p95=5000\n\n"
        "INFO: Inference timings in us: Init: 80500, First inference: 9100, Warmup (avg): 6600, Inference (avg): 4250\n"
        "INFO: Memory footprint delta from the start of the tool (MB): init=20.25 overall=22.5\n"
    )
    launch = parse_launch(text, "x")
    assert (launch.count, launch.median_ms, launch.mean_ms, launch.min_ms) == (50, 4.125, 4.25, 3.9)
    assert (launch.load_ms, launch.first_ms, launch.memory_mb) == (80.5, 9.1, 22.5)
    assert summary([launch, launch])["n"] == 100
    with pytest.raises(RemoteError, match="statistics of x"):
        parse_launch(text.replace("avg=", "mean="), "x")


def test_the_fake_is_like_adb(phone: Phone) -> None:
    """What the code under test relies on: exit codes pass, complaints of adb itself begin with `adb: `."""
    ran = subprocess.run(["adb", "-s", "emulator", "shell", "-T", "exit 7"], check=False)
    assert ran.returncode == 7
    gone = subprocess.run(["adb", "-s", "x", "shell", "-T", "true"], capture_output=True, text=True, check=False)
    assert (gone.returncode, gone.stderr) == (1, "adb: device 'x' not found\n")
    assert json.dumps(phone.asked())
