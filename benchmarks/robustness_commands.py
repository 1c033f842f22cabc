"""How `robustness.py` runs a command: in a fork of this process, which has imported everything, or in one of its own.

A fork starts at once where a process of its own needs seconds, so thousands of commands take minutes. The parent never
computes anything, so that no threads of a runtime are lost in the fork. What only a real process has, its start and its
end, is seen by the share of cases that run as one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

LIMIT_S = 120.0
MEMORY_BYTES = 8 << 30
_STOPPING = (signal.SIGINT, signal.SIGTERM)
REMOTE = "there"
"""Where the other machine, which is this one, has its temporary files."""
# Runs in the process of a case before the command: in its folder, what Python does with names of files takes 20 ms in
# the mean, as on a network's disk. Reading and writing open files are not slowed.
SLOW = """
import os, random, sys, time
folder, slowed = os.getcwd() + os.sep, {"open", "shutil.copyfile"}
slowed |= {f"os.{name}" for name in ("link", "listdir", "mkdir", "remove", "rename", "rmdir", "scandir", "symlink")}
def wait(event, given):
    if event in slowed and isinstance(given[0], (str, bytes)):
        if os.path.join(folder, os.fsdecode(given[0])).startswith(folder):
            time.sleep(random.expovariate(50))
sys.addaudithook(wait)
"""
# The same; each makes tledge wrong in one way.
PLANTED = {
    "traceback": "import tledge.cli as c\ndef told(m, k): raise RuntimeError(m)\nc._stop = told",
    "code": "import tledge.cli as c\nwas = c._stop\nc._stop = lambda m, k: was(m, 1 if k == 2 else k)",
    "unforeseen": "import tledge.core.records as r\nwas = r.parse_json\ndef parse(b):\n    try: return was(b)\n"
    "    except ValueError as e: raise LookupError(str(e))\nr.parse_json = parse",
    "silent": "import tledge.runs.manifest as m\nm._difference = lambda *a: ''\n"
    "import tledge.runtimes.files as f\nf.require_as_described = lambda p: None\n"
    "f._require_digest_as_described = lambda *a: None\n"
    "import tledge.reporting.run_health as h\nh.require_as_described = lambda p: None",
    "late": "import time, tledge.core.records as r\nwas = r.parse_json\ndef parse(b):\n    try: return was(b)\n"
    "    except ValueError: time.sleep(999)\nr.parse_json = parse",
    "leftover": "import pathlib, shutil\npathlib.Path.unlink = lambda *a, **k: None\n"
    "import tledge.core.files as f, tledge.runs.rundir as d\nf.remove_stale = d.remove_stale = lambda *a, **k: None",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended: `code` is its exit code, -9 where it was killed on purpose, 124 where it was too slow."""

    code: int
    out: str
    told: str
    seconds: float
    orphans: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a command runs: its working directory, and what is the user's; `before` is code that runs before it."""

    folder: Path
    plant: str = ""
    own_process: bool = False
    before: str = ""
    env: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022

    def environment(self) -> dict[str, str]:
        """What says where the user's folders are."""
        own = {"TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "user", "HOME": "home"}
        return {name: str(self.folder / path) for name, path in own.items()} | self.env

    def made(self) -> Place:
        """Make the folders."""
        for path in ("tmp", "cache", "user", "home", REMOTE):
            (self.folder / path).mkdir(exist_ok=True)
        return self


def preload() -> None:
    """Import what commands import, and compute nothing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tledge
    from tledge.core.dependencies import installed, quiet, require, require_tensorflow

    with quiet():
        require_tensorflow()
        for name in ("onnx", "onnxruntime", "tf2onnx", "h5py", "sklearn.linear_model", "sklearn.datasets"):
            require(name)
        for name in ("ai_edge_litert.interpreter", "litert_quantizer", "onnxruntime.quantization", "tf_keras"):
            if installed(name.partition(".")[0]):
                importlib.import_module(name)
        for module in pkgutil.walk_packages(tledge.__path__, "tledge."):
            if module.name != "tledge.__main__":
                with contextlib.suppress(ImportError):  # a tracker that is not installed
                    importlib.import_module(module.name)


def ended(
    words: list[str],
    place: Place,
    stop_after: float | None = None,
    stop: signal.Signals = signal.SIGKILL,
    whole_group: bool = True,
    limit_s: float | None = None,
) -> Ended:
    """Run `tledge WORDS`; `stop_after` seconds later send it a signal, or its whole group, and wait for its end."""
    started = Running(words, place)
    return started.end(stop_after, stop, whole_group, limit_s)


class Running:
    """A command that runs."""

    def __init__(self, words: list[str], place: Place) -> None:
        self._told, self._out = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - until `end`
        self._started = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        # What Python does with a signal before tledge's first line is for a process of its own to show.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._run(words, place)
            except BaseException:  # noqa: BLE001 - a fork must never go on with what its parent does
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(99)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)

    def _run(self, words: list[str], place: Place) -> None:
        os.setsid()
        os.umask(place.umask)
        with contextlib.suppress(OSError):
            os.chdir(place.folder)
        os.environ.update(place.environment())
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((nothing, 0), (self._out.fileno(), 1), (self._told.fileno(), 2)):
            os.dup2(number, target)
        for number in _STOPPING:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if place.own_process:
            code = f"{place.before}\n{PLANTED.get(place.plant, '')}"
            code += "\nimport sys; from tledge.__main__ import main; sys.argv[0] = 'tledge'; main()"
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
            os.execv(sys.executable, [sys.executable, "-c", code, *words])
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        tempfile.tempdir = None
        sys.argv = ["tledge", *words]
        if words[0] != "@":
            importlib.import_module("tledge.__main__")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        exec(place.before, {})
        exec(PLANTED.get(place.plant, ""), {})
        left: int | str | None = 0
        try:
            if words[0] == "@":  # a program that tledge packs, as its device runs it
                sys.argv = words[1:]
                runpy.run_path(words[1], run_name="__main__")
            else:
                importlib.import_module("tledge.__main__").main()
        except SystemExit as stop:
            left = stop.code
        except BaseException:  # noqa: BLE001 - whatever Python would end with
            sys.stderr.write(traceback.format_exc())
            left = 1
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # What is done when a process ends. Not all of it: threads to wait for are not in a fork.
        importlib.import_module("tledge.core.temporary").release()
        os._exit(left if isinstance(left, int) else 1 if left else 0)

    def end(
        self,
        stop_after: float | None = None,
        stop: signal.Signals = signal.SIGKILL,
        whole_group: bool = True,
        limit_s: float | None = None,
    ) -> Ended:
        """Wait for the end, or bring it about."""
        limit_s = LIMIT_S if limit_s is None else limit_s
        code: int | None
        if stop_after is not None and not self._is_over(stop_after - (time.monotonic() - self._started)):
            try:
                (os.killpg if whole_group else os.kill)(self.pid, stop)
            except ProcessLookupError:  # it has not made its group yet
                os.kill(self.pid, stop)
        if self._is_over(limit_s):
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            code = 124
        seconds = time.monotonic() - self._started
        orphans = self._orphans()
        told, out = self._text(self._told), self._text(self._out)
        return Ended(code, out, told, seconds, orphans)

    def _is_over(self, seconds: float) -> bool:
        watched = os.pidfd_open(self.pid)
        try:
            return bool(select.select([watched], [], [], max(seconds, 0))[0])
        finally:
            os.close(watched)

    def _orphans(self) -> tuple[int, ...]:
        """Processes of the command that outlive it by 15 seconds; they are ended."""
        import psutil

        deadline = time.monotonic() + 15
        while True:
            left = []
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                        left.append(process.pid)
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return tuple(left)

    @staticmethod
    def _text(stream: IO[bytes]) -> str:
        with stream:
            stream.seek(0)
            return stream.read().decode(errors="replace")


@contextlib.contextmanager
def ssh_server(folder: Path, temporary: Path) -> Iterator[None]:
    """An sshd of this user's on the loopback; `folder` gets `config`, which knows it as the host `board`."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not (Path(program).is_file() and shutil.which("ssh")):
        yield
        return
    if not (folder / "config").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        with socket.socket() as probed:
            probed.bind(("127.0.0.1", 0))
            port = probed.getsockname()[1]
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder / 'host'}\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nPasswordAuthentication no\n"
            f"PermitRootLogin yes\nMaxStartups 100\nSetEnv TMPDIR={temporary}\n"
        )
        (folder / "config").write_text(
            f"Host board\nHostName 127.0.0.1\nPort {port}\nIdentityFile {folder / 'user'}\nIdentitiesOnly yes\n"
            f"IdentityAgent none\nUserKnownHostsFile {folder / 'known_hosts'}\nGlobalKnownHostsFile none\n"
        )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # Debian's sshd insists on it as root
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
