"""The parts of `bench.json` that a bench on this machine keeps, and that are written without one."""

from __future__ import annotations

from datetime import UTC, datetime

from tledge.core.errors import RunError
from tledge.core.files import read_json, write_json
from tledge.core.types import Json
from tledge.runs.rundir import RunDir

PARTS = ("targets", "runtime_options")


def read_part(run: RunDir, part: str) -> list[Json]:
    """One of `PARTS`, a list of objects; empty where there is no readable `bench.json`: the next one replaces it."""
    try:
        content = read_json(run.bench)
    except RunError:
        return []
    items = content.get(part, [])
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def kept_parts(run: RunDir) -> Json:
    """All of `PARTS`, as a new `bench.json` takes them over."""
    return {part: read_part(run, part) for part in PARTS}


def write_part(run: RunDir, part: str, items: list[Json]) -> None:
    """Replace one of `PARTS`; all else stays.

    Where this machine measured nothing yet, `results` is empty and `environment` and `settings` are null.

    Raises:
        RunError: there is a `bench.json` that cannot be read.
    """
    here: Json = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": None,
        "settings": None,
        "notes": [],
        "results": [],
    }
    content = read_json(run.bench) if run.bench.is_file() else here
    write_json(run.bench, {**content, part: items})
