"""Latencies on this machine and on others, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from tledge.conversion.sidecar import Sidecar
from tledge.reporting.markdown import section
from tledge.reporting.tables import NOTHING, Table
from tledge.runs.bench_json import BenchFile, HostBench, HostTiming, Measurement
from tledge.runs.check_json import CheckedHost


def host_table(bench: BenchFile | None, sidecars: Sequence[Sidecar]) -> Table | None:
    """p50 in milliseconds: a line per artefact, columns for this machine and, per thread count, for others.

    None where no other machine was measured.
    Files are matched by SHA-256: what was measured before a new export is not shown.
    """
    if bench is None or not bench.hosts:
        return None
    header, columns = ["artefact"], []
    if bench.settings is not None and bench.results:
        header.append(f"here, {bench.settings.threads} threads")
        columns.append(_p50_ms(bench.results))
    for host in bench.hosts:
        for threads in host.settings.threads:
            header.append(f"{name_of(host)}, {threads} threads")
            columns.append(_p50_ms([item for item in host.results if item.threads == threads]))
    rows = tuple((sidecar.name, *(column.get(sidecar.sha256, NOTHING) for column in columns)) for sidecar in sidecars)
    return Table(tuple(header), rows, "p50 ms here and there")


def host_notes(bench: BenchFile | None, sidecars: Sequence[Sidecar]) -> list[str]:
    """What a reader should know about each machine's numbers."""
    notes = []
    current = {sidecar.sha256 for sidecar in sidecars}
    for host in () if bench is None else bench.hosts:
        name, settings = name_of(host), host.settings
        n = settings.rounds * settings.samples
        notes.append(f"{name}: {kind_of(host, ' · ')}; n = {n} in {settings.rounds} rounds, {host.created}.")
        notes += [f"{name}: {item.name} was not measured, {item.reason}." for item in host.skipped]
        notes += [f"{name}: {line}." for line in (*host.over_limits, *host.notes)]
        if any(item.sha256 not in current for item in host.results):
            notes.append(f"{name}: some of its files are no longer the run's; run `tledge bench --on {host.on}`.")
    return notes


def host_section(shown: Table) -> list[str]:
    """The table as a section of `report.md`."""
    explained = "p50 in ms, batch 1; each machine's conditions are in `bench.json` under `hosts`."
    return section("Latency here and on other machines", shown, explained)


def name_of(host: HostBench | CheckedHost) -> str:
    """How a machine is named in tables."""
    return host.on.removeprefix("ssh://")


def kind_of(host: HostBench, between: str) -> str:
    """Board, processor and architecture, as far as the machine told."""
    machine = host.environment.machine
    return between.join(part for part in (machine.board, machine.cpu, machine.architecture) if part)


def _p50_ms(results: Sequence[Measurement | HostTiming]) -> dict[str, str]:
    return {item.sha256: f"{item.latency_ms['p50']:.2f}" for item in results}
