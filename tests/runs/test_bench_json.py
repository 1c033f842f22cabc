"""bench.json of an older version is read under today's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tledge.core.errors import RunError
from tledge.runs.bench_json import read_bench, write_hosts
from tledge.runs.rundir import RunDir

CONDITION = dict.fromkeys(
    ("governor", "frequency_mhz", "temperature_c", "throttled_flags", "throttle_count", "cooling_state")
)
MACHINE = {"board": None, "cpu": "c", "cpu_flags": [], "architecture": "a", "cores": 4, "memory_gb": 8, "system": "s"}
HOST = {
    "on": "ssh://pi@board",
    "created": "2026-11-26T12:00:00+00:00",
    "environment": {"machine": MACHINE, "versions": {}, "before": CONDITION, "after": CONDITION, "other_cores": None},
    "settings": {"batch": 1, "rounds": 2, "samples": 2, "warmup": 1, "threads": [1], "target": None},
    "verified": [],
    "skipped": [],
    "over_limits": [],
    "notes": [],
    "results": [],
}
OLD = {"created": "", "environment": None, "settings": None, "notes": [], "results": [], "targets": [HOST]}


def test_what_were_targets_are_hosts(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.bench.write_text(json.dumps(OLD))
    found = read_bench(run.bench)
    assert found is not None
    assert [host.on for host in found.hosts] == ["ssh://pi@board"]
    write_hosts(run, found.hosts)
    written = json.loads(run.bench.read_text())
    assert written["schema_version"] == 1
    assert written["hosts"] == [HOST]
    assert "targets" not in written
    assert read_bench(run.bench) == found


def test_a_host_in_another_form_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.bench.write_text(json.dumps(OLD | {"targets": [HOST, HOST | {"settings": None}]}))
    with pytest.raises(RunError, match=r"expected hosts\[1\]\.settings as an object in .*, but got null; run"):
        write_hosts(run, ())
