"""`tledge bench` as Python calls; beside `tledge.api`, which is full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tledge.api import _path as path_of

if TYPE_CHECKING:
    from tledge.api import AnyPath, AnyRun
    from tledge.benchmark.bench import BenchResult
    from tledge.benchmark.bench_files import FilesBenchResult
    from tledge.benchmark.options import OptionsResult
    from tledge.reporting.compare import RunComparison


def bench(
    run: AnyRun,
    *,
    artefacts: Sequence[AnyPath] = (),
    threads: int | Sequence[int] | None = None,
    batch: int | Sequence[int] = 1,
    rounds: int = 10,
    samples: int = 5,
    warmup: int = 2,
    until_stable: float | None = None,
    max_rounds: int = 100,
) -> BenchResult:
    """Measure latency, load time and memory; no `threads` are all cores. See `tledge.benchmark.bench.bench`."""
    from tledge.benchmark.bench import bench as stage
    from tledge.benchmark.settings import settings_grid

    counts, batches = several(threads), several(batch)
    first, *others = settings_grid(counts, batches, rounds, samples, warmup, until_stable, max_rounds)
    return stage(path_of(run), first, others=others, artefacts=[Path(a) for a in artefacts])


def bench_files(
    files: Sequence[AnyPath],
    *,
    threads: int | Sequence[int] | None = None,
    batch: int | Sequence[int] = 1,
    rounds: int = 10,
    samples: int = 5,
    warmup: int = 2,
    until_stable: float | None = None,
    max_rounds: int = 100,
    out: AnyPath | None = None,
) -> FilesBenchResult:
    """Measure any model files, ratios against the first one. See `tledge.benchmark.bench_files.bench_files`."""
    from tledge.benchmark.bench_files import bench_files as stage
    from tledge.benchmark.settings import settings_grid

    counts, batches = several(threads), several(batch)
    settings = settings_grid(counts, batches, rounds, samples, warmup, until_stable, max_rounds)
    return stage([Path(file) for file in files], settings, out=None if out is None else Path(out))


def bench_options(
    run: AnyRun,
    *,
    artefacts: Sequence[AnyPath] = (),
    threads: int | None = None,
    batch: int = 1,
    rounds: int = 10,
    samples: int = 5,
    warmup: int = 2,
) -> OptionsResult:
    """Try the options of each file's runtime. See `tledge.benchmark.options.bench_options`."""
    from tledge.benchmark.options import bench_options as stage
    from tledge.benchmark.settings import settings_grid

    (settings,) = settings_grid(several(threads), (batch,), rounds, samples, warmup)
    return stage(path_of(run), settings, artefacts=[Path(a) for a in artefacts])


def compare(*runs: AnyRun) -> RunComparison:
    """Put runs side by side. See `tledge.reporting.compare.compare_runs`."""
    from tledge.reporting.compare import compare_runs as stage

    return stage([path_of(run) for run in runs])


def several(numbers: int | Sequence[int] | None) -> tuple[int, ...]:
    """One number, several, or none, as a tuple."""
    if numbers is None:
        return ()
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)
