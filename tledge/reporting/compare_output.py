"""A comparison of runs as Markdown and as JSON."""

from __future__ import annotations

from tledge.core.types import Json
from tledge.reporting.compare import COLUMNS, TARGET_COLUMNS, RunComparison
from tledge.reporting.sections import table


def as_markdown(result: RunComparison) -> str:
    """The tables and notes as Markdown."""
    lines = [f"# {' · '.join(result.runs)}", "", *table(COLUMNS, result.rows), ""]
    if result.target_rows:
        lines += ["## On other machines", "", *table(TARGET_COLUMNS, result.target_rows), ""]
    return "\n".join([*lines, *(f"- {note}" for note in result.notes), ""])


def as_json(result: RunComparison) -> Json:
    """All numbers, as the stages wrote them; `targets` holds the same for other machines."""
    return {
        "runs": list(result.runs),
        "accuracy_comparable": result.accuracy_comparable,
        "latency_comparable": result.latency_comparable,
        "notes": list(result.notes),
        "files": [
            {
                "name": file.name,
                "run": file.run,
                "size_bytes": file.size_bytes,
                "check": file.checked,
                "bench": _without_samples(file.measured),
                "targets": [
                    {"on": target["on"], "environment": target["environment"], **(_without_samples(item) or {})}
                    for target, item in file.targets
                ],
            }
            for file in result.files
        ],
    }


def _without_samples(item: Json | None) -> Json | None:
    return None if item is None else {key: value for key, value in item.items() if key != "samples_ms"}
