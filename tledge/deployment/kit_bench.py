"""Measure a run's artefacts on other machines with a kit, through ssh or adb."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tledge.benchmark.conditions import load_notes, throttle_notes
from tledge.benchmark.settings import BenchGrid
from tledge.conversion.artefacts import find_artefacts
from tledge.core.errors import RemoteError, SettingsError
from tledge.core.progress import Progress, silent
from tledge.core.records import Record
from tledge.core.settings import Settings, option, option_of
from tledge.core.types import Json
from tledge.deployment.hosts.host import Machine
from tledge.deployment.kit import Kit, build_kit
from tledge.deployment.remote import Probe, copy_kit, forget_kit, measure_kit, probe, require_ready
from tledge.deployment.targets import DeviceTarget
from tledge.runs.bench_json import HostBench, HostEnvironment, HostSettings, HostTiming, Skipped, Verified
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir, open_run, require_writable

_RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime", "ort": "onnxruntime"}


@dataclass(frozen=True)
class RemoteSettings(Settings):
    """How to measure there: as `BenchGrid`, but batch 1, and `warmup` at least 1.

    `threads` empty means the target's numbers, without a target all cores there. `time_limit` is how many seconds one
    machine may measure. `cache` leaves the copied kit there, so that it is not copied again. `benchmark_model` is
    Google's program for TFLite files, which then measures on Android devices instead of a Python there.
    """

    threads: tuple[int, ...] = option_of(BenchGrid, "threads")
    rounds: int = option_of(BenchGrid, "rounds")
    samples: int = option_of(BenchGrid, "samples")
    warmup: int = option_of(BenchGrid, "warmup")
    time_limit: float = option(
        3600.0,
        help="With --on: most for one machine.",
        above=0,
        below=10**6,
        noun="--time-limit in seconds",
        metavar="SECONDS",
    )
    benchmark_model: Path | None = option(
        None,
        help="With --on adb: Google's benchmark_model for the device, which needs no Python there; TFLite files only.",
        metavar="PATH",
    )
    cache: bool = option(True, help="With --on: leave no copy of the kit there.", flag="--no-cache")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup < 1:
            raise SettingsError(f"expected --warmup above 0 with --on, but got {self.warmup}; choose a larger value")


EVERY_CORE = RemoteSettings()


@dataclass(frozen=True)
class RemoteMeasurement:
    """What one machine measured; `entry` is its place in `bench.json`, `sent_bytes` what had to be copied."""

    host: Machine
    entry: HostBench
    sent_bytes: int


@dataclass(frozen=True)
class RemoteBenchResult:
    """What all machines measured."""

    run: RunDir
    targets: tuple[RemoteMeasurement, ...]

    @property
    def over_limits(self) -> tuple[str, ...]:
        """What breaks the target's limit on memory, one line each."""
        return tuple(f"{target.host.name}: {line}" for target in self.targets for line in target.entry.over_limits)


def measure_on(
    run_path: Path,
    hosts: Sequence[Machine],
    settings: RemoteSettings,
    *,
    target: DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> RemoteBenchResult:
    """Measure a run on other machines, one after the other; nothing is written, see `tledge.deployment.host_bench`.

    Args:
        run_path: the run.
        hosts: the machines, each once.
        settings: how to measure.
        target: whose artefacts, exported if they are missing; None for every exported artefact of the run.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: a machine twice, or none.
        RemoteError: a machine cannot be reached, lacks something, fails, or measured other files.
        RunError, ArtefactError, DataError, VerificationError: as `tledge.deployment.kit.build_kit`.
    """
    names = [host.on for host in hosts]
    if not names or len(set(names)) != len(names):
        raise SettingsError(f"expected each machine once with --on, but got {', '.join(names) or 'none'}; change it")
    run = open_run(run_path)
    require_writable(run)
    if target is None:
        artefacts = find_artefacts(run, read_manifest(run))
        formats = {artefact.path.suffix.removeprefix(".") for artefact in artefacts}
        size = sum(artefact.size_bytes for artefact in artefacts)
    else:
        formats, size = {delivery.recipe.format for delivery in target.artefacts}, 0
    probes = []
    for done, host in enumerate(hosts):  # all of them before anything slow begins
        progress("asking the targets", done, len(hosts))
        probes.append(probe(host))
        require_ready(host, probes[-1], sorted(_RUNTIMES[name] for name in formats), target, size)
    progress("asking the targets", len(hosts), len(hosts))
    with tempfile.TemporaryDirectory() as folder:
        kit = build_kit(run_path, Path(folder) / "kit.zip", target=target, data=data, progress=progress)
        measured = tuple(
            _measure(host, found, kit, settings, progress) for host, found in zip(hosts, probes, strict=True)
        )
    return RemoteBenchResult(run, measured)


def _measure(host: Machine, found: Probe, kit: Kit, settings: RemoteSettings, progress: Progress) -> RemoteMeasurement:
    try:
        unpacked = sum(item["size_bytes"] for item in kit.manifest["artefacts"])
        copied = copy_kit(host, kit.path, kit.sha256, unpacked, progress)
        progress(f"measuring on {host.name}", 0, 1)
        told = measure_kit(host, kit.sha256, _arguments(found, kit, settings), settings.time_limit)
        entry = _entry(host, kit, settings, told)
        progress(f"measuring on {host.name}", 1, 1)
    finally:
        if not settings.cache:
            with suppress(RemoteError):  # a machine that is gone has said so already
                forget_kit(host, kit.sha256)
    return RemoteMeasurement(host, entry, copied.sent_bytes)


def _arguments(found: Probe, kit: Kit, settings: RemoteSettings) -> list[str]:
    counts = [(name, getattr(settings, name)) for name in ("rounds", "samples", "warmup")]
    threads = settings.threads
    if not threads and kit.manifest["target"] is None:  # the kit names the cores of this machine
        threads = (found.cores,)
    counts += [("threads", count) for count in threads]
    return [part for name, count in counts for part in (f"--{name}", str(count))]


class KitSettings(Record, frozen=True, kw_only=True):
    """How a kit measured on its device."""

    batch: int
    rounds: int
    samples: int
    warmup: int
    warmup_ms: float


class KitReport(Record, frozen=True, kw_only=True):
    """What a kit's program prints on its device, as far as it is read."""

    created: str
    environment: HostEnvironment
    settings: KitSettings
    verified: tuple[Verified, ...]
    skipped: tuple[Skipped, ...]
    over_limits: tuple[str, ...]
    results: tuple[HostTiming, ...]


def _entry(host: Machine, kit: Kit, settings: RemoteSettings, told: Json) -> HostBench:
    if told["code"] is None:
        raise RemoteError(
            f"expected {host.name} to measure within {settings.time_limit:g} s, but it did not; "
            "allow more with --time-limit, or ask for fewer --rounds"
        )
    try:
        report = msgspec.json.decode(told["stdout"], type=KitReport)
    except msgspec.DecodeError:
        lines = [line for line in told["stderr"].splitlines() if line.strip()]
        reason = lines[-1].strip().removeprefix("tledge_device: ") if lines else "it said nothing"
        raise RemoteError(f"{host.name} ended with code {told['code']}: {reason}") from None
    _require_same_files(host, kit, settings, report)
    environment = report.environment
    other_cores = None if environment.other_cores is msgspec.UNSET else environment.other_cores
    return HostBench(
        on=host.on,
        created=report.created,
        environment=environment,
        settings=HostSettings(
            **msgspec.structs.asdict(report.settings),
            threads=tuple(sorted({item.threads for item in report.results})),
            target=None if kit.manifest["target"] is None else kit.manifest["target"]["name"],
            kit_sha256=kit.sha256,
        ),
        verified=report.verified,
        skipped=report.skipped,
        over_limits=report.over_limits,
        notes=(*load_notes(other_cores), *throttle_notes(environment.before, environment.after)),
        results=report.results,
    )


def _require_same_files(host: Machine, kit: Kit, settings: RemoteSettings, report: KitReport) -> None:
    skipped = {item.name for item in report.skipped}
    sent = {item["name"]: item["sha256"] for item in kit.manifest["artefacts"] if item["name"] not in skipped}
    measured = {item.name: item.sha256 for item in report.results}
    verified = {item.name for item in report.verified}
    if not sent or measured != sent or verified != set(sent):
        raise RemoteError(
            f"expected {host.name} to measure the files that were sent ({', '.join(sorted(sent))}), but it measured "
            f"others ({', '.join(sorted(measured)) or 'none'}); run it again with --no-cache"
        )
    wanted = settings.rounds * settings.samples
    if any(item.n != wanted for item in report.results):
        raise RemoteError(f"expected {wanted} measurements of each file on {host.name}, but got others; run it again")
