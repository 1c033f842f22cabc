"""Files in a browser beside the same files here: `python benchmarks/browser.py RUN... > benchmarks/results/NAME.csv`.

Each run is measured in a headless Chromium and natively, with every number of threads, in turn. Every line is one file
on one side. `ratio` is p50 in the browser over p50 here, `ratio_of_least` the same of the least latencies, which other
work on the machine spoils less; `other_cores` says how many cores that kept busy. Intervals are 95 % bootstraps over
rounds.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import tledge
from tledge.core.environment import available_cores
from tledge.runs.bench_json import HostTiming, Measurement
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run

COLUMNS = (
    *("run", "image_size_px", "model", "size_bytes", "where", "runtime", "threads", "n_latency", "min_ms", "p50_ms"),
    *("p50_low_95", "p50_high_95", "p90_ms", "load_ms", "first_ms", "ratio", "ratio_of_least", "max_difference"),
    *("other_cores", "cpu", "versions"),
)
ROUNDS, SAMPLES = 5, 3


def main(runs: list[Path]) -> None:
    """Measure and print."""
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in runs:
        side = read_manifest(open_run(run)).image_size_px
        for threads in sorted({1, available_cores()}):
            (browser,) = tledge.bench_on(run, "browser", threads=threads, rounds=ROUNDS, samples=SAMPLES).hosts
            here = tledge.bench(run, threads=threads, rounds=ROUNDS, samples=SAMPLES)
            native = {item.sha256: item for item in here.measurements}
            environment = browser.entry.environment
            differences = {item.name: item.max_difference for item in browser.entry.verified or ()}
            rows = []
            for item in browser.entry.results:
                common = {"run": run.name, "image_size_px": side}
                local = native[item.sha256]
                rows.append(
                    common
                    | numbers(item)
                    | {
                        "where": "browser",
                        "ratio": f"{item.latency_ms['p50'] / local.latency_ms['p50']:.2f}",
                        "ratio_of_least": f"{item.latency_ms['min'] / local.latency_ms['min']:.2f}",
                        "max_difference": differences[item.name],
                        "other_cores": environment.other_cores,
                        "cpu": environment.machine.cpu,
                        "versions": " ".join(f"{name}-{version}" for name, version in environment.versions.items()),
                    }
                )
                busy = None if (seen := here.environment.conditions) is None else seen.other_cores
                of_here = {"where": "here", "other_cores": busy, "cpu": environment.machine.cpu}
                rows.append(common | numbers(local) | of_here)
            writer.writerows(rows)
            sys.stdout.flush()


def numbers(item: HostTiming | Measurement) -> dict[str, object]:
    """What both sides tell of a file."""
    low, high = item.p50_interval_95
    return {
        "model": item.name,
        "size_bytes": item.size_bytes,
        "runtime": item.runtime,
        "threads": item.threads,
        "n_latency": item.n,
        "min_ms": round(item.latency_ms["min"], 3),
        "p50_ms": round(item.latency_ms["p50"], 3),
        "p50_low_95": round(low, 3),
        "p50_high_95": round(high, 3),
        "p90_ms": None if item.latency_ms["p90"] is None else round(item.latency_ms["p90"], 3),
        "load_ms": item.load_ms,
        "first_ms": item.first_ms,
    }


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("expected runs, but got none; usage: python benchmarks/browser.py RUN...")
    main([Path(name) for name in sys.argv[1:]])
