"""Talk to another machine through the system's ssh, with the keys, known hosts and settings that its user has.

What runs there is `export/remote/tledge_remote.py`, sent through stdin: nothing has to be installed but Python.
Sessions run over any `Machine`; `tledge.deployment.hosts.adb` has another kind.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tledge.core.errors import MissingDependencyError, RemoteError, SettingsError
from tledge.core.types import Json
from tledge.deployment.hosts.host import BOOTSTRAP, Machine

_CONNECT_S = 15
_ALIVE_S = 15
_ALIVE_COUNT = 4
_STOP_S = 5.0
_OLD_PYTHON = 90
_NO_COMMAND = (126, 127)
_SSH_FAILED = 255
_URL = re.compile(
    r"ssh://(?:(?P<user>[\w.][\w.+-]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.][\w.-]*)(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)


@dataclass(frozen=True)
class Host:
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
    cache = "~/.cache"
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


def parse_host(on: str, *, config: Path | None = None, python: str = "python3") -> Host:
    """Read an address.

    Raises:
        SettingsError: it is not `ssh://[user@]host[:port]`, the configuration is no file, or `python` is no name.
        MissingDependencyError: there is no ssh here.
    """
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
    return Host(on.rstrip("/"), found["user"], found["host"], port, config, python)


class Session:
    """One command of the remote side, running; made by `session`."""

    def __init__(self, host: Machine, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._host, self._process, self._complaints = host, process, complaints

    def send(self, content: bytes) -> None:
        """Give the other side bytes to read; one that left has said why, or will be asked."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(content)

    def read(self, limit_s: float) -> Json:
        """The next message.

        Raises:
            RemoteError: there is none within `limit_s` seconds, the other side ended, or its system refused something.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.flush()
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(limit_s, expire)
        timer.start()
        other = b""
        try:
            for line in self._process.stdout:
                if line.startswith(b'{"tledge_remote"'):
                    return self._message(line)
                other = line
        finally:
            timer.cancel()
        if expired.is_set():
            raise RemoteError(
                f"expected an answer of {self._host.name} within {limit_s:.0f} s, but none came; "
                "look at its load, or allow more with --time-limit"
            )
        raise self._failure(self._process.wait(), other.decode(errors="replace").strip())

    def _message(self, line: bytes) -> Json:
        try:
            message: Json = json.loads(line)
        except ValueError:
            raise RemoteError(f"expected whole lines from {self._host.name}, but one is cut; run it again") from None
        if message.get("error") == "system":
            raise RemoteError(
                f"expected to work under {self._host.cache}/tledge on {self._host.name}, but the system refused: "
                f"{message['reason']}; check free space and permissions there"
            )
        return message

    def _failure(self, code: int, said: str) -> RemoteError:
        self._complaints.seek(0)
        lines = [line.strip() for line in self._complaints.read().decode(errors="replace").splitlines()]
        lines = [line for line in lines if line]
        if code == _OLD_PYTHON:
            return RemoteError(
                f"expected Python 3.10 or later on {self._host.name}, but {self._host.python} is {said}; "
                "install one there, or name another with --remote-python"
            )
        if code in _NO_COMMAND:
            return RemoteError(
                f"expected {self._host.python} on {self._host.name}, but there is no such command; "
                f"{self._host.without_python}"
            )
        if (refused := self._host.refusal(code, lines)) is not None:
            return RemoteError(refused)
        reason = lines[-1] if lines else f"it ended with code {code}"
        return RemoteError(f"expected an answer of {self._host.name}, but {reason}; try `{self._host.by_hand}`")


def _refusal(host: Host, lines: Sequence[str]) -> str:
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


@contextmanager
def session(host: Machine, script: bytes, arguments: Sequence[str]) -> Iterator[Session]:
    """Run a Python script there; it and what it started end with the block, since the connection does."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            host.command([str(len(script)), *arguments]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        try:
            opened = Session(host, process, complaints)
            opened.send(script)
            yield opened
        finally:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):
                process.stdin.close()  # the remote side takes this for the end
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
