"""Measure on other machines, however they are reached: kits through ssh and adb, or benchmark_model through adb."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import SettingsError
from tledge.core.progress import Progress, silent
from tledge.core.settings import Settings, option
from tledge.deployment.adb_bench import measure_on_android
from tledge.deployment.hosts.adb import AdbDevice, find_device, is_adb
from tledge.deployment.hosts.host import Machine
from tledge.deployment.hosts.ssh import parse_host
from tledge.deployment.kit_bench import EVERY_CORE, RemoteBenchResult, RemoteSettings, measure_on
from tledge.deployment.targets import DeviceTarget, load_target
from tledge.runs.bench_json import write_hosts


@dataclass(frozen=True)
class Access(Settings):
    """How to get to other machines.

    `remote_python` is the interpreter there. `ssh_config` is a file to read instead of the user's.
    """

    remote_python: str = option("python3", help="With --on: the Python there.", metavar="COMMAND")
    ssh_config: Path | None = option(None, help="With --on: a file instead of ~/.ssh/config.")


DEFAULT_ACCESS = Access()


def machine_at(on: str, access: Access) -> Machine:
    """The machine of an address, `ssh://[user@]host[:port]` or `adb[:SERIAL]`; it is not asked yet.

    Raises:
        SettingsError: it is no address.
        MissingDependencyError, RemoteError: there is no ssh or adb here, or adb knows no such device.
    """
    if is_adb(on):
        return find_device(on, access.remote_python)
    return parse_host(on, config=access.ssh_config, python=access.remote_python)


def measure_elsewhere(
    run_path: Path,
    on: str | Sequence[str],
    access: Access = DEFAULT_ACCESS,
    settings: RemoteSettings = EVERY_CORE,
    *,
    target: str | DeviceTarget | None = None,
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
    target = None if target is None else load_target(target)
    machines = [machine_at(address, access) for address in ((on,) if isinstance(on, str) else on)]
    names = [machine.on for machine in machines]
    if not names or len(set(names)) != len(names):
        raise SettingsError(f"expected each machine once with --on, but got {', '.join(names) or 'none'}; change it")
    devices = [one for one in machines if isinstance(one, AdbDevice)] if settings.benchmark_model is not None else []
    if settings.benchmark_model is not None and not devices:
        raise SettingsError(f"expected --benchmark-model with --on adb, but got {', '.join(names)}; leave it")
    others = [machine for machine in machines if machine not in devices]
    parts = [measure_on(run_path, others, settings, target=target, data=data, progress=progress)] if others else []
    if settings.benchmark_model is not None:
        binary = settings.benchmark_model
        parts.append(
            measure_on_android(run_path, devices, binary, settings, target=target, data=data, progress=progress)
        )
    return RemoteBenchResult(parts[0].run, tuple(measured for part in parts for measured in part.targets))


def bench_elsewhere(
    run_path: Path,
    on: str | Sequence[str],
    access: Access = DEFAULT_ACCESS,
    settings: RemoteSettings = EVERY_CORE,
    *,
    target: str | DeviceTarget | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> RemoteBenchResult:
    """Measure a run on other machines and put it into `bench.json`: all machines, or nothing when one fails.

    Args:
        run_path: the run.
        on: addresses of machines, `ssh://[user@]host[:port]` or `adb[:SERIAL]`.
        access: how to get to them.
        settings: how to measure.
        target: whose artefacts, exported if they are missing; None for every exported artefact of the run.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, parts done, parts in all).

    Raises:
        TledgeError: as `measure_elsewhere`.
    """
    result = measure_elsewhere(run_path, on, access, settings, target=target, data=data, progress=progress)
    write_hosts(result.run, [measured.entry for measured in result.targets])
    return result
