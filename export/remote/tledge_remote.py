"""What `tledge bench --on` runs at the other end of ssh: look around, take a kit, measure it, leave nothing behind.

Never a file there: it comes through stdin into `python3 -c`, needs Python 3.10 and nothing else, and answers in lines
of JSON that begin with `{"tledge_remote"`, so that whatever a login shell prints beside them does no harm. It ends when
its stdin does: without a terminal, a connection that drops sends no signal.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would leave files in the cache
STALLED_S = 120.0
STDERR_CHARACTERS = 2000
CHUNK_BYTES = 1 << 20
LOOK_S = 0.5  # how often a measurement is looked after: seldom enough not to disturb it
IMPORTS = {"numpy": "numpy", "litert": "ai_edge_litert.interpreter", "onnxruntime": "onnxruntime"}


def say(**message: Any) -> None:
    """Send one line, on a line of its own whatever was printed before."""
    sys.stdout.write("\n" + json.dumps({"tledge_remote": 1, **message}) + "\n")
    sys.stdout.flush()


def cache() -> Path:
    """Where kits are kept, made if need be."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "tledge"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def probe() -> None:
    """Say what this machine is and has; a broken package may kill its process, so each is imported in its own."""
    problems: dict[str, str] = {}
    for name, module in IMPORTS.items():
        code = f"import {module}"
        tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
        if tried.returncode:
            lines = tried.stderr.strip().splitlines() or [f"its process ended with code {tried.returncode}"]
            problems[name] = lines[-1][:200]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    say(
        python=platform.python_version(),
        architecture=platform.machine(),
        bits=8 * struct.calcsize("P"),
        cores=cores,
        free_bytes=shutil.disk_usage(cache()).free,
        problems=problems,
    )


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def whole(path: Path, digest: str, size: int) -> bool:
    """Whether a kit is there and is the one meant."""
    return path.is_file() and path.stat().st_size == size and digest_of(path) == digest


def receive(digest: str, size: int) -> None:
    """Say how much of a kit is here, then append the rest from stdin; what fits its digest gets its final name."""
    kit, partial = cache() / f"{digest}.zip", cache() / f"{digest}.partial"
    with partial.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(error="busy")
            return
        if whole(kit, digest, size):
            partial.unlink(missing_ok=True)
            say(have=size, whole=True, free_bytes=shutil.disk_usage(kit.parent).free)
            return
        kit.unlink(missing_ok=True)
        have = stream.tell()
        if have > size:
            stream.truncate(0)
            have = 0
        say(have=have, whole=False, free_bytes=shutil.disk_usage(kit.parent).free)
        try:
            while have < size and (chunk := next_bytes(min(CHUNK_BYTES, size - have))):
                stream.write(chunk)
                stream.flush()
                have += len(chunk)
            os.fsync(stream.fileno())
        except OSError:  # a full disk, which what is here would keep full
            partial.unlink()
            raise
        if have < size:
            if not have:
                partial.unlink()
            say(stored=False, have=have)  # kept: the next copy goes on from here
        elif digest_of(partial) != digest:
            partial.unlink()
            say(stored=False, have=0)
        else:
            partial.replace(kit)
            say(stored=True)


def next_bytes(most: int) -> bytes:
    """What stdin brings next; empty at its end, or when nothing came for too long."""
    ready, _, _ = select.select([0], [], [], STALLED_S)
    return os.read(0, most) if ready else b""


def forget(digest: str) -> None:
    """Remove a cached kit and what there is of an unfinished copy."""
    for ending in ("zip", "partial"):
        (cache() / f"{digest}.{ending}").unlink(missing_ok=True)
    say(forgotten=True)


def sweep() -> None:
    """Remove unpacked kits whose process is gone, killed before it could do so itself."""
    for lock in cache().glob("*.unpacked-*/.lock"):
        try:
            with lock.open("ab") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:
            continue  # in use, or another sweep was faster


def stop(*_: object) -> NoReturn:
    """Leave by an exception, which cleans up."""
    sys.exit(1)


def measure(digest: str, limit_s: float, arguments: list[str]) -> None:
    """Unpack a cached kit, run `tledge_device.py bench` in it, send what it prints, remove the folder."""
    sweep()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    folder, process = Path(tempfile.mkdtemp(prefix=f"{digest[:16]}.unpacked-", dir=cache())), None
    try:
        with (folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with zipfile.ZipFile(cache() / f"{digest}.zip") as archive:
                archive.extractall(folder)
            told, complaints = folder / ".stdout", folder / ".stderr"
            command = [sys.executable, "tledge_device.py", "bench", *arguments]
            with told.open("wb") as out, complaints.open("wb") as err:
                process = subprocess.Popen(
                    command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
                )
                code = wait(process, limit_s)
            stderr = complaints.read_text(errors="replace")[-STDERR_CHARACTERS:]
            say(code=code, stdout=told.read_text(errors="replace"), stderr=stderr)
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if process is not None:
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait(process: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """The exit code; None past the limit. Leaves when stdin ends, which means that nobody waits for the answer."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None:
        if time.monotonic() > deadline:
            return None
        ready, _, _ = select.select([0], [], [], LOOK_S)
        if ready and not os.read(0, 1):
            stop()
    return process.returncode


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):  # all gone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(command: str, *given: str) -> None:
    """Do one of `probe`, `receive`, `measure`, `forget`; what the system refuses becomes a line."""
    try:
        if command == "probe":
            probe()
        elif command == "receive":
            receive(given[0], int(given[1]))
        elif command == "measure":
            measure(given[0], float(given[1]), list(given[2:]))
        else:
            forget(given[0])
    except OSError as error:
        say(error="system", reason=f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}")
        sys.exit(1)


main(*sys.argv[2:])
