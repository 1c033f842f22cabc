"""Sections of `report.md` that show one file of the run each."""

from __future__ import annotations

from collections.abc import Sequence

from tledge.conversion.sidecar import Sidecar
from tledge.core.escaping import markdown
from tledge.reporting.hosts import name_of
from tledge.reporting.markdown import section, table_lines
from tledge.reporting.rows import speedup
from tledge.reporting.tables import NOTHING, VERDICTS, Table, number, ratio, share, span
from tledge.runs.bench_json import BenchFile, Measurement
from tledge.runs.check_json import CheckFile


def recall_section(check: CheckFile) -> list[str]:
    """How many images of each class every model names rightly."""
    names = ["reference", *(item.name for item in check.artefacts)]
    recalls = [check.reference.recall, *(item.recall for item in check.artefacts)]
    rows = [(name, *(number(recall[name], 3) for recall in recalls)) for name in check.classes]
    return section("Recall per class", Table(("class", *names), rows))


def checked_hosts_section(check: CheckFile) -> list[str]:
    """The verdicts of answers that were given elsewhere, and how far these are from the answers here."""
    rows = [
        (
            name_of(host),
            item.name,
            VERDICTS[item.verdict],
            share(item.accuracy, *item.accuracy_interval_95),
            f"{item.accuracy_drop:+.3f}",
            f"{item.against_here.max_probability_difference:.2g}",
            str(item.against_here.other_class),
            item.against_here.reason or NOTHING,
        )
        for host in check.hosts
        for item in host.artefacts
    ]
    header = ("host", "file", "verdict", "accuracy (95 %)", "drop", "furthest from here", "other class", "why")
    explained = f"Answers to the same {check.n} images; the machines are in `check.json` under `hosts`."
    return section("Accuracy on other machines", Table(header, rows), explained) if rows else []


def bench_section(bench: BenchFile) -> list[str]:
    """Latency, load time and memory on this machine, a table for each setting that was measured."""
    explained = (
        "Peak MB is the whole process; model MB is what loading and running added to the imported runtime. "
        "Intervals are 95 % bootstraps over rounds."
    )
    if bench.environment and any(item.energy_j is not None for item in bench.results):
        explained += (
            f" Energy is that of the whole package or board, idle share included ({bench.environment.energy_source})."
        )
    lines = section("Latency and memory", _latency_table(bench.results), explained)
    for other in bench.other_settings:
        settings = other.settings
        lines += [f"### {settings.threads} threads, batch {settings.batch}", ""]
        lines += [*table_lines(_latency_table(other.results)), ""]
    return lines


def _latency_table(results: Sequence[Measurement]) -> Table:
    energy = any(item.energy_j is not None for item in results)
    header = ["model", "p50 ms", "p50 95 %", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB", "model MB"]
    header += ["J per inference"] if energy else []
    rows = [
        (
            item.name,
            f"{item.latency_ms['p50']:.2f}",
            span(*item.p50_interval_95),
            f"{item.latency_ms['p90']:.2f}",
            f"{item.latency_ms['p99']:.2f}",
            f"{item.load_ms:.1f}",
            f"{item.first_ms:.1f}",
            f"{item.peak_rss_mb:.0f}",
            f"{item.model_rss_mb:.0f}",
            *([number(item.energy_j, 4)] if energy else []),
            speedup(item),
        )
        for item in results
    ]
    return Table((*header, "speed-up (95 %)"), rows)


def options_section(everywhere: BenchFile | None, sidecars: Sequence[Sidecar]) -> list[str]:
    """Which runtime options suited each file of the run best, where that was tried."""
    current = {sidecar.sha256 for sidecar in sidecars}
    rows, notes = [], []
    for item in () if everywhere is None else everywhere.runtime_options:
        if item.sha256 not in current:
            continue
        notes += [f"- {markdown(f'{item.name}: {note}')}" for note in item.notes]
        best, settings = item.best, item.settings
        tried = ", ".join(variant.name for variant in item.variants[1:])
        gain = NOTHING
        if best.speedup_vs_default is not None and best.speedup_interval_95 is not None:
            gain = ratio(best.speedup_vs_default, *best.speedup_interval_95)
            gain += f", n = {best.n}" if best.name == best.fastest else f" with {best.fastest}"
        default = f"{settings.threads} threads, batch {settings.batch}"
        rows.append((item.name, default, tried, best.name, gain))
    if not rows:
        return []
    header = ("artefact", "default", "tried instead", "best", "over default, measured again (95 %)")
    explained = "A setting is named the best only where its whole interval is above 1; else the default stays."
    return [*section("Runtime options", Table(header, rows), explained), *notes, *([""] if notes else [])]


def artefact_section(sidecars: Sequence[Sidecar]) -> list[str]:
    """What every exported file is."""
    rows = [
        (
            item.name,
            f"{item.input.dtype} → {item.output.dtype}",
            f"{item.int8_op_share:.2f}",
            f"{item.verification.max_probability_difference:.2g}",
            item.sha256[:16],
        )
        for item in sidecars
    ]
    header = ("artefact", "input → output", "int8 share of ops", "max difference at export", "SHA-256")
    return section("Artefacts", Table(header, rows)) if rows else []
