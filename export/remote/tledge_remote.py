"""What `--on` runs at the other end of ssh: look around, measure a kit or answer images, leave nothing behind.

Never a file there: it comes through stdin into `python3 -c`, needs Python 3.10 and nothing else, and answers in lines
of JSON that begin with `{"tledge_remote"`, so that whatever a login shell prints beside them does no harm. What it is
sent goes into one temporary folder, which it removes. It ends when its stdin does: without a terminal, a connection
that drops sends no signal.
"""

from __future__ import annotations

import base64
import contextlib
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
from collections.abc import Iterator
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
        folder=tempfile.gettempdir(),
        free_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
        problems=problems,
    )


def stop(*_: object) -> NoReturn:
    """Leave by an exception, which cleans up."""
    sys.exit(1)


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder that goes with the block, also when a signal ends it."""
    signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    for number in signals:
        signal.signal(number, stop)
    folder = Path(tempfile.mkdtemp(prefix="tledge-"))
    try:
        yield folder
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)


def incoming(size: int) -> Iterator[bytes]:
    """What stdin brings next, piece by piece; leaves at its end, or when nothing came for too long."""
    while size:
        ready, _, _ = select.select([0], [], [], STALLED_S)
        chunk = os.read(0, min(CHUNK_BYTES, size)) if ready else b""
        if not chunk:
            stop()
        yield chunk
        size -= len(chunk)


def receive(path: Path, size: int) -> None:
    """Put what stdin brings next into a file, while it comes."""
    with path.open("wb") as stream:
        stream.writelines(incoming(size))


def measure(size: int, limit_s: float, arguments: list[str]) -> None:
    """Take a kit of `size` bytes, run `tledge_device.py bench` in it, send what it prints."""
    with workplace() as folder:
        say(ready=True)  # only now may bytes come that are not for the interpreter's own buffer
        packed = folder / "kit.zip"
        receive(packed, size)
        with zipfile.ZipFile(packed) as archive:
            # A model's own archive would be taken for the kit's where the end of the kit is missing.
            if "kit.json" not in archive.namelist():
                raise zipfile.BadZipFile("the kit's zip file is cut, it has no kit.json; send it again")
            archive.extractall(folder)
        packed.unlink()
        told, complaints = folder / ".stdout", folder / ".stderr"
        with (
            told.open("wb") as out,
            complaints.open("wb") as err,
            started(folder, ["bench", *arguments], subprocess.DEVNULL, out, err) as process,
        ):
            code = wait(process, limit_s)
        stderr = complaints.read_text(errors="replace")[-STDERR_CHARACTERS:]
        say(code=code, stdout=told.read_text(errors="replace"), stderr=stderr)


def take(size: int) -> bytes:
    """What stdin brings next, as a whole."""
    return b"".join(incoming(size))


def answer(limit_s: float) -> None:
    """Take the device's code, then files and images, and send what each file answers to the images after it.

    Every message from stdin is a length of four bytes, a JSON object of that length, and as many bytes as it says: the
    code, a file, or images as raw RGB bytes. One file is open at a time, and one message's images are in memory.
    """
    deadline = time.monotonic() + limit_s
    with workplace() as folder, contextlib.ExitStack() as opened:
        say(ready=True)  # only now may bytes come that are not for the interpreter's own buffer
        process: Any = None
        while True:
            head = json.loads(take(struct.unpack(">I", take(4))[0]))
            if head["what"] == "end":
                break
            if head["what"] == "code":
                receive(folder / "tledge_device.py", head["bytes"])
                continue
            if head["what"] == "file":
                opened.close()
                path = folder / Path(head["name"]).name
                opened.callback(path.unlink, missing_ok=True)
                receive(path, head["bytes"])
                complaints = opened.enter_context((folder / ".stderr").open("w+b"))
                process = opened.enter_context(
                    started(folder, ["_answer", path.name], subprocess.PIPE, subprocess.PIPE, complaints)
                )
            else:
                receive(folder / "images", head["bytes"])
                with contextlib.suppress(BrokenPipeError):  # it ended, which its missing answer tells
                    process.stdin.write(f"{head['images']} images answers\n".encode())
                    process.stdin.flush()
            told = line_of(process, deadline)
            if told is None:
                say(error="time")
                return
            if not told:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip()[-STDERR_CHARACTERS:]
                say(error="ended", code=process.wait(), stderr=said)
                return
            if head["what"] == "file":
                say(**json.loads(told))
            else:
                say(answers=base64.b64encode((folder / "answers").read_bytes()).decode())
    say(left=True)


def line_of(process: Any, deadline: float) -> bytes | None:
    """The next line that a process writes, empty when it ended, None past the deadline; leaves when stdin ends."""
    said = b""
    while not said.endswith(b"\n"):
        if time.monotonic() > deadline:
            return None
        ready, _, _ = select.select([0, process.stdout], [], [], LOOK_S)
        if process.stdout in ready:
            part = os.read(process.stdout.fileno(), CHUNK_BYTES)
            if not part:
                return b""
            said += part
        elif ready:  # nothing is sent before an answer came: this is the end
            stop()
    return said


@contextlib.contextmanager
def started(folder: Path, arguments: list[str], stdin: Any, stdout: Any, stderr: Any) -> Iterator[Any]:
    """`tledge_device.py` in a process of its own; it and what it started end with the block."""
    command = [sys.executable, "tledge_device.py", *arguments]
    process = subprocess.Popen(command, cwd=folder, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all gone
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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


def main(command: str, *given: str) -> None:
    """Do one of `probe`, `measure`, `answer`; what the system refuses becomes a line."""
    try:
        if command == "probe":
            probe()
        elif command == "answer":
            answer(float(given[0]))
        else:
            measure(int(given[0]), float(given[1]), list(given[2:]))
    except OSError as error:
        say(error="system", reason=f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}")
        sys.exit(1)


main(*sys.argv[2:])
