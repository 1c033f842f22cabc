"""A comparison of runs as Markdown and as JSON."""

from __future__ import annotations

from tledge.core.escaping import markdown
from tledge.core.records import plain
from tledge.core.types import Json
from tledge.reporting.compare import RunComparison
from tledge.reporting.markdown import section, table_lines
from tledge.runs.bench_json import HostTiming, Measurement


def as_markdown(result: RunComparison) -> str:
    """The tables and notes as Markdown."""
    files, *others = result.tables
    lines = [f"# {markdown(result.title)}", "", *table_lines(files), ""]
    for table in others:
        lines += section(table.title, table)
    return "\n".join([*lines, *(f"- {markdown(note)}" for note in result.notes), ""])


def as_json(result: RunComparison) -> Json:
    """All numbers, as the stages wrote them; `hosts` holds the same for other machines."""
    return {
        "over": result.over,
        "runs": list(result.runs),
        "accuracy_comparable": result.accuracy_comparable,
        "latency_comparable": result.latency_comparable,
        "notes": list(result.notes),
        "files": [
            {
                "name": file.row.name,
                "run": file.run,
                "size_bytes": file.row.size_bytes,
                "check": None if file.row.checked is None else plain(file.row.checked),
                "bench": None if file.row.measured is None else _without_samples(file.row.measured),
                "hosts": [
                    {"on": host.on, "environment": plain(host.environment), **_without_samples(item)}
                    for host, item in file.row.hosts
                ],
            }
            for file in result.files
        ],
    }


def _without_samples(item: Measurement | HostTiming) -> Json:
    return {key: value for key, value in plain(item).items() if key != "samples_ms"}
