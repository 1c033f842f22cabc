"""Sections of `report.md` that show one file of the run each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tledge.types import Json


def recall_section(check: Json) -> list[str]:
    """How many images of each class every model names rightly."""
    names = ["reference", *(item["name"] for item in check["artefacts"])]
    recalls = [check["reference"]["recall"], *(item["recall"] for item in check["artefacts"])]
    rows = [(name, *("–" if r[name] is None else f"{r[name]:.3f}" for r in recalls)) for name in check["classes"]]
    return ["## Recall per class", "", *table(("class", *names), rows), ""]


def bench_section(bench: Json) -> list[str]:
    """Latency, load time and memory on this machine."""
    header = ("model", "p50 ms", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB", "model MB", "speed-up (95 %)")
    rows = [
        (
            item["name"],
            *(f"{item['latency_ms'][key]:.2f}" for key in ("p50", "p90", "p99")),
            f"{item['load_ms']:.1f}",
            f"{item['first_ms']:.1f}",
            f"{item['peak_rss_mb']:.0f}",
            f"{item['model_rss_mb']:.0f}",
            _speedup(item),
        )
        for item in bench["results"]
    ]
    explained = "Peak MB is the whole process; model MB is what loading and running added to the imported runtime."
    return ["## Latency and memory", "", *table(header, rows), "", explained, ""]


def _speedup(item: dict[str, Any]) -> str:
    if item["speedup_vs_keras"] is None:
        return "–"
    low, high = item["speedup_interval_95"]
    return f"{item['speedup_vs_keras']:.2f}x ({low:.2f}–{high:.2f})"


def artefact_section(sidecars: Sequence[Json]) -> list[str]:
    """What every exported file is."""
    rows = [
        (
            item["name"],
            f"{item['input']['dtype']} → {item['output']['dtype']}",
            f"{item['int8_op_share']:.2f}",
            f"{item['verification']['max_probability_difference']:.2g}",
            item["sha256"][:16],
        )
        for item in sidecars
    ]
    header = ("artefact", "input → output", "int8 share of ops", "max difference at export", "SHA-256")
    return ["## Artefacts", "", *table(header, rows), ""] if rows else []


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown, line by line."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *(line(row) for row in rows)]
