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
    """The host of an address, which is not asked yet.

    Args:
        on: `ssh://[user@]host[:port]`, `adb[:SERIAL]` or `browser[+webgpu][:COMMAND]`.
        access: how to get to a machine.

    Raises:
        SettingsError: it is no address.
        MissingDependencyError, RemoteError: there is no ssh, adb or browser here, or adb knows no such device.
    """
    # What is no address at all is told how one of ssh looks.
    return HOSTS.get(kind_of(on), SshHost).reach(on, access)


def kind_of(on: str) -> str:
    """What an address begins with, such as `browser` of `browser+webgpu:chromium`."""
    return on.partition(":")[0].partition("+")[0]


def require_no_provider(provider: str | None) -> None:
    """Refuse to choose on other machines what computes in a runtime: each address has its own.

    Raises:
        SettingsError: somebody did.
    """
    if provider:
        raise SettingsError(
            f"expected --provider on this machine, but got {provider} with --on; leave one of them out (WebGPU in a "
            "browser is --on browser+webgpu)"
        )


def machine_at(on: str, access: Access) -> PythonHost:
    """The same where only a machine with a Python will do, through ssh or adb."""
    return MACHINES.get(kind_of(on), SshHost).reach(on, access)


def require_each_once(addresses: Sequence[str]) -> None:
    """Refuse a host that was given twice, or none at all.

    Raises:
        SettingsError: so it is.
    """
    if not addresses or len(set(addresses)) != len(addresses):
        raise SettingsError(f"expected each host once with --on, but got {', '.join(addresses) or 'none'}; change it")
