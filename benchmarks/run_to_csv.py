"""Turn finished runs into one CSV: `python benchmarks/run_to_csv.py RUN... > benchmarks/results/NAME.csv`.

Every line is one model of one run; units are in the column names. `check.json` and `bench.json` must be there.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

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


def lines(run: Path) -> list[list[object]]:
    """The lines of one run, the reference first."""
    manifest, check, bench = (json.loads((run / f"{name}.json").read_text()) for name in ("run", "check", "bench"))
    if not bench["results"]:  # only other machines were measured
        sys.exit(
            f"expected results of this machine in {run / 'bench.json'}, but there are none; run `tledge bench {run}`"
        )
    checked = {item["sha256"]: item for item in check["artefacts"]}
    machine, versions = bench["environment"]["machine"], bench["environment"]["versions"]
    result: list[list[object]] = []
    for item in bench["results"]:
        accuracy = checked.get(item["sha256"], check["reference"])
        latency = item["latency_ms"]
        result.append(
            [
                *(manifest[key] for key in ("technique", "head", "image_size_px", "seed")),
                item["name"],
                item["runtime"],
                {True: "pass", False: "FAIL"}.get(accuracy.get("passed"), "reference"),
                check["n"],
                accuracy["accuracy"],
                *accuracy["accuracy_interval_95"],
                accuracy.get("accuracy_drop", 0.0),
                accuracy.get("agreement", 1.0),
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
