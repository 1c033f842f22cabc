"""How long `tledge --help` takes, against starting Python alone: `python benchmarks/startup.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 15


def median_s(*command: str) -> float:
    """Median wall time of a command in seconds, after one run that does not count."""
    times = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    """Print both medians."""
    bare = median_s(sys.executable, "-c", "pass")
    shown = median_s(sys.executable, "-m", "tledge", "--help")
    print(f"python: {bare:.3f} s, tledge --help: {shown:.3f} s, n = {RUNS}")


if __name__ == "__main__":
    main()
