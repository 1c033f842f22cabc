"""Which options of its runtime suit a file: each tried alone, the best one measured once more against the default."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tledge.benchmark.bench import run_subjects
from tledge.benchmark.conditions import background_load
from tledge.benchmark.measure import Subject, Worker, measure_watched
from tledge.benchmark.settings import ALL_CORES, BenchGrid, BenchSettings
from tledge.core.environment import available_cores, machine, versions
from tledge.core.errors import SettingsError
from tledge.core.progress import Progress, silent
from tledge.runs import bench_json
from tledge.runs.bench_json import (
    BestVariant,
    Measurement,
    OptionsBench,
    OptionsEnvironment,
    timing_of,
    write_options,
)
from tledge.runs.rundir import RunDir, open_run, require_writable
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions
from tledge.stats.intervals import Interval
from tledge.stats.latency import ratio_interval

DEFAULT = "default"
WEIGHT_CACHE = "weight cache (CompiledModel)"
_LITERT = {"XNNPACK off": RuntimeOptions(provider="builtin")}
_ONNXRUNTIME = {
    "graph optimization off": RuntimeOptions(graph_optimization="off"),
    "graph optimization basic": RuntimeOptions(graph_optimization="basic"),
    "graph optimization extended": RuntimeOptions(graph_optimization="extended"),
    "arena off": RuntimeOptions(arena=False),
    "spinning off": RuntimeOptions(spinning=False),
}


@dataclass(frozen=True)
class Variant:
    """One way to run a file; `speedup` is the default's p50 over its own, None for the default itself."""

    name: str
    options: RuntimeOptions
    measurement: Measurement
    speedup: Interval | None


@dataclass(frozen=True)
class FileOptions:
    """All variants of a file, the default first.

    `best` is the fastest of them. `confirmed` is its speed-up over the default in rounds of their own, since the first
    ones chose it and flatter it, of `confirmed_n` inferences each; None where the default itself was the fastest.
    `better` says whether that whole interval is above 1: only then is the setting worth a change. `notes` say what a
    reader should know about the numbers.
    """

    name: str
    sha256: str
    variants: tuple[Variant, ...]
    best: Variant
    confirmed: Interval | None
    confirmed_n: int
    notes: tuple[str, ...]

    @property
    def better(self) -> bool:
        """Whether the best setting is faster for sure."""
        return self.confirmed is not None and self.confirmed.low > 1


@dataclass(frozen=True)
class OptionsResult:
    """The files of a run with their settings."""

    run: RunDir
    settings: BenchSettings
    files: tuple[FileOptions, ...]
    notes: tuple[str, ...]


def bench_options(
    run_path: Path,
    settings: BenchGrid = ALL_CORES,
    *,
    artefacts: Sequence[Path] = (),
    progress: Progress = silent,
) -> OptionsResult:
    """Try the options of each artefact's runtime, one changed at a time, and put what was found into `bench.json`.

    Args:
        run_path: the run.
        settings: how to measure, one number of threads and one batch size; fewer threads are compared with it.
        artefacts: files; empty for every artefact of the run.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: several numbers of threads or batch sizes.
        RunError, ArtefactError: what is to be measured is missing, damaged or of another run.
    """
    first, *further = settings.each()
    if settings.provider:
        raise SettingsError("expected --sweep without --provider, since it tries them, but got both; leave one out")
    if further:
        raise SettingsError(
            "expected --sweep on this machine with one setting to begin with, but got several --threads or --batch; "
            "leave it"
        )
    run = open_run(run_path)
    require_writable(run)
    subjects, _ = run_subjects(run, artefacts, reference=False)
    _, noted = background_load()
    files = tuple(_try(subject, first, progress) for subject in subjects)
    notes = (*noted, *(f"{file.name}: {note}" for file in files for note in file.notes))
    result = OptionsResult(run, first, files, notes)
    write_options(run, _records(result))
    return result


def variants(path: Path, threads: int, weight_cache: str) -> dict[str, tuple[RuntimeOptions, int]]:
    """What is tried for a file, by name: options and threads. The default comes first.

    Args:
        path: the file, whose suffix tells its runtime.
        threads: of the default.
        weight_cache: a file for XNNPACK's packed weights.
    """
    options = _ONNXRUNTIME
    if path.suffix.lower() == ".ort":  # optimized when it was written
        options = {name: option for name, option in options.items() if option.graph_optimization == "all"}
    if path.suffix.lower() == ".tflite":
        options = {**_LITERT, WEIGHT_CACHE: RuntimeOptions(weight_cache=weight_cache)}
    counts = {2**power for power in range(available_cores().bit_length())} | {available_cores()}
    return (
        {DEFAULT: (DEFAULT_OPTIONS, threads)}
        | {name: (option, threads) for name, option in options.items()}
        | {f"{n} threads": (DEFAULT_OPTIONS, n) for n in sorted(counts - {threads}) if n <= available_cores()}
    )


def _try(subject: Subject, settings: BenchSettings, progress: Progress) -> FileOptions:
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder:
        cache = f"{folder}/xnnpack-weights"
        tried = variants(subject.path, settings.threads, cache)
        if WEIGHT_CACHE in tried:  # a first start fills it, those that are measured find it
            filling = Worker(replace(subject, options=tried[WEIGHT_CACHE][0]), settings.threads, 1, 0)
            filling.stop()
            filling.kill()
        return _measure(subject, tried, settings, progress)


def _measure(
    subject: Subject, tried: dict[str, tuple[RuntimeOptions, int]], settings: BenchSettings, progress: Progress
) -> FileOptions:
    measured = measure_watched(
        [replace(subject, name=name, options=one, threads=n) for name, (one, n) in tried.items()],
        settings,
        lambda what, done, total: progress(f"{subject.name}: {what}", done, total),
    )
    base = measured.measurements[0]
    found = tuple(
        Variant(
            item.name,
            tried[item.name][0],
            item,
            None if item is base else ratio_interval(base.samples_ms, item.samples_ms),
        )
        for item in measured.measurements
    )
    best = min(found, key=lambda variant: variant.measurement.latency_ms["p50"])
    if best.speedup is None:
        return FileOptions(subject.name, subject.sha256, found, best, None, 0, measured.notes)
    pair = [
        replace(subject, name=name, options=tried[name][0], threads=tried[name][1]) for name in (DEFAULT, best.name)
    ]
    again = measure_watched(
        pair, settings, lambda what, done, total: progress(f"{subject.name}, {best.name}: {what}", done, total)
    )
    confirmed = ratio_interval(*(item.samples_ms for item in again.measurements))
    notes = (*measured.notes, *(f"measured again: {note}" for note in again.notes))
    n = again.measurements[0].n
    return FileOptions(subject.name, subject.sha256, found, best, confirmed, n, notes)


def _records(result: OptionsResult) -> list[OptionsBench]:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    environment = OptionsEnvironment(machine=machine(), versions=versions())
    return [
        OptionsBench(
            name=file.name,
            sha256=file.sha256,
            created=created,
            environment=environment,
            settings=result.settings.as_record(),
            notes=file.notes,
            variants=tuple(_variant(variant) for variant in file.variants),
            best=BestVariant(
                name=file.best.name if file.better else DEFAULT,
                fastest=file.best.name,
                speedup_vs_default=None if file.confirmed is None else round(file.confirmed.value, 3),
                speedup_interval_95=None if file.confirmed is None else _ends(file.confirmed),
                n=file.confirmed_n,
            ),
        )
        for file in result.files
    ]


def _variant(variant: Variant) -> bench_json.Variant:
    return bench_json.Variant(
        **timing_of(variant.measurement),
        samples_ms=variant.measurement.samples_ms,
        # The cache's path was a temporary one.
        options=asdict(variant.options) | {"weight_cache": bool(variant.options.weight_cache)},
        speedup_vs_default=None if variant.speedup is None else round(variant.speedup.value, 3),
        speedup_interval_95=None if variant.speedup is None else _ends(variant.speedup),
    )


def _ends(interval: Interval) -> tuple[float, float]:
    return round(interval.low, 3), round(interval.high, 3)
