"""The part of `bench.json` that was measured on other machines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tledge.errors import RunError
from tledge.files import read_json, write_json
from tledge.rundir import RunDir
from tledge.types import Json


def read_targets(run: RunDir) -> list[Json]:
    """What was measured on other machines: `on`, `environment`, `verified`, `results` and more for each.

    Empty where there is no readable `bench.json`: the next one replaces it.
    """
    try:
        content = read_json(run.bench)
    except RunError:
        return []
    targets = content.get("targets", [])
    return [item for item in targets if isinstance(item, dict)] if isinstance(targets, list) else []


def write_targets(run: RunDir, measured: Sequence[Json]) -> None:
    """Put measurements of other machines into `bench.json`, each in the place of an older one of the same machine.

    What was measured on this machine stays; where nothing was, `results` is empty and `environment` and `settings` are
    null.

    Raises:
        RunError: there is a `bench.json` that cannot be read.
    """
    again = {item["on"] for item in measured}
    targets = [item for item in read_targets(run) if item.get("on") not in again]
    here: Json = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": None,
        "settings": None,
        "notes": [],
        "results": [],
    }
    content = read_json(run.bench) if run.bench.is_file() else here
    write_json(run.bench, {**content, "targets": [*targets, *measured]})
