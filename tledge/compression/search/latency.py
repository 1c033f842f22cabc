"""How long a candidate's files take: beside the original on this machine, or on the one they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Protocol

from tledge.benchmark.bench import REFERENCE, BenchGrid, BenchSettings, background_load, bench, measure
from tledge.benchmark.measure import Subject
from tledge.compression.search.numbers import FileNumbers, Latency
from tledge.conversion.artefacts import RunArtefact
from tledge.core.environment import available_cores, machine
from tledge.core.errors import SettingsError
from tledge.core.progress import Progress
from tledge.core.records import plain
from tledge.core.types import Json
from tledge.deployment.host_bench import bench_on_hosts, require_usable
from tledge.deployment.hosts import host_at
from tledge.deployment.hosts.browser import BrowserHost
from tledge.deployment.hosts.host import Access
from tledge.deployment.kit_bench import HostBenchSettings
from tledge.runs.bench_json import HostTiming, Measurement
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import RunDir


class LatencyMeter(Protocol):
    """Measures latencies; numbers of equal `conditions` can be compared, `where` names the machine."""

    conditions: Json
    where: str

    def candidate(self, run: RunDir, artefacts: Sequence[RunArtefact], progress: Progress) -> dict[str, Latency]:
        """Latencies of one candidate's files by digest."""
        ...

    def finalists(
        self, files: Mapping[FileNumbers, RunDir], progress: Progress
    ) -> tuple[dict[FileNumbers, FileNumbers], list[str]]:
        """By the numbers before, those with latencies that compare best, and notes on the machine."""
        ...


class LocalMeter:
    """This machine: a candidate's files beside the original, finalists and the original in the same rounds.

    Args:
        parent: the run that candidates are made from.
        manifest: its.
        settings: for a candidate.
        final_rounds: for the finalists.
    """

    def __init__(self, parent: RunDir, manifest: Manifest, settings: BenchSettings, final_rounds: int) -> None:
        self._parent, self._manifest = parent, manifest
        self._final = replace(settings, rounds=final_rounds)
        self._grid = BenchGrid((settings.threads,), rounds=settings.rounds, samples=settings.samples)
        self.conditions: Json = asdict(settings) | {"machine": plain(machine())}
        self.where = f"{settings.threads} thread(s), {machine().cpu}"

    def candidate(self, run: RunDir, artefacts: Sequence[RunArtefact], progress: Progress) -> dict[str, Latency]:
        """As `LatencyMeter`."""
        paths = [artefact.path for artefact in artefacts]
        measured = bench(run.path, self._grid, artefacts=paths, progress=progress).measurements
        return {item.sha256: _beside_keras(item) for item in measured if item.name != REFERENCE}

    def finalists(
        self, files: Mapping[FileNumbers, RunDir], progress: Progress
    ) -> tuple[dict[FileNumbers, FileNumbers], list[str]]:
        """As `LatencyMeter`."""
        subjects = [Subject(REFERENCE, self._parent.reference, "float32", self._manifest.reference_sha256)]
        for file, run in files.items():
            path = next(path for path in run.artefacts() if path.stem == file.recipe)
            subjects.append(Subject(f"{file.candidate}/{file.recipe}", path, "int8", file.sha256))
        _, notes = background_load()
        _, *measured = measure(subjects, self._final, progress)
        pairs = zip(files, measured, strict=True)
        return {file: replace(file, final_latency=_beside_keras(item)) for file, item in pairs}, notes


class RemoteMeter:
    """Another machine, or a browser. Keras does not run there, so there is no speed-up.

    Candidates are made one by one and measured as they are: what is measured is kept.

    Args:
        on: `ssh://[user@]host[:port]`, `adb[:SERIAL]` or `browser[:COMMAND]`.
        access: how to get there.
        settings: how to measure.

    Raises:
        SettingsError, MissingDependencyError, RemoteError: as `tledge.deployment.host_bench.measure_on_hosts`.
    """

    def __init__(self, on: str, access: Access, settings: HostBenchSettings) -> None:
        self._on, self._access, self._settings = on, access, settings
        host = host_at(on, access)
        if isinstance(host, BrowserHost) and host.provider == "webgpu":
            raise SettingsError(
                f"expected a host for int8 files, which a search looks for, but got {on}, and WebGPU computes floats "
                "alone; leave +webgpu out"
            )
        require_usable(host, ["litert", "onnxruntime"])
        counts = {name: getattr(settings, name) for name in ("rounds", "samples", "warmup")}
        self.conditions: Json = {"on": on, "threads": list(settings.threads), **counts}
        self.where = f"{settings.threads[0] if settings.threads else 'all'} thread(s), {on}"

    def candidate(self, run: RunDir, artefacts: Sequence[RunArtefact], progress: Progress) -> dict[str, Latency]:
        """As `LatencyMeter`."""
        result = bench_on_hosts(run.path, (self._on,), self._access, self._settings, data=run.data, progress=progress)
        return {item.sha256: _alone(item) for item in result.hosts[0].entry.results}

    def finalists(
        self, files: Mapping[FileNumbers, RunDir], progress: Progress
    ) -> tuple[dict[FileNumbers, FileNumbers], list[str]]:
        """As `LatencyMeter`; what was measured stands."""
        return {file: replace(file, final_latency=file.own_latency) for file in files}, []


def latency_meter(
    parent: RunDir,
    manifest: Manifest,
    on: str | None,
    access: Access,
    threads: int | None,
    rounds: int,
    final_rounds: int,
    samples: int,
) -> LatencyMeter:
    """The one for this machine, or for `on`; `threads` of one inference, None for all cores there."""
    if on is not None:
        counts = () if threads is None else (threads,)
        return RemoteMeter(on, access, HostBenchSettings(counts, rounds=final_rounds, samples=samples))
    settings = BenchSettings(available_cores() if threads is None else threads, rounds=rounds, samples=samples)
    return LocalMeter(parent, manifest, settings, final_rounds)


def _alone(item: HostTiming) -> Latency:
    p90_ms = item.latency_ms["p90"]
    if p90_ms is None:
        raise AssertionError("a kit tells every percentile")
    return Latency(item.latency_ms["p50"], p90_ms, None, None, item.n)


def _beside_keras(item: Measurement) -> Latency:
    if item.speedup_vs_keras is None or item.speedup_interval_95 is None:
        raise AssertionError("the original is always measured along")
    return Latency(
        p50_ms=item.latency_ms["p50"],
        p90_ms=item.latency_ms["p90"],
        speedup=item.speedup_vs_keras,
        speedup_interval_95=item.speedup_interval_95,
        n=item.n,
    )
