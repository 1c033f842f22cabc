"""The CSV of a run says what its check said, of every file that was measured."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "run_to_csv.py"
SHARE = {"accuracy": 0.9, "accuracy_interval_95": [0.8, 0.95]}


def checked(name: str, verdict: str) -> dict[str, Any]:
    return {"sha256": f"of {name}", "verdict": verdict, "passed": False, "accuracy_drop": 0.1, "agreement": 0.9} | SHARE


def measured(name: str) -> dict[str, Any]:
    latency = {"latency_ms": {"p50": 1, "p90": 2, "p99": 3}, "load_ms": 1, "first_ms": 1, "peak_rss_mb": 1}
    speed = {"speedup_vs_keras": 2, "speedup_interval_95": [1, 3], "size_bytes": 9, "n": 50, "threads": 2, "batch": 1}
    return {"sha256": f"of {name}", "name": name, "runtime": "litert"} | latency | speed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    check = {"n": 33, "reference_sha256": "of keras", "reference": SHARE}
    artefacts = [checked("few", "undecided"), checked("bad", "fail"), checked("good", "pass")]
    versions = dict.fromkeys(("tensorflow", "ai-edge-litert", "onnxruntime"), "1")
    environment = {"machine": {"cpu": "c", "cpu_flags": ["avx"]}, "versions": versions}
    results = [measured(name) for name in ("keras", "few", "bad", "good")]
    contents = {
        "run": {"technique": "freeze", "head": "gap", "image_size_px": 224, "seed": 0},
        "check": check | {"artefacts": artefacts},
        "bench": {"environment": environment, "results": results},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def written(run: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(run)], capture_output=True, text=True, check=False)


def test_status_is_the_verdict(run: Path) -> None:
    rows = {row["model"]: row for row in csv.DictReader(written(run).stdout.splitlines())}
    assert {name: row["status"] for name, row in rows.items()} == {
        "keras": "reference",
        "few": "undecided",
        "bad": "fail",
        "good": "pass",
    }
    assert [rows[name]["accuracy_drop"] for name in ("keras", "few")] == ["0.0", "0.1"]


def test_a_file_that_was_not_checked_is_no_reference(run: Path) -> None:
    check = json.loads((run / "check.json").read_text())
    check["artefacts"].pop()
    (run / "check.json").write_text(json.dumps(check))
    done = written(run)
    assert done.returncode != 0
    assert "good was not checked" in done.stderr
