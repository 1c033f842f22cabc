"""Latency of any model files, also not made by tledge, side by side: the first one is the base of the ratios."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from tledge.benchmark.conditions import background_load
from tledge.benchmark.measure import Measured, Subject, measure_watched
from tledge.benchmark.settings import ALL_CORES, BenchGrid, BenchSettings
from tledge.core.environment import machine, versions
from tledge.core.errors import ArtefactError, SettingsError
from tledge.core.files import sha256_file
from tledge.core.progress import Progress, silent
from tledge.core.records import Document, Record, write_record
from tledge.runs.bench_json import Conditions, Environment, HowMeasured, Measurement, Timing, timing_of
from tledge.runtimes.files import require_openable
from tledge.runtimes.providers import as_text
from tledge.runtimes.registry import SUFFIXES
from tledge.stats.intervals import Interval
from tledge.stats.latency import ratio_interval

_WORKER = ("-P", "-m", "tledge.benchmark.worker", "--tensors")


class FileTiming(Timing, frozen=True, kw_only=True):
    """One file; `speedup_vs_base` is the base's p50 over its own, None for the base itself."""

    samples_ms: tuple[tuple[float, ...], ...]
    speedup_vs_base: float | None
    speedup_interval_95: tuple[float, float] | None


class FilesSetting(Record, frozen=True, kw_only=True):
    """What was measured with one setting; `base` is the first file, which the others are compared with."""

    settings: HowMeasured
    conditions: Conditions
    base: str
    results: tuple[FileTiming, ...]


class FilesBenchFile(Document, frozen=True, kw_only=True):
    """The JSON of a bench of files."""

    REMEDY: ClassVar[str] = "run `tledge bench` again"

    created: str
    environment: Environment
    notes: tuple[str, ...]
    benches: tuple[FilesSetting, ...]


@dataclass(frozen=True)
class FileMeasurement:
    """One file; `speedup` is the base's p50 over its own, 95 % bootstrap over rounds, None for the base itself."""

    measurement: Measurement
    speedup: Interval | None


@dataclass(frozen=True)
class FilesBench:
    """What was measured with one setting; the base comes first."""

    settings: BenchSettings
    files: tuple[FileMeasurement, ...]
    conditions: Conditions


@dataclass(frozen=True)
class FilesBenchResult:
    """All settings in the order they were asked for; `notes` say what a reader should know about the numbers."""

    environment: Environment
    benches: tuple[FilesBench, ...]
    notes: tuple[str, ...]


def bench_files(
    files: Sequence[Path],
    settings: BenchGrid = ALL_CORES,
    *,
    out: Path | None = None,
    progress: Progress = silent,
) -> FilesBenchResult:
    """Measure model files on random input.

    Args:
        files: .tflite, .onnx, .ort and .keras files with any number of inputs; only the batch may be open.
        settings: how to measure.
        out: a JSON file to write, replaced if it is there.
        progress: called with (what, parts done, parts in all).

    Raises:
        SettingsError: a file twice, or `out` is no place for a file.
        SettingsError, MissingDependencyError: a provider that nobody knows, or that is not there.
        ArtefactError: a file is missing, of another kind, or its runtime refuses it; a provider does not fit it or
            takes nothing of it.
    """
    wanted = settings.each()
    _require_files(files)
    if out is not None:
        require_json_place(out)
    subjects = [
        Subject(str(path), path, _precision(path), sha256_file(path), worker=_WORKER).given_to(settings.provider)
        for path in files
    ]
    busy_cores, notes = background_load()
    notes += [f"{one.name}: {as_text(one.computed)}" for one in subjects if one.computed]
    where, installed = machine(), versions()
    benches, source = [], None
    for setting in wanted:
        measured = measure_watched(subjects, setting, progress)
        source = source or measured.energy_source
        prefix = f"{setting.threads} threads, batch {setting.batch}: " if len(wanted) > 1 else ""
        notes += [prefix + note for note in measured.notes]
        benches.append(FilesBench(measured.settings, _against_first(measured), measured.conditions))
    environment = Environment(
        machine=where, versions=installed, busy_cores_before=round(busy_cores, 2), energy_source=source
    )
    result = FilesBenchResult(environment, tuple(benches), tuple(notes))
    if out is not None:
        write_record(out, _record(result))
    return result


def require_json_place(out: Path) -> None:
    """Check, before slow work, that a JSON file can be written.

    Raises:
        SettingsError: it is a directory, or its folder is missing or read-only.
    """
    folder = out.absolute().parent
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(f"expected a place for a JSON file, but got {out}; choose another path")


def _require_files(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise ArtefactError(
                f"expected model files ({', '.join(SUFFIXES)}) or one run, but got {path}; check the path"
            )
        require_openable(path)
    resolved = [path.resolve() for path in paths]
    if not paths or len(set(resolved)) != len(resolved):
        raise SettingsError(f"expected each file once, but got {', '.join(map(str, paths)) or 'none'}; drop one")


def _precision(path: Path) -> str:
    """What a file without a description computes in is not guessed."""
    return "float32" if path.suffix.lower() in (".keras", ".h5", ".hdf5") else "unknown"


def _against_first(measured: Measured) -> tuple[FileMeasurement, ...]:
    base, *others = measured.measurements
    return (
        FileMeasurement(base, None),
        *(FileMeasurement(other, ratio_interval(base.samples_ms, other.samples_ms)) for other in others),
    )


def _record(result: FilesBenchResult) -> FilesBenchFile:
    return FilesBenchFile(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=result.environment,
        notes=result.notes,
        benches=tuple(
            FilesSetting(
                settings=bench.settings.as_record(),
                conditions=bench.conditions,
                base=bench.files[0].measurement.name,
                results=tuple(_file_record(file) for file in bench.files),
            )
            for bench in result.benches
        ),
    )


def _file_record(file: FileMeasurement) -> FileTiming:
    speedup = file.speedup
    return FileTiming(
        **timing_of(file.measurement),
        samples_ms=file.measurement.samples_ms,
        speedup_vs_base=None if speedup is None else round(speedup.value, 3),
        speedup_interval_95=None if speedup is None else (round(speedup.low, 3), round(speedup.high, 3)),
    )
