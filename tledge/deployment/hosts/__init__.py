"""Hosts: other machines that measure for us. A kind of host is one module here and one line of `HOSTS`."""

from __future__ import annotations

from collections.abc import Mapping

from tledge.deployment.hosts.adb import AdbHost
from tledge.deployment.hosts.host import Access, Host
from tledge.deployment.hosts.ssh import SshHost

HOSTS: Mapping[str, type[Host]] = {"ssh": SshHost, "adb": AdbHost}
"""By the scheme of an address."""


def host_at(on: str, access: Access) -> Host:
    """The host of an address, `ssh://[user@]host[:port]` or `adb[:SERIAL]`; it is not asked yet.

    Raises:
        SettingsError: it is no address.
        MissingDependencyError, RemoteError: there is no ssh or adb here, or adb knows no such device.
    """
    # What is no address at all is told how one of ssh looks.
    return HOSTS.get(on.partition(":")[0], SshHost).reach(on, access)
