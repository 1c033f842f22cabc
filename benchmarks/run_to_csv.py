"""Turn finished runs into one CSV: `python benchmarks/run_to_csv.py RUN... > benchmarks/results/NAME.csv`.

Every line is one model of one run; units are in the column names. `bench.json` must be there, and `check.json` about
every file that was measured. `status` is the verdict of the check: pass, fail, undecided (too few images to tell), or
reference.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = (
    "technique",
    "head",
    "image_size_px",
    "seed",
    "model",
    "runtime",
    "status",
    "n_images",
    "accuracy",
    "accuracy_low_95",
    "accuracy_high_95",
    "accuracy_drop",
    "agreement",
    "size_bytes",
    "n_latency",
    "threads",
    "batch",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "load_ms",
    "first_ms",
    "peak_rss_mb",
    "speedup_vs_keras",
    "speedup_low_95",
    "speedup_high_95",
    "cpu",
    "cpu_flags",
    "tensorflow",
    "litert",
    "onnxruntime",
)


def accuracies(run: Path, check: dict[str, Any], bench: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the check says of every measured model, by its SHA-256."""
    if not bench["results"]:  # only other machines were measured
        sys.exit(
            f"expected results of this machine in {run / 'bench.json'}, but there are none; run `tledge bench {run}`"
        )
    of_itself = {"verdict": "reference", "accuracy_drop": 0.0, "agreement": 1.0}
    found = {item["sha256"]: item for item in check["artefacts"]}
    found[check["reference_sha256"]] = {**check["reference"], **of_itself}
    if missing := [item["name"] for item in bench["results"] if item["sha256"] not in found]:
        sys.exit(
            f"expected every measured file in {run / 'check.json'}, but {', '.join(missing)} was not checked; "
            f"run `tledge check {run}`"
        )
    return found


def lines(run: Path) -> list[list[object]]:
    """The lines of one run, the reference first."""
    manifest, check, bench = (json.loads((run / f"{name}.json").read_text()) for name in ("run", "check", "bench"))
    checked = accuracies(run, check, bench)
    machine, versions = bench["environment"]["machine"], bench["environment"]["versions"]
    result: list[list[object]] = []
    for item in bench["results"]:
        accuracy = checked[item["sha256"]]
        latency = item["latency_ms"]
        result.append(
            [
                *(manifest[key] for key in ("technique", "head", "image_size_px", "seed")),
                item["name"],
                item["runtime"],
                accuracy["verdict"],
                check["n"],
                accuracy["accuracy"],
                *accuracy["accuracy_interval_95"],
                accuracy["accuracy_drop"],
                accuracy["agreement"],
                *(item[key] for key in ("size_bytes", "n", "threads", "batch")),
                *(latency[key] for key in ("p50", "p90", "p99")),
                *(item[key] for key in ("load_ms", "first_ms", "peak_rss_mb", "speedup_vs_keras")),
                *item["speedup_interval_95"],
                machine["cpu"],
                " ".join(machine["cpu_flags"]),
                *(versions[key] for key in ("tensorflow", "ai-edge-litert", "onnxruntime")),
            ]
        )
    return result


def main() -> None:
    """Write the lines of all runs named on the command line to stdout."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in sys.argv[1:]:
        writer.writerows(lines(Path(run)))


if __name__ == "__main__":
    main()
