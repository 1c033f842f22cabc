"""Runs side by side, or one run on several machines, from the files their stages wrote: accuracy, sizes, latency.

Numbers taken under other conditions carry a mark, and a note says what each mark stands for: what was measured on
another machine or on other images is never shown as if it could be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Literal

from tledge.core.errors import SettingsError
from tledge.reporting.hosts import kind_of, name_of
from tledge.reporting.rows import FileRow, rows_of
from tledge.reporting.tables import NOTHING, Table, megabytes, number
from tledge.runs.bench_json import BenchFile, HostBench, read_bench
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
HERE = "here"
_RUNTIMES = ("tensorflow", "keras", "ai-edge-litert", "onnxruntime")


@dataclass(frozen=True)
class ComparedFile:
    """One file of one of the runs, which `run` names.

    `images` and `conditions` say on what its accuracy, and where and how its latency was measured, "" where it was not.
    """

    run: str
    row: FileRow
    images: str
    conditions: str


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side; rows go file by file, and within a file in the order of the runs.

    `over` is "run", or "machine" where one run is compared over the machines that checked or measured it: then `title`
    names the run and `runs` the machines. `accuracy_comparable` and `latency_comparable` say whether all numbers were
    taken on the same images, and on the same machine with the same versions, threads and batch.
    """

    title: str
    over: Literal["run", "machine"]
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
        files = Table(tuple(self.over if name == "run" else name for name in COLUMNS), self.rows)
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
    """Put runs side by side, or one run as this machine and others checked and measured it.

    Raises:
        SettingsError: no run, one twice, or a single one that no other machine checked or measured.
        RunError, ArtefactError: a run or one of its files is missing or malformed.
    """
    resolved = [path.resolve() for path in run_paths]
    if not run_paths or len(set(resolved)) != len(resolved):
        raise SettingsError(
            f"expected two or more different runs, but got {', '.join(map(str, run_paths))}; name others"
        )
    if len(run_paths) == 1:
        return _over_machines(run_paths[0])
    names = _names(run_paths)
    parts = []
    for path, name in zip(run_paths, names, strict=True):
        run = open_run(path)
        parts.append(_whole(run, name, read_check(run.check), read_bench(run.bench)))
    return _compare(" · ".join(names), "run", parts)


@dataclass(frozen=True)
class _Part:
    """What is put side by side: a run, or a run on a machine.

    `images` and `conditions` are those of its check and its bench, "" where there was none.
    """

    name: str
    rows: Sequence[FileRow]
    images: str
    conditions: str
    reference: str
    notes: Sequence[str] = ()


def _whole(run: RunDir, name: str, check: CheckFile | None, everywhere: BenchFile | None) -> _Part:
    bench = everywhere if everywhere is not None and everywhere.results else None
    notes = [] if bench is None else [f"{name}: {note}." for note in bench.notes]
    for host in () if everywhere is None else everywhere.hosts:
        notes += [f"{name}, {name_of(host)}: {line}." for line in (*host.over_limits, *host.notes)]
    missing = [what for what, there in (("check", check), ("bench", bench)) if not there]
    notes += [f"{name}: not measured, run `tledge {what} {run.path}`." for what in missing]
    return _Part(
        name,
        rows_of(run, check, everywhere),
        "" if check is None else _data(check),
        "" if bench is None else _conditions(bench),
        read_manifest(run).reference_sha256,
        notes,
    )


def _over_machines(path: Path) -> RunComparison:
    run = open_run(path)
    check, bench = read_check(run.check), read_bench(run.bench)
    here = _whole(run, HERE, check, bench)
    found = _elsewhere(here, check, bench)
    if not found:
        raise SettingsError(
            f"expected two or more runs, or one that other machines checked or measured, but got {path}; measure it on "
            f"one, `tledge bench {path} --on HOST`, or name another run"
        )
    here = replace(here, notes=[note.removeprefix(f"{HERE}, ") for note in here.notes])
    return _compare(path.resolve().name, "machine", [here, *found])


def _elsewhere(here: _Part, check: CheckFile | None, bench: BenchFile | None) -> list[_Part]:
    """A part for each machine and number of threads that it measured with."""
    checked = {} if check is None else {name_of(host): host for host in check.hosts}
    measured = {} if bench is None else {name_of(host): host for host in bench.hosts}
    parts = []
    for name in dict.fromkeys((*checked, *measured)):
        answers = {item.sha256: item for item in checked[name].artefacts} if name in checked else {}
        host = measured.get(name)
        for threads in (None,) if host is None else host.settings.threads:
            results = () if host is None else host.results
            timings = {item.sha256: item for item in results if item.threads == threads}
            rows = [
                replace(
                    row, checked=answers.get(row.sidecar.sha256), measured=timings.get(row.sidecar.sha256), hosts=()
                )
                for row in here.rows
                if row.sidecar is not None and row.sidecar.sha256 in {**answers, **timings}
            ]
            parts.append(
                _Part(
                    name if threads is None else f"{name}, {threads} threads",
                    rows,
                    here.images if answers else "",
                    "" if host is None or threads is None else _conditions_there(host, threads),
                    here.reference,
                )
            )
    return [part for part in parts if part.rows]


def _compare(title: str, over: Literal["run", "machine"], parts: Sequence[_Part]) -> RunComparison:
    found: dict[str, list[ComparedFile]] = {}
    data, machines = _Marks([str(n) for n in range(1, 10)]), _Marks(ascii_uppercase)
    for part in parts:
        if part.images:
            data.of(part.images)
        if part.conditions:
            machines.of(part.conditions)
        for row in part.rows:
            found.setdefault(row.name, []).append(ComparedFile(part.name, row, part.images, part.conditions))
    files = tuple(file for several in found.values() for file in several)
    rows = tuple(_row(file, data, machines) for file in files)
    heads = ["Accuracy: top-1, Wilson interval, 95 %; drop is the run's own reference minus the file."]
    if len(data.met) > 1:
        heads.append("Accuracies were measured on DIFFERENT images and cannot be compared across marks:")
    heads += data.notes("measured on")
    if len(machines.met) > 1 and over == "run":
        heads.append("Latencies were measured under DIFFERENT conditions and cannot be compared across marks:")
    heads += machines.notes("measured on")
    if len(machines.met) == 1:
        heads.append(f"Latency: {machines.met[0]}; each run at its own time, so compare speed-ups before p50.")
    if len({part.reference for part in parts}) > 1:
        heads.append("The runs have different references: drops and speed-ups are each against their own.")
    return RunComparison(
        title=title,
        over=over,
        runs=tuple(part.name for part in parts),
        files=files,
        rows=rows,
        host_rows=tuple(row for file in files for row in _host_rows(file)) if over == "run" else (),
        accuracy_comparable=len(data.met) < 2,
        latency_comparable=len(machines.met) < 2,
        notes=(*heads, *(note for part in parts for note in part.notes)),
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


def _conditions_there(host: HostBench, threads: int) -> str:
    machine = host.environment.machine
    versions = ", ".join(f"{name} {version}" for name, version in host.environment.versions.items())
    return (
        f"{kind_of(host, ', ')}, {machine.cores} cores, {machine.system}; {threads} threads, "
        f"batch {host.settings.batch}; {versions}"
    )


def _row(file: ComparedFile, data: _Marks, machines: _Marks) -> tuple[str, ...]:
    row = file.row
    return (
        row.name,
        file.run,
        row.status if row.checked is not None else NOTHING,
        data.shown(row.accuracy, file.images),
        NOTHING if row.checked is None else str(row.checked.n),
        row.drop,
        megabytes(row.size_bytes, 2),
        machines.shown(row.p50_ms(2), file.conditions),
        machines.shown(row.speedup_with_interval, file.conditions),
    )


def _host_rows(file: ComparedFile) -> list[tuple[str, ...]]:
    rows = []
    for host, item in file.row.hosts:
        shown = (number(item.latency_ms[key], 2) for key in ("p50", "p90"))
        rows.append((file.row.name, file.run, f"{name_of(host)} ({kind_of(host, ', ')})", str(item.threads), *shown))
    return rows
