"""A machine reached through ssh or adb, and a session with it.

What runs there is `export/remote/tledge_remote.py`, sent through stdin: nothing has to be installed but Python.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import IO, Protocol

from tledge.core.errors import RemoteError
from tledge.core.parsing import parse_json
from tledge.core.settings import Settings, option
from tledge.core.types import Json

_STOP_S = 5.0
# Of one message: what a kit's bench prints, or answers to some MB of images, takes far less.
_LINE_BYTES = 256 << 20
_OLD_PYTHON = 90
_NO_COMMAND = (126, 127)
# One line in double quotes only, for every login shell there may be, and for old Pythons, so that they can say so.
BOOTSTRAP = (
    "import sys;v=sys.version_info;sys.path[:]=[p for p in sys.path if p];"
    '(sys.stdout.write("Python %d.%d.%d\\n" % v[:3]),sys.exit(90)) if v<(3,10) else '
    'exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), "tledge_remote", "exec"))'
)


@dataclass(frozen=True)
class Access(Settings):
    """How to get to other machines.

    `remote_python` is the interpreter there. `ssh_config` is a file to read instead of the user's.
    """

    remote_python: str = option("python3", help="With --on: the Python there.", metavar="COMMAND")
    ssh_config: Path | None = option(None, help="With --on: a file instead of ~/.ssh/config.")


DEFAULT_ACCESS = Access()


class Host(Protocol):
    """Where files run for us: `on` is its address as it is kept in `bench.json`, `name` how messages name it."""

    @property
    def on(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102

    @classmethod
    def reach(cls, on: str, access: Access) -> Host:
        """The host of an address; it is not asked yet."""
        ...


class PythonHost(Host, Protocol):
    """Another machine that runs Python for us.

    `python` is the interpreter there, `by_hand` a command to try, `without_python` what to do where there is no Python.
    """

    @property
    def python(self) -> str: ...  # noqa: D102
    @property
    def by_hand(self) -> str: ...  # noqa: D102
    @property
    def without_python(self) -> str: ...  # noqa: D102

    @classmethod
    def reach(cls, on: str, access: Access) -> PythonHost:
        """As `Host`."""
        ...

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The local command that runs Python there on `BOOTSTRAP` and its arguments."""
        ...

    def refusal(self, code: int, lines: Sequence[str]) -> str | None:
        """What to say where the way there failed, from an exit code and stderr; None where the other side did."""
        ...


class Session:
    """One command of the remote side, running; made by `session`."""

    def __init__(self, host: PythonHost, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._host, self._process, self._complaints = host, process, complaints

    def send(self, content: bytes) -> None:
        """Give the other side bytes to read; one that left has said why, or will be asked."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(content)

    def read(self, limit_s: float, **fields: type | UnionType) -> Json:
        """The next message.

        Args:
            limit_s: seconds that it may take to come.
            fields: what has to be in it, by its type.

        Raises:
            RemoteError: there is none in time, a field is missing, the other side ended, or its system refused
                something.
        """
        message = self._next(limit_s)
        for name, kind in fields.items():
            if not isinstance(message.get(name), kind):
                said = str(message.get(name))[:40]
                raise RemoteError(f"expected {self._host.name} to say {name}, but it said {said!r}; run it again")
        return message

    def _next(self, limit_s: float) -> Json:
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
            while line := self._process.stdout.readline(_LINE_BYTES):
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
            message: Json = parse_json(line)
        except ValueError as error:
            raise RemoteError(
                f"expected whole lines from {self._host.name}, but one is cut or damaged ({error}); run it again"
            ) from None
        if message.get("error") == "system":
            raise RemoteError(
                f"expected to work in a temporary folder on {self._host.name}, but the system refused: "
                f"{message.get('reason')}; check free space and permissions there"
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


@contextmanager
def session(host: PythonHost, script: bytes, arguments: Sequence[str]) -> Iterator[Session]:
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
