"""`tledge bench --on` as a Python call; beside `tledge.api`, which is full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tledge.api import _path as path_of
from tledge.api_bench import several

if TYPE_CHECKING:
    from tledge.api import AnyPath, AnyRun
    from tledge.stages.remote_bench import RemoteBenchResult


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
    cache: bool = True,
) -> RemoteBenchResult:
    """Measure on other machines, `ssh://user@host[:port]`. See `tledge.stages.remote_bench.bench_on`."""
    from tledge.device_targets import load_target
    from tledge.ssh import parse_host
    from tledge.stages.remote_bench import RemoteSettings
    from tledge.stages.remote_bench import bench_on as stage

    settings = RemoteSettings(several(threads), rounds, samples, warmup, time_limit, cache)
    config = None if ssh_config is None else Path(ssh_config)
    urls = (on,) if isinstance(on, str) else tuple(on)
    hosts = [parse_host(url, config=config, python=remote_python) for url in urls]
    return stage(path_of(run), hosts, settings, target=None if target is None else load_target(target))
