"""Measure a run's artefacts on hosts with a kit: what a host has, the kit on its way there, its bench there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tledge.benchmark.conditions import load_notes, throttle_notes
from tledge.benchmark.settings import BenchGrid
from tledge.conversion.artefacts import find_artefacts
from tledge.conversion.recipe import recipe_folder
from tledge.core.errors import RemoteError, SettingsError
from tledge.core.progress import Progress, silent
from tledge.core.records import Record
from tledge.core.settings import Settings, option, option_of
from tledge.core.types import Json
from tledge.deployment.check_settings import HostCheckSettings
from tledge.deployment.hosts.host import Host, PythonHost, session
from tledge.deployment.kit import Kit, build_kit
from tledge.deployment.targets import DeviceTarget
from tledge.runs.bench_json import HostBench, HostEnvironment, HostSettings, HostTiming, Skipped, Verified
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir, open_run, require_writable

_PROBE_S = 120.0
READY_S = 120.0
SLACK_S = 60.0
_CHUNK_BYTES = 1 << 18
_SPARE_BYTES = 16 << 20  # logs, and what other programs write meanwhile
PACKAGES = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime"}
_WITH_WHEELS = {"x86_64", "amd64", "aarch64", "arm64"}
RUNTIMES = {"tflite": "litert", "onnx": "onnxruntime", "ort": "onnxruntime"}


def runtime_for(path: Path) -> str | None:
    """The runtime of a file on hosts, by its suffix; None if there is none."""
    return RUNTIMES.get(path.suffix.removeprefix(".").lower())


@dataclass(frozen=True)
class Probe:
    """What a machine said of itself.

    `architecture` is `uname -m`, `bits` the width of its Python's pointers, `free_bytes` the space in `folder`, where
    kits are unpacked. `problems` is why numpy, litert or onnxruntime cannot be imported; what is not in it can be.
    """

    python: str
    architecture: str
    bits: int
    cores: int
    folder: str
    free_bytes: int
    problems: dict[str, str]


_PROBED = {
    "python": str,
    "architecture": str,
    "bits": int,
    "cores": int,
    "folder": str,
    "free_bytes": int,
    "problems": dict,
}


def probe(host: PythonHost) -> Probe:
    """Look at another machine, in one round trip.

    Raises:
        RemoteError: it cannot be reached, or has no Python 3.10.
    """
    with session(host, remote_script(), ["probe"]) as opened:
        found = opened.read(_PROBE_S, **_PROBED)
    return Probe(**{name: found[name] for name in _PROBED})


def require_ready(
    host: PythonHost, found: Probe, runtimes: Sequence[str], target: DeviceTarget | None, size: int
) -> None:
    """Refuse a machine that cannot measure.

    Args:
        host: the machine.
        found: what it said.
        runtimes: the runtimes of the files to be measured; one of them is enough.
        target: what kind of machine it has to be.
        size: bytes of the files to be measured, as far as they are known.

    Raises:
        RemoteError: another architecture than the target's, no numpy, no runtime, or not enough space.
    """
    if target is not None and target.architectures and found.architecture not in target.architectures:
        raise RemoteError(
            f"expected {' or '.join(target.architectures)} on {host.name} for {target.name}, but it is "
            f"{found.architecture}; choose another --target, or none"
        )
    usable = [name for name in runtimes if name not in found.problems]
    if "numpy" not in found.problems and usable:
        require_space(host, found, size)
        return
    raise lacking(
        host, found, [name for name in ("numpy", *(() if usable else runtimes[:1])) if name in found.problems]
    )


def lacking(host: PythonHost, found: Probe, missing: Sequence[str], for_what: str = "") -> RemoteError:
    """The error for a machine whose Python lacks packages, by their names in `Probe.problems`."""
    packages = [PACKAGES.get(name, name) for name in missing]
    # Not into the system's Python: Debian and Raspberry Pi OS refuse that.
    wanted = " ".join(dict.fromkeys(("numpy", *packages)))
    venv = f"`python3 -m venv ~/tledge && ~/tledge/bin/pip install {wanted}`"
    do = f"run {venv} there and pass --remote-python tledge/bin/python"
    if found.architecture not in _WITH_WHEELS or found.bits != 64:
        do = "take a 64-bit x86 or Arm system: for others there are no ready packages"
    return RemoteError(
        f"expected {' and '.join(packages)} for {host.python} on {host.name}{for_what} "
        f"(Python {found.python}, {found.architecture}, {found.bits} bit), but {found.problems[missing[0]]}; {do}"
    )


def measure_kit(
    host: PythonHost, kit: Path, arguments: Sequence[str], limit_s: float, progress: Progress = silent
) -> Json:
    """Send a kit, run its bench there, and return {code, stdout, stderr}; nothing of it stays there.

    Args:
        host: the machine.
        kit: the zip; it says itself what its files should be, and its bench there looks.
        arguments: of the bench.
        limit_s: seconds that the bench may take; `code` is None when they were not enough.
        progress: called with (what, MB done, MB in all) while bytes are sent.

    Raises:
        RemoteError: the connection or the machine failed.
    """
    size = kit.stat().st_size
    with session(host, remote_script(), ["measure", str(size), str(limit_s), *arguments]) as opened:
        opened.read(READY_S)
        with kit.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                opened.send(chunk)
                progress(f"sending the kit to {host.name}, MB", stream.tell() // 10**6, -(-size // 10**6))
        progress(f"measuring on {host.name}", 0, 1)
        told = opened.read(limit_s + SLACK_S, code=int | None, stdout=str, stderr=str)
        progress(f"measuring on {host.name}", 1, 1)
        return told


def require_space(host: PythonHost, found: Probe, wanted_bytes: int) -> None:
    """Refuse a machine without this space for temporary files.

    Raises:
        RemoteError: it has less.
    """
    if found.free_bytes < wanted_bytes + _SPARE_BYTES:
        raise RemoteError(
            f"expected {(wanted_bytes + _SPARE_BYTES) / 1e6:.0f} MB of free space in {found.folder} on {host.name}, "
            f"but there are {found.free_bytes / 1e6:.0f} MB; make room, or choose fewer files with --target"
        )


def remote_script() -> bytes:
    """What runs on the other side of a session."""
    return (recipe_folder() / "remote" / "tledge_remote.py").read_bytes()


@dataclass(frozen=True)
class HostBenchSettings(Settings):
    """How to measure there: as `BenchGrid`, but batch 1, and `warmup` at least 1.

    `threads` empty means the target's numbers, without a target all cores there. `time_limit` is how many seconds one
    machine may measure. `benchmark_model` is Google's program for TFLite files, which then measures on Android devices
    instead of a Python there.
    """

    threads: tuple[int, ...] = option_of(BenchGrid, "threads")
    rounds: int = option_of(BenchGrid, "rounds")
    samples: int = option_of(BenchGrid, "samples")
    warmup: int = option_of(BenchGrid, "warmup")
    time_limit: float = option_of(HostCheckSettings, "time_limit")
    benchmark_model: Path | None = option(
        None,
        help="With --on adb: Google's benchmark_model for the device, which needs no Python there; TFLite files only.",
        metavar="PATH",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup < 1:
            raise SettingsError(f"expected --warmup above 0 with --on, but got {self.warmup}; choose a larger value")


EVERY_CORE = HostBenchSettings()


@dataclass(frozen=True)
class HostMeasurement:
    """What one machine measured; `entry` is its place in `bench.json`, `sent_bytes` what was sent."""

    host: Host
    entry: HostBench
    sent_bytes: int


@dataclass(frozen=True)
class HostBenchResult:
    """What all machines measured."""

    run: RunDir
    hosts: tuple[HostMeasurement, ...]

    @property
    def over_limits(self) -> tuple[str, ...]:
        """What breaks the target's limit on memory, one line each."""
        return tuple(f"{measured.host.name}: {line}" for measured in self.hosts for line in measured.entry.over_limits)


def measure_on(
    run_path: Path,
    hosts: Sequence[PythonHost],
    settings: HostBenchSettings,
    *,
    target: DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> HostBenchResult:
    """Measure a run on other machines, one after the other; nothing is written, see `tledge.deployment.host_bench`.

    Args:
        run_path: the run.
        hosts: the machines, each once.
        settings: how to measure.
        target: whose artefacts, exported if they are missing; None for every exported artefact of the run.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        RemoteError: a machine cannot be reached, lacks something, fails, or measured other files.
        RunError, ArtefactError, DataError, VerificationError: as `tledge.deployment.kit.build_kit`.
    """
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
        progress("asking the hosts", done, len(hosts))
        probes.append(probe(host))
        require_ready(host, probes[-1], sorted(RUNTIMES[name] for name in formats), target, size)
    progress("asking the hosts", len(hosts), len(hosts))
    with tempfile.TemporaryDirectory() as folder:
        kit = build_kit(run_path, Path(folder) / "kit.zip", target=target, data=data, progress=progress)
        measured = tuple(
            _measure(host, found, kit, settings, progress) for host, found in zip(hosts, probes, strict=True)
        )
    return HostBenchResult(run, measured)


def _measure(
    host: PythonHost, found: Probe, kit: Kit, settings: HostBenchSettings, progress: Progress
) -> HostMeasurement:
    unpacked = sum(item["size_bytes"] for item in kit.manifest["artefacts"])
    require_space(host, found, kit.size_bytes + unpacked)
    told = measure_kit(host, kit.path, _arguments(found, kit, settings), settings.time_limit, progress)
    return HostMeasurement(host, _entry(host, kit, settings, told), kit.size_bytes)


def _arguments(found: Probe, kit: Kit, settings: HostBenchSettings) -> list[str]:
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


def _entry(host: PythonHost, kit: Kit, settings: HostBenchSettings, told: Json) -> HostBench:
    if told["code"] is None:
        raise RemoteError(
            f"expected {host.name} to measure within {settings.time_limit:g} s, but it did not; "
            "allow more with --time-limit, or ask for fewer --rounds"
        )
    try:
        report = msgspec.json.decode(told["stdout"], type=KitReport)
    except (msgspec.DecodeError, RecursionError):
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


def _require_same_files(host: PythonHost, kit: Kit, settings: HostBenchSettings, report: KitReport) -> None:
    skipped = {item.name for item in report.skipped}
    sent = {item["name"]: item["sha256"] for item in kit.manifest["artefacts"] if item["name"] not in skipped}
    measured = {item.name: item.sha256 for item in report.results}
    verified = {item.name for item in report.verified}
    if not sent or measured != sent or verified != set(sent):
        raise RemoteError(
            f"expected {host.name} to measure the files that were sent ({', '.join(sorted(sent))}), but it measured "
            f"others ({', '.join(sorted(measured)) or 'none'}); run it again"
        )
    wanted = settings.rounds * settings.samples
    if any(item.n != wanted for item in report.results):
        raise RemoteError(f"expected {wanted} measurements of each file on {host.name}, but got others; run it again")
