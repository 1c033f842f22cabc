"""What may measure elsewhere: `tledge bench --on` and `tledge optimize --goal` as Python calls; `api.py` is full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tledge.api import _folder as folder_of
from tledge.api import _path as path_of
from tledge.api_bench import several

if TYPE_CHECKING:
    from tledge.api import AnyPath, AnyRun
    from tledge.compression.search.search import SearchResult
    from tledge.deployment.kit_bench import RemoteBenchResult


def bench_on(
    run: AnyRun,
    on: str | Sequence[str],
    *,
    target: str | None = None,
    threads: int | Sequence[int] | None = None,
    rounds: int = 10,
    samples: int = 5,
    warmup: int = 2,
    time_limit: float = 3600.0,
    remote_python: str = "python3",
    ssh_config: AnyPath | None = None,
    benchmark_model: AnyPath | None = None,
    cache: bool = True,
    data: AnyPath | None = None,
) -> RemoteBenchResult:
    """Measure on other machines, `ssh://user@host[:port]` or `adb[:SERIAL]`.

    See `tledge.deployment.host_bench.bench_elsewhere`.
    """
    from tledge.deployment.host_bench import Access, bench_elsewhere
    from tledge.deployment.kit_bench import RemoteSettings
    from tledge.deployment.targets import load_target

    settings = RemoteSettings(several(threads), rounds, samples, warmup, time_limit, cache)
    config, binary = (None if path is None else Path(path) for path in (ssh_config, benchmark_model))
    access = Access(config, remote_python, binary)
    addresses = (on,) if isinstance(on, str) else tuple(on)
    chosen = None if target is None else load_target(target)
    return bench_elsewhere(path_of(run), addresses, access, settings, target=chosen, data=folder_of(data))


def search(
    run: AnyRun,
    goal: str,
    *,
    out: AnyPath,
    time_budget: float = 30.0,
    threads: int | None = None,
    on: str | None = None,
    epochs: int = 10,
    seed: int = 0,
    remote_python: str = "python3",
    ssh_config: AnyPath | None = None,
    data: AnyPath | None = None,
) -> SearchResult:
    """Look for the most accurate int8 file that holds a goal such as `p50 < 10 ms, size < 2 MB, drop < 0.01`.

    `time_budget` is in minutes; `SearchResult.run` is None if no file holds the goal. See
    `tledge.compression.search.search.search`.
    """
    from tledge.compression.search.search import SearchSettings
    from tledge.compression.search.search import search as stage
    from tledge.deployment.host_bench import Access
    from tledge.stats.goal import parse_goal

    settings = SearchSettings(
        goal=parse_goal(goal),
        threads=threads,
        on=on,
        access=Access(None if ssh_config is None else Path(ssh_config), remote_python),
        time_budget_min=time_budget,
        epochs=epochs,
        seed=seed,
    )
    return stage(path_of(run), settings, Path(out), folder_of(data))
