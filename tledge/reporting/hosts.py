"""Latencies on this machine and on others, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tledge.core.types import Json
from tledge.reporting.sections import table


@dataclass(frozen=True)
class TargetTable:
    """p50 in milliseconds: a line per artefact, columns for this machine and, per thread count, for others."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def target_table(bench: Json, sidecars: Sequence[Json]) -> TargetTable | None:
    """The table, None where no other machine was measured.

    Files are matched by SHA-256: what was measured before a new export is not shown.

    Raises:
        KeyError, TypeError: `bench` is not what the stages write.
    """
    targets = bench.get("targets", [])
    if not targets:
        return None
    header, columns = ["artefact"], []
    if bench["results"]:
        header.append(f"here, {bench['settings']['threads']} threads")
        columns.append(_p50_ms(bench["results"]))
    for target in targets:
        for threads in target["settings"]["threads"]:
            header.append(f"{name_of(target)}, {threads} threads")
            columns.append(_p50_ms([item for item in target["results"] if item["threads"] == threads]))
    rows = tuple((sidecar["name"], *(column.get(sidecar["sha256"], "–") for column in columns)) for sidecar in sidecars)
    return TargetTable(tuple(header), rows)


def target_notes(bench: Json, sidecars: Sequence[Json]) -> list[str]:
    """What a reader should know about each machine's numbers."""
    notes = []
    current = {sidecar["sha256"] for sidecar in sidecars}
    for target in bench.get("targets", []):
        name, settings, machine = name_of(target), target["settings"], target["environment"]["machine"]
        what = " · ".join(str(part) for part in (machine["board"], machine["cpu"], machine["architecture"]) if part)
        n = settings["rounds"] * settings["samples"]
        notes.append(f"{name}: {what}; n = {n} in {settings['rounds']} rounds, {target['created']}.")
        notes += [f"{name}: {item['name']} was not measured, {item['reason']}." for item in target["skipped"]]
        notes += [f"{name}: {line}." for line in (*target["over_limits"], *target.get("notes", ()))]
        if any(item["sha256"] not in current for item in target["results"]):
            notes.append(f"{name}: some of its files are no longer the run's; run `tledge bench --on {target['on']}`.")
    return notes


def target_section(shown: TargetTable) -> list[str]:
    """The table as a section of `report.md`."""
    explained = "p50 in ms, batch 1; each machine's conditions are in `bench.json` under `targets`."
    return ["## Latency here and on targets", "", *table(shown.header, shown.rows), "", explained, ""]


def name_of(target: Json) -> str:
    """How a machine is named in tables."""
    return str(target["on"]).removeprefix("ssh://")


def _p50_ms(results: Sequence[Json]) -> dict[str, str]:
    return {item["sha256"]: f"{item['latency_ms']['p50']:.2f}" for item in results}
