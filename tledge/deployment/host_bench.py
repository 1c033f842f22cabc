"""Measure on hosts, whatever they are: kits through ssh and adb, benchmark_model through adb, pages in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tledge.core.errors import SettingsError
from tledge.core.progress import Progress, silent
from tledge.deployment.benchmark_model import measure_on_android
from tledge.deployment.browser_bench import measure_in_browsers
from tledge.deployment.hosts import host_at, require_each_once
from tledge.deployment.hosts.adb import AdbHost
from tledge.deployment.hosts.browser import BrowserHost
from tledge.deployment.hosts.host import DEFAULT_ACCESS, Access, Host
from tledge.deployment.hosts.ssh import SshHost
from tledge.deployment.kit_bench import (
    EVERY_CORE,
    HostBenchResult,
    HostBenchSettings,
    measure_on,
    probe,
    require_ready,
)
from tledge.deployment.targets import DeviceTarget, load_target
from tledge.deployment.web_runtimes import web_runtime_files
from tledge.runs.bench_json import write_hosts


def require_usable(host: Host, runtimes: Sequence[str]) -> None:
    """Look at a host before slow work for it begins; `runtimes` are those of the files, `litert`, `onnxruntime`.

    Raises:
        MissingDependencyError, RemoteError: it cannot be reached, or lacks something.
    """
    if isinstance(host, BrowserHost):
        host.version()
        web_runtime_files(runtimes)
    elif isinstance(host, SshHost | AdbHost):
        require_ready(host, probe(host), runtimes, None, 0)


def measure_on_hosts(
    run_path: Path,
    on: str | Sequence[str],
    access: Access = DEFAULT_ACCESS,
    settings: HostBenchSettings = EVERY_CORE,
    *,
    target: str | DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> HostBenchResult:
    """Measure a run on hosts, whose addresses are those of `host_at`; nothing is written.

    `data` is where the run's images are now, None for where they were at training.

    Raises:
        SettingsError: an address that is none, a machine twice or none, or `benchmark_model` without an Android device.
        MissingDependencyError: there is no ssh, adb, browser or npm here.
        RemoteError: a machine cannot be reached, lacks something or fails.
        RunError, ArtefactError, DataError, VerificationError: as a kit or an export.
    """
    target = None if target is None else load_target(target)
    if target is not None and target.is_microcontroller:
        raise SettingsError(
            f"expected a target that can be reached with --on, but got {target.name}, a microcontroller; build the "
            f"sources of `tledge kit RUN --target {target.name} -o micro.zip` for it"
        )
    hosts = [host_at(address, access) for address in ((on,) if isinstance(on, str) else on)]
    names = [host.on for host in hosts]
    require_each_once(names)
    devices = [one for one in hosts if isinstance(one, AdbHost)] if settings.benchmark_model is not None else []
    if settings.benchmark_model is not None and not devices:
        raise SettingsError(f"expected --benchmark-model with --on adb, but got {', '.join(names)}; leave it")
    machines = [host for host in hosts if isinstance(host, SshHost | AdbHost) and host not in devices]
    browsers = [host for host in hosts if isinstance(host, BrowserHost)]
    parts = []
    if machines:
        parts.append(measure_on(run_path, machines, settings, target=target, data=data, progress=progress))
    if browsers:
        parts.append(measure_in_browsers(run_path, browsers, settings, target=target, data=data, progress=progress))
    if settings.benchmark_model is not None:
        binary = settings.benchmark_model
        parts.append(
            measure_on_android(run_path, devices, binary, settings, target=target, data=data, progress=progress)
        )
    return HostBenchResult(parts[0].run, tuple(measured for part in parts for measured in part.hosts))


def bench_on_hosts(
    run_path: Path,
    on: str | Sequence[str],
    access: Access = DEFAULT_ACCESS,
    settings: HostBenchSettings = EVERY_CORE,
    *,
    target: str | DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> HostBenchResult:
    """Measure a run on other machines and put it into `bench.json`: all machines, or nothing when one fails.

    Args:
        run_path: the run.
        on: addresses, `ssh://[user@]host[:port]`, `adb[:SERIAL]` or `browser[+webgpu][:COMMAND]`.
        access: how to get to them.
        settings: how to measure.
        target: whose artefacts, exported if they are missing; None for every exported artefact of the run.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        TledgeError: as `measure_on_hosts`.
    """
    result = measure_on_hosts(run_path, on, access, settings, target=target, data=data, progress=progress)
    write_hosts(result.run, [measured.entry for measured in result.hosts])
    return result
