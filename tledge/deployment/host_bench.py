"""Measure on other machines, however they are reached: kits through ssh and adb, or benchmark_model through adb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import SettingsError
from tledge.core.progress import Progress, silent
from tledge.deployment.adb_bench import measure_on_android
from tledge.deployment.bench_hosts import write_targets
from tledge.deployment.hosts.adb import AdbDevice, find_device, is_adb
from tledge.deployment.hosts.host import Machine
from tledge.deployment.hosts.ssh import parse_host
from tledge.deployment.kit_bench import RemoteBenchResult, RemoteSettings, measure_on
from tledge.deployment.targets import DeviceTarget


@dataclass(frozen=True)
class Access:
    """How to get to other machines.

    `ssh_config` is a file to read instead of the user's. `python` is the interpreter there. `benchmark_model` is
    Google's program for TFLite files, which then measures on Android devices instead of a Python there.
    """

    ssh_config: Path | None = None
    python: str = "python3"
    benchmark_model: Path | None = None


def machine_at(on: str, access: Access) -> Machine:
    """The machine of an address, `ssh://[user@]host[:port]` or `adb[:SERIAL]`; it is not asked yet.

    Raises:
        SettingsError: it is no address.
        MissingDependencyError, RemoteError: there is no ssh or adb here, or adb knows no such device.
    """
    if is_adb(on):
        return find_device(on, access.python)
    return parse_host(on, config=access.ssh_config, python=access.python)


def measure_elsewhere(
    run_path: Path,
    addresses: Sequence[str],
    access: Access,
    settings: RemoteSettings,
    *,
    target: DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> RemoteBenchResult:
    """Measure a run on machines, `ssh://[user@]host[:port]` or `adb[:SERIAL]`; nothing is written.

    `data` is where the run's images are now, None for where they were at training.

    Raises:
        SettingsError: an address that is none, a machine twice or none, or `benchmark_model` without an Android device.
        MissingDependencyError: there is no ssh or adb here.
        RemoteError: a machine cannot be reached, lacks something or fails.
        RunError, ArtefactError, DataError, VerificationError: as a kit or an export.
    """
    machines = [machine_at(on, access) for on in addresses]
    names = [machine.on for machine in machines]
    if not names or len(set(names)) != len(names):
        raise SettingsError(f"expected each machine once with --on, but got {', '.join(names) or 'none'}; change it")
    devices = [one for one in machines if isinstance(one, AdbDevice)] if access.benchmark_model is not None else []
    if access.benchmark_model is not None and not devices:
        raise SettingsError(f"expected --benchmark-model with --on adb, but got {', '.join(names)}; leave it")
    others = [machine for machine in machines if machine not in devices]
    parts = [measure_on(run_path, others, settings, target=target, data=data, progress=progress)] if others else []
    if access.benchmark_model is not None:
        binary = access.benchmark_model
        parts.append(
            measure_on_android(run_path, devices, binary, settings, target=target, data=data, progress=progress)
        )
    return RemoteBenchResult(parts[0].run, tuple(measured for part in parts for measured in part.targets))


def bench_elsewhere(
    run_path: Path,
    addresses: Sequence[str],
    access: Access,
    settings: RemoteSettings,
    *,
    target: DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> RemoteBenchResult:
    """Measure a run on other machines and put it into `bench.json`: all machines, or nothing when one fails.

    Arguments and errors are those of `measure_elsewhere`.
    """
    result = measure_elsewhere(run_path, addresses, access, settings, target=target, data=data, progress=progress)
    write_targets(result.run, [measured.entry for measured in result.targets])
    return result
