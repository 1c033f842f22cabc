"""Hosts: where files run that are measured. A kind of host is one module here and one line of `HOSTS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tledge.core.errors import SettingsError
from tledge.deployment.hosts.adb import AdbHost
from tledge.deployment.hosts.browser import BrowserHost
from tledge.deployment.hosts.host import Access, Host, PythonHost
from tledge.deployment.hosts.ssh import SshHost

MACHINES: Mapping[str, type[PythonHost]] = {"ssh": SshHost, "adb": AdbHost}
HOSTS: Mapping[str, type[Host]] = {**MACHINES, "browser": BrowserHost}
"""By the scheme of an address."""


def host_at(on: str, access: Access) -> Host:
    """The host of an address, `ssh://[user@]host[:port]`, `adb[:SERIAL]` or `browser[:COMMAND]`; it is not asked yet.

    Raises:
        SettingsError: it is no address.
        MissingDependencyError, RemoteError: there is no ssh, adb or browser here, or adb knows no such device.
    """
    # What is no address at all is told how one of ssh looks.
    return HOSTS.get(on.partition(":")[0], SshHost).reach(on, access)


def machine_at(on: str, access: Access) -> PythonHost:
    """The same where only a machine with a Python will do, through ssh or adb."""
    return MACHINES.get(on.partition(":")[0], SshHost).reach(on, access)


def require_each_once(addresses: Sequence[str]) -> None:
    """Refuse a host that was given twice, or none at all.

    Raises:
        SettingsError: so it is.
    """
    if not addresses or len(set(addresses)) != len(addresses):
        raise SettingsError(f"expected each host once with --on, but got {', '.join(addresses) or 'none'}; change it")
