"""Runs side by side, from the files their stages wrote: accuracy, sizes, latency here and on other machines.

Numbers taken under other conditions carry a mark, and a note says what each mark stands for: what was measured on
another machine or on other images is never shown as if it could be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase

from tledge.core.errors import SettingsError
from tledge.reporting.hosts import kind_of, name_of
from tledge.reporting.rows import FileRow, rows_of
from tledge.reporting.tables import NOTHING, Table, megabytes, number
from tledge.runs.bench_json import BenchFile, read_bench
from tledge.runs.check_json import CheckFile, read_check
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir, open_run

COLUMNS = (
    "file",
    "run",
    "verdict",
    "accuracy (95 %)",
    "n",
    "drop",
    "size MB",
    "p50 ms",
    "speed-up (95 %)",
)
HOST_COLUMNS = ("file", "run", "machine", "threads", "p50 ms", "p90 ms")
_RUNTIMES = ("tensorflow", "keras", "ai-edge-litert", "onnxruntime")


@dataclass(frozen=True)
class ComparedFile:
    """One file of one of the runs, which `run` names."""

    run: str
    row: FileRow


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side; rows go file by file, and within a file in the order of the runs.

    `accuracy_comparable` and `latency_comparable` say whether all numbers were taken on the same images, and on the
    same machine with the same versions, threads and batch.
    """

    runs: tuple[str, ...]
    files: tuple[ComparedFile, ...]
    rows: tuple[tuple[str, ...], ...]
    host_rows: tuple[tuple[str, ...], ...]
    accuracy_comparable: bool
    latency_comparable: bool
    notes: tuple[str, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """What the stages know of every file, and, where other machines measured, what these know."""
        files = Table(COLUMNS, self.rows)
        return (files, Table(HOST_COLUMNS, self.host_rows, "On other machines")) if self.host_rows else (files,)


@dataclass
class _Marks:
    """Letters or numbers for the different conditions that occur, in the order in which they are met."""

    signs: Sequence[str]
    met: list[str] = field(default_factory=list)

    def of(self, condition: str) -> str:
        """The sign of a condition."""
        if condition not in self.met:
            self.met.append(condition)
        place = self.met.index(condition)
        return self.signs[place] if place < len(self.signs) else str(place + 1)

    def shown(self, text: str, condition: str) -> str:
        """A number with its sign, where there are several conditions."""
        return f"{text} [{self.of(condition)}]" if len(self.met) > 1 and text != NOTHING else text

    def notes(self, what: str) -> list[str]:
        """What each sign stands for; nothing where all is the same."""
        if len(self.met) < 2:
            return []
        return [f"[{self.of(condition)}] {what} {condition}." for condition in self.met]


def compare_runs(*run_paths: Path) -> RunComparison:
    """Put runs side by side.

    Raises:
        SettingsError: fewer than two runs, or one twice.
        RunError, ArtefactError: a run or one of its files is missing or malformed.
    """
    resolved = [path.resolve() for path in run_paths]
    if len(run_paths) < 2 or len(set(resolved)) != len(resolved):
        raise SettingsError(
            f"expected two or more different runs, but got {', '.join(map(str, run_paths))}; name others"
        )
    runs = [open_run(path) for path in run_paths]
    names = _names(run_paths)
    return _compare(runs, names)


def _compare(runs: Sequence[RunDir], names: Sequence[str]) -> RunComparison:
    found: dict[str, list[ComparedFile]] = {}
    data, machines = _Marks([str(n) for n in range(1, 10)]), _Marks(ascii_uppercase)
    conditions: dict[str, tuple[str, str]] = {}
    notes: list[str] = []
    references = set()
    for run, name in zip(runs, names, strict=True):
        references.add(read_manifest(run).reference_sha256)
        check = read_check(run.check)
        everywhere = read_bench(run.bench)
        bench = everywhere if everywhere is not None and everywhere.results else None
        conditions[name] = ("" if check is None else _data(check), "" if bench is None else _conditions(bench))
        if check is not None:
            data.of(conditions[name][0])
        if bench is not None:
            machines.of(conditions[name][1])
            notes += [f"{name}: {note}." for note in bench.notes]
        for host in () if everywhere is None else everywhere.hosts:
            notes += [f"{name}, {name_of(host)}: {line}." for line in (*host.over_limits, *host.notes)]
        missing = [what for what, there in (("check", check), ("bench", bench)) if not there]
        notes += [f"{name}: not measured, run `tledge {what} {run.path}`." for what in missing]
        for row in rows_of(run, check, everywhere):
            found.setdefault(row.name, []).append(ComparedFile(name, row))
    files = tuple(file for several in found.values() for file in several)
    rows = tuple(_row(file, *conditions[file.run], data, machines) for file in files)
    heads = ["Accuracy: top-1, Wilson interval, 95 %; drop is the run's own reference minus the file."]
    if len(data.met) > 1:
        heads.append("Accuracies were measured on DIFFERENT images and cannot be compared across marks:")
    heads += data.notes("measured on")
    if len(machines.met) > 1:
        heads.append("Latencies were measured under DIFFERENT conditions and cannot be compared across marks:")
    heads += machines.notes("measured on")
    if len(machines.met) == 1:
        heads.append(f"Latency: {machines.met[0]}; each run at its own time, so compare speed-ups before p50.")
    if len(references) > 1:
        heads.append("The runs have different references: drops and speed-ups are each against their own.")
    return RunComparison(
        runs=tuple(names),
        files=files,
        rows=rows,
        host_rows=tuple(row for file in files for row in _host_rows(file)),
        accuracy_comparable=len(data.met) < 2,
        latency_comparable=len(machines.met) < 2,
        notes=(*heads, *notes),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    short = [path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _data(check: CheckFile) -> str:
    return f"{check.n} images of {len(check.classes)} classes, fingerprint {check.data_fingerprint[:12]}"


def _conditions(bench: BenchFile) -> str:
    if bench.environment is None or bench.settings is None:
        return ""
    machine, versions, settings = bench.environment.machine, bench.environment.versions, bench.settings
    computing = [settings.provider] if settings.provider in versions else []
    runtimes = ", ".join(f"{name} {versions[name]}" for name in (*_RUNTIMES, *computing) if name in versions)
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.system}; {settings.threads} threads, batch {settings.batch}"
        f"{f', provider {settings.provider}' if settings.provider else ''}; {runtimes}"
    )


def _row(file: ComparedFile, data_key: str, machine_key: str, data: _Marks, machines: _Marks) -> tuple[str, ...]:
    row = file.row
    return (
        row.name,
        file.run,
        row.status if row.checked is not None else NOTHING,
        data.shown(row.accuracy, data_key),
        NOTHING if row.checked is None else str(row.checked.n),
        row.drop,
        megabytes(row.size_bytes, 2),
        machines.shown(row.p50_ms(2), machine_key),
        machines.shown(row.speedup_with_interval, machine_key),
    )


def _host_rows(file: ComparedFile) -> list[tuple[str, ...]]:
    rows = []
    for host, item in file.row.hosts:
        shown = (number(item.latency_ms[key], 2) for key in ("p50", "p90"))
        rows.append((file.row.name, file.run, f"{name_of(host)} ({kind_of(host, ', ')})", str(item.threads), *shown))
    return rows
