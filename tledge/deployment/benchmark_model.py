"""What Google's benchmark_model prints about one TFLite file, and what several launches of it come to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tledge.core.errors import RemoteError
from tledge.core.types import Json
from tledge.stats.latency import median_interval

_STATISTICS = re.compile(r"\bcount=\d+ .*")
_PAIR = re.compile(r"(\w+)=([0-9.eE+-]+)")
_TIMINGS = re.compile(r"Inference timings in us: Init: ([0-9.eE+-]+), First inference: ([0-9.eE+-]+)")
_MEMORY = re.compile(r"Memory footprint delta[^\n]*overall=([0-9.eE+-]+)")


@dataclass(frozen=True)
class Launch:
    """One launch: a process that loads the file, warms up and measures.

    `median_ms` is None where an older program prints none. `memory_mb` is what loading and running added.
    """

    count: int
    mean_ms: float
    min_ms: float
    median_ms: float | None
    load_ms: float
    first_ms: float
    memory_mb: float | None

    @property
    def middle_ms(self) -> float:
        """Its median, or its mean where there is none."""
        return self.mean_ms if self.median_ms is None else self.median_ms


def arguments(binary: str, graph: str, threads: int, samples: int, warmup: int) -> list[str]:
    """The command of one launch; the least times are 0, so that the counts decide."""
    return [
        binary,
        f"--graph={graph}",
        f"--num_threads={threads}",
        f"--num_runs={samples}",
        "--min_secs=0",
        f"--warmup_runs={warmup}",
        "--warmup_min_secs=0",
    ]


def parse_launch(text: str, what: str) -> Launch:
    """Read the output of one launch; the last line of statistics is the measurement, the one before is warm-up.

    Raises:
        RemoteError: it is not what benchmark_model prints.
    """
    statistics, timings, memory = _STATISTICS.findall(text), _TIMINGS.search(text), _MEMORY.search(text)
    try:
        if not statistics or timings is None:
            raise ValueError("no statistics in its output")
        values = {name: float(value) for name, value in _PAIR.findall(statistics[-1])}
        return Launch(
            count=int(values["count"]),
            mean_ms=values["avg"] / 1e3,
            min_ms=values["min"] / 1e3,
            median_ms=values["median"] / 1e3 if "median" in values else None,
            load_ms=float(timings[1]) / 1e3,
            first_ms=float(timings[2]) / 1e3,
            memory_mb=None if memory is None else float(memory[1]),
        )
    except (ValueError, KeyError) as error:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = lines[-1][:160] if lines else "it printed nothing"
        raise RemoteError(
            f"expected benchmark_model's statistics of {what}, but got none ({error}): {said}; is it Google's program "
            "for this device?"
        ) from None


def summary(launches: Sequence[Launch]) -> Json:
    """Numbers in the words of `bench.json`; what the program does not tell is None.

    `p50` is the median over launches of each one's median (or mean), its interval a 95 % bootstrap over launches.
    """
    middles = median_interval([[launch.middle_ms] for launch in launches])
    memory = [launch.memory_mb for launch in launches if launch.memory_mb is not None]
    return {
        "n": sum(launch.count for launch in launches),
        "latency_ms": {
            "p50": round(middles.value, 4),
            "p90": None,
            "p99": None,
            "mean": round(float(np.mean([launch.mean_ms for launch in launches])), 4),
            "min": round(min(launch.min_ms for launch in launches), 4),
        },
        "p50_interval_95": (round(middles.low, 4), round(middles.high, 4)),
        "load_ms": round(float(np.median([launch.load_ms for launch in launches])), 2),
        "first_ms": round(float(np.median([launch.first_ms for launch in launches])), 2),
        "peak_rss_mb": None,
        "model_rss_mb": round(max(memory), 1) if memory else None,
    }
