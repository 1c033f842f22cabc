"""The part of `bench.json` that was measured on other machines."""

from __future__ import annotations

from collections.abc import Sequence

from tledge.benchmark.bench_json import read_part, write_part
from tledge.core.types import Json
from tledge.runs.rundir import RunDir


def read_targets(run: RunDir) -> list[Json]:
    """What was measured on other machines: `on`, `environment`, `verified`, `results` and more for each.

    Empty where there is no readable `bench.json`: the next one replaces it.
    """
    return read_part(run, "targets")


def write_targets(run: RunDir, measured: Sequence[Json]) -> None:
    """Put measurements of other machines into `bench.json`, each in the place of an older one of the same machine.

    What was measured on this machine stays.

    Raises:
        RunError: there is a `bench.json` that cannot be read.
    """
    again = {item["on"] for item in measured}
    write_part(run, "targets", [*(item for item in read_targets(run) if item.get("on") not in again), *measured])
