"""A machine behind the system's ssh, with the keys, known hosts and settings that its user has."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import MissingDependencyError, SettingsError
from tledge.deployment.hosts.host import BOOTSTRAP, Access

_CONNECT_S = 15
_ALIVE_S = 15
_ALIVE_COUNT = 4
_SSH_FAILED = 255
_URL = re.compile(
    r"ssh://(?:(?P<user>[\w.][\w.+-]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.][\w.-]*)(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)


@dataclass(frozen=True)
class SshHost:
    """A machine behind ssh.

    `on` is its address as it was given, `ssh://[user@]host[:port]`; `user` and `port` are None where ssh's own
    configuration decides. `config` is a file to read instead of the user's configuration. `python` is the interpreter
    there, a name or a path, relative to the user's home.
    """

    on: str
    user: str | None
    host: str
    port: int | None
    config: Path | None
    python: str
    without_python = "install Python 3.10 or later there, or say where it is with --remote-python"

    @property
    def name(self) -> str:
        """The address without `ssh://`, as messages and tables name it."""
        return self.on.removeprefix("ssh://")

    @property
    def by_hand(self) -> str:
        """A command to try."""
        return f"ssh {self.on}"

    def refusal(self, code: int, lines: Sequence[str]) -> str | None:
        """What ssh itself complains about; None where it did its part."""
        return _refusal(self, lines) if code == _SSH_FAILED else None

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The local command that runs Python there; all that goes through the remote shell is quoted."""
        # Host keys are checked as the user's configuration says: with BatchMode, an unknown one is refused.
        options = [
            "BatchMode=yes",
            f"ConnectTimeout={_CONNECT_S}",
            f"ServerAliveInterval={_ALIVE_S}",
            f"ServerAliveCountMax={_ALIVE_COUNT}",
            "ClearAllForwardings=yes",
        ]
        command = ["ssh", "-T", *(part for option in options for part in ("-o", option))]
        command += ["-F", str(self.config)] if self.config is not None else []
        command += ["-l", self.user] if self.user is not None else []
        command += ["-p", str(self.port)] if self.port is not None else []
        return [*command, "--", self.host.strip("[]"), shlex.join([self.python, "-c", BOOTSTRAP, *arguments])]

    @classmethod
    def reach(cls, on: str, access: Access) -> SshHost:
        """Read an address.

        Raises:
            SettingsError: it is not `ssh://[user@]host[:port]`, the configuration is no file, or `python` is no name.
            MissingDependencyError: there is no ssh here.
        """
        config, python = access.ssh_config, access.remote_python
        found = _URL.fullmatch(on)
        port = None if found is None or found["port"] is None else int(found["port"])
        if found is None or (port is not None and not 0 < port < 65536):
            raise SettingsError(f"expected --on as ssh://user@host or ssh://user@host:port, but got {on!r}; change it")
        if config is not None and not config.is_file():
            raise SettingsError(f"expected --ssh-config as a file, but got {config}; check the path")
        if not python.strip() or python.startswith("-"):
            raise SettingsError(f"expected --remote-python as a command or a path, but got {python!r}; change it")
        if shutil.which("ssh") is None:
            raise MissingDependencyError("expected ssh on this machine, but there is none; install OpenSSH's client")
        return cls(on.rstrip("/"), found["user"], found["host"], port, config, python)


def _refusal(host: SshHost, lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    reason = lines[-1] if lines else "ssh ended without a word"
    if "Host key verification failed" in text or "HOST IDENTIFICATION HAS CHANGED" in text:
        state = "another one is known" if "CHANGED" in text else "it is not among the known hosts"
        return (
            f"expected the host key of {host.name} to be the known one, but {state}; "
            "connect by hand once and compare its fingerprint"
        )
    if "Permission denied" in text or "Too many authentication failures" in text:
        return (
            f"expected to log in on {host.name} with a key, but it was refused ({reason}); "
            "install yours there with `ssh-copy-id`, or start ssh-agent"
        )
    return f"expected {host.name} to answer, but {reason}; check the address, the network and whether it is on"
