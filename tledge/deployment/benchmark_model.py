"""Measure a run's TFLite files on Android hosts with Google's benchmark_model, which needs no Python there."""

from __future__ import annotations

import re
import shlex
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from tledge.benchmark.conditions import condition, throttle_notes
from tledge.conversion.artefacts import RunArtefact, find_artefacts
from tledge.core.errors import RemoteError, SettingsError, VerificationError
from tledge.core.files import sha256_file
from tledge.core.progress import Progress, silent
from tledge.core.types import Json
from tledge.deployment.export import export_for_target
from tledge.deployment.hosts.adb import PLACE, AdbHost
from tledge.deployment.kit_bench import HostBenchResult, HostBenchSettings, HostMeasurement
from tledge.deployment.targets import DeviceTarget
from tledge.runs.bench_json import (
    Condition,
    HostBench,
    HostEnvironment,
    HostMachine,
    HostSettings,
    HostTiming,
    Skipped,
)
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir, open_run, require_writable
from tledge.stats.latency import median_interval

_STATISTICS = re.compile(r"\bcount=\d+ .*")
_PAIR = re.compile(r"(\w+)=([0-9.eE+-]+)")
_TIMINGS = re.compile(r"Inference timings in us: Init: ([0-9.eE+-]+), First inference: ([0-9.eE+-]+)")
_MEMORY = re.compile(r"Memory footprint delta[^\n]*overall=([0-9.eE+-]+)")
_FACTS = (
    ("architecture", "uname -m"),
    ("cores", "nproc"),
    ("maker", "getprop ro.product.manufacturer"),
    ("model", "getprop ro.product.model"),
    ("soc", "getprop ro.soc.model"),
    ("android", "getprop ro.build.version.release"),
    ("kernel", "uname -r"),
    ("memory_kb", "sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"),
)
_CONDITIONS = (
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/thermal/cooling_device*/type",
    "/sys/class/thermal/cooling_device*/cur_state",
)
_SHORT_S = 60.0


@dataclass(frozen=True)
class Launch:
    """One launch: a process that loads the file, warms up and measures.

    `median_ms` is None where an older program prints none. `memory_mb` is what loading and running added.
    """

    count: int
    mean_ms: float
    min_ms: float
    median_ms: float | None
    load_ms: float
    first_ms: float
    memory_mb: float | None

    @property
    def middle_ms(self) -> float:
        """Its median, or its mean where there is none."""
        return self.mean_ms if self.median_ms is None else self.median_ms


def arguments(binary: str, graph: str, threads: int, samples: int, warmup: int) -> list[str]:
    """The command of one launch; the least times are 0, so that the counts decide."""
    return [
        binary,
        f"--graph={graph}",
        f"--num_threads={threads}",
        f"--num_runs={samples}",
        "--min_secs=0",
        f"--warmup_runs={warmup}",
        "--warmup_min_secs=0",
    ]


def parse_launch(text: str, what: str) -> Launch:
    """Read the output of one launch; the last line of statistics is the measurement, the one before is warm-up.

    Raises:
        RemoteError: it is not what benchmark_model prints.
    """
    statistics, timings, memory = _STATISTICS.findall(text), _TIMINGS.search(text), _MEMORY.search(text)
    try:
        if not statistics or timings is None:
            raise ValueError("no statistics in its output")
        values = {name: float(value) for name, value in _PAIR.findall(statistics[-1])}
        return Launch(
            count=int(values["count"]),
            mean_ms=values["avg"] / 1e3,
            min_ms=values["min"] / 1e3,
            median_ms=values["median"] / 1e3 if "median" in values else None,
            load_ms=float(timings[1]) / 1e3,
            first_ms=float(timings[2]) / 1e3,
            memory_mb=None if memory is None else float(memory[1]),
        )
    except (ValueError, KeyError) as error:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = lines[-1][:160] if lines else "it printed nothing"
        raise RemoteError(
            f"expected benchmark_model's statistics of {what}, but got none ({error}): {said}; is it Google's program "
            "for this device?"
        ) from None


def summary(launches: Sequence[Launch]) -> Json:
    """Numbers in the words of `bench.json`; what the program does not tell is None.

    `p50` is the median over launches of each one's median (or mean), its interval a 95 % bootstrap over launches.
    """
    middles = median_interval([[launch.middle_ms] for launch in launches])
    memory = [launch.memory_mb for launch in launches if launch.memory_mb is not None]
    return {
        "n": sum(launch.count for launch in launches),
        "latency_ms": {
            "p50": round(middles.value, 4),
            "p90": None,
            "p99": None,
            "mean": round(float(np.mean([launch.mean_ms for launch in launches])), 4),
            "min": round(min(launch.min_ms for launch in launches), 4),
        },
        "p50_interval_95": (round(middles.low, 4), round(middles.high, 4)),
        "load_ms": round(float(np.median([launch.load_ms for launch in launches])), 2),
        "first_ms": round(float(np.median([launch.first_ms for launch in launches])), 2),
        "peak_rss_mb": None,
        "model_rss_mb": round(max(memory), 1) if memory else None,
    }


def measure_on_android(
    run_path: Path,
    devices: Sequence[AdbHost],
    binary: Path,
    settings: HostBenchSettings,
    *,
    target: DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> HostBenchResult:
    """Measure a run's TFLite files on devices, one after the other; nothing is written.

    Every round launches the program once for each file, so that rounds go through all files in turn.

    Args:
        run_path: the run.
        devices: each once.
        binary: benchmark_model, built for the devices.
        settings: how to measure; `samples` inferences per launch.
        target: whose artefacts, exported if they are missing; None for every exported artefact of the run.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: no such program, or no TFLite file to measure.
        RemoteError: a device is gone, the program does not run there, or the time limit is over.
        RunError, ArtefactError, VerificationError: as the export of a target.
    """
    if not binary.is_file():
        raise SettingsError(f"expected --benchmark-model as a file, but got {binary}; check the path")
    run = open_run(run_path)
    require_writable(run)
    artefacts = _artefacts(run, target, data, progress)
    files = [artefact for artefact in artefacts if artefact.path.suffix == ".tflite"]
    if not files:
        raise SettingsError("expected TFLite files for benchmark_model, but the run has none; export one first")
    measured = []
    for device in devices:
        entry, sent = _Bench(device, binary, settings, progress).measure(artefacts, files, target)
        measured.append(HostMeasurement(device, entry, sent))
    return HostBenchResult(run, tuple(measured))


def _artefacts(
    run: RunDir, target: DeviceTarget | None, data: Path | None, progress: Progress
) -> tuple[RunArtefact, ...]:
    if target is None:
        return find_artefacts(run, read_manifest(run))
    made = export_for_target(run.path, target, data=data, progress=progress)
    if made.breaches:
        raise VerificationError(f"{made.breaches[0]}; nothing was measured")
    return find_artefacts(run, read_manifest(run), [artefact.path for artefact in made.exported.artefacts])


class _Bench:
    """One device while it measures."""

    def __init__(self, device: AdbHost, binary: Path, settings: HostBenchSettings, progress: Progress) -> None:
        self._device, self._binary, self._settings, self._progress = device, binary, settings, progress
        self._folder = f"{PLACE}/tledge-{uuid.uuid4().hex[:12]}"
        self._deadline = time.monotonic() + settings.time_limit

    def measure(
        self, artefacts: Sequence[RunArtefact], files: Sequence[RunArtefact], target: DeviceTarget | None
    ) -> tuple[HostBench, int]:
        """The device's entry in `bench.json`, and how many bytes were sent; its folder there is removed again."""
        facts = self._facts()
        if target is not None and target.architectures and facts["architecture"] not in target.architectures:
            raise RemoteError(
                f"expected {' or '.join(target.architectures)} on {self._device.name} for {target.name}, but it is "
                f"{facts['architecture']}; choose another --target, or none"
            )
        cores = int(facts["cores"]) if facts["cores"].isdigit() else 1
        threads = self._threads(cores, target)
        try:
            self._push(files)
            before = self._condition()
            results, medians = [], True
            for count in threads:
                measured, with_medians = self._rounds(files, count)
                results += measured
                medians = medians and with_medians
            after = self._condition()
        finally:
            with suppress(RemoteError):  # a device that is gone has said so already
                self._device.shell(f"rm -rf {self._folder}", _SHORT_S)
        others = [item for item in artefacts if item not in files]
        entry = HostBench(
            on=self._device.on,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=HostEnvironment(machine=_machine(facts, cores), versions={}, before=before, after=after),
            settings=HostSettings(
                batch=1,
                rounds=self._settings.rounds,
                samples=self._settings.samples,
                warmup=self._settings.warmup,
                threads=threads,
                target=None if target is None else target.name,
                benchmark_model_sha256=sha256_file(self._binary),
            ),
            skipped=tuple(Skipped(name=item.name, reason="benchmark_model runs TFLite files only") for item in others),
            over_limits=(),
            notes=(
                f"measured with benchmark_model on random input, answers not verified; p50 is the median over "
                f"{self._settings.rounds} launches of each one's {'median' if medians else 'mean'}",
                *throttle_notes(before, after),
            ),
            results=tuple(results),
        )
        return entry, sum(item.size_bytes for item in files) + self._binary.stat().st_size

    def _threads(self, cores: int, target: DeviceTarget | None) -> tuple[int, ...]:
        asked = self._settings.threads
        if any(count > cores for count in asked):
            raise SettingsError(
                f"expected --threads of at most {cores}, the cores of {self._device.name}, but got {max(asked)}"
            )
        of_target = () if target is None else tuple(count for count in target.threads if count <= cores)
        return asked or of_target or (cores,)

    def _left_s(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise RemoteError(
                f"expected {self._device.name} to measure within {self._settings.time_limit:g} s, but it did not; "
                "allow more with --time-limit, or ask for fewer --rounds"
            )
        return left

    def _facts(self) -> dict[str, str]:
        commands = "; ".join(f'echo "{name}=$({command} 2>/dev/null)"' for name, command in _FACTS)
        pairs = (line.partition("=") for line in self._device.shell(commands, _SHORT_S).splitlines())
        found = {name.strip(): value.strip() for name, _, value in pairs}
        return {name: found.get(name, "") for name, _ in _FACTS}

    def _condition(self) -> Condition:
        """Read as on this machine, from a copy of the device's files."""
        # A pattern without a match stays a pattern: grep -s is silent about it.
        said = self._device.shell(f"grep -s . {' '.join(_CONDITIONS)} /dev/null; true", _SHORT_S)
        with tempfile.TemporaryDirectory() as root:
            for line in said.splitlines():
                name, _, value = line.partition(":")
                path = Path(root) / name.removeprefix("/sys/")
                if name.startswith("/sys/") and ".." not in name:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(value)
            return replace(condition(Path(root)), throttled_flags=None)

    def _push(self, files: Sequence[RunArtefact]) -> None:
        self._device.shell(f"mkdir {self._folder}", _SHORT_S)
        sources = {"benchmark_model": self._binary} | {item.path.name: item.path for item in files}
        for done, (name, path) in enumerate(sources.items()):
            self._progress(f"copying files to {self._device.name}", done, len(sources))
            self._device.push(path, f"{self._folder}/{name}", self._left_s())
        self._progress(f"copying files to {self._device.name}", len(sources), len(sources))
        names = shlex.join(sources)
        said = self._device.shell(
            f"cd {self._folder} && chmod 755 benchmark_model && sha256sum {names}", self._left_s()
        )
        arrived = {line.split()[0] for line in said.splitlines() if line.split()}
        wrong = [name for name, path in sources.items() if sha256_file(path) not in arrived]
        if wrong:
            raise RemoteError(f"expected {wrong[0]} whole on {self._device.name}, but other bytes arrived; try again")

    def _rounds(self, files: Sequence[RunArtefact], threads: int) -> tuple[list[HostTiming], bool]:
        """Numbers of each file, and whether all of them rest on medians."""
        launches: dict[str, list[Launch]] = {item.name: [] for item in files}
        what = f"measuring rounds on {self._device.name}, {threads} threads"
        for done in range(self._settings.rounds):
            self._progress(what, done, self._settings.rounds)
            for item in files:
                words = arguments(
                    "./benchmark_model", item.path.name, threads, self._settings.samples, self._settings.warmup
                )
                said = self._device.shell(f"cd {self._folder} && {shlex.join(words)}", self._left_s())
                launches[item.name].append(parse_launch(said, item.name))
        self._progress(what, self._settings.rounds, self._settings.rounds)
        results = [
            HostTiming(
                name=item.name,
                runtime="benchmark_model",
                precision=item.precision or "unknown",
                size_bytes=item.size_bytes,
                sha256=item.sha256,
                batch=1,
                threads=threads,
                **summary(launches[item.name]),
            )
            for item in files
        ]
        return results, all(launch.median_ms is not None for several in launches.values() for launch in several)


def _machine(facts: dict[str, str], cores: int) -> HostMachine:
    memory_kb = facts["memory_kb"]
    return HostMachine(
        board=" ".join(part for part in (facts["maker"], facts["model"]) if part) or None,
        cpu=facts["soc"] or None,
        cpu_flags=(),
        architecture=facts["architecture"],
        cores=cores,
        memory_gb=round(int(memory_kb) / 2**20, 1) if memory_kb.isdigit() else None,
        system=f"Android {facts['android']}, Linux {facts['kernel']}",
    )
