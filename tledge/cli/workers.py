"""`tledge train --workers N`: several processes here that train together, each on a GPU of its own if there are any."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO

from tledge.cli.progress import note
from tledge.core.environment import gpus
from tledge.core.errors import SettingsError
from tledge.core.temporary import for_child

_STARTS = 4
_LOOK_S = 0.2
_SHOWN = "CUDA_VISIBLE_DEVICES"


def train_together(workers: int, words: list[str]) -> int:
    """Run a command in several processes until all have ended well; the exit code.

    Where one is killed the others are ended, which would wait for it, and all start again: they go on from the last
    epoch that was kept. The first one prints; of the others, what they say where one fails.

    Args:
        workers: how many.
        words: the command, without the name of the program.

    Raises:
        SettingsError: more workers than GPUs.
    """
    code = 0
    for start in range(_STARTS):
        if start:
            note(f"a worker was killed (signal {-code}): all start again")
            words = [word for word in words if word != "--fresh"]
        code = _run(workers, words)
        if code >= 0:
            return code
    return 128 - code


def _run(workers: int, words: list[str]) -> int:
    """The exit code of the first process that fails, 0 where none does; below 0 the signal that killed it."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    devices = _devices(workers, len(gpus()), os.environ.get(_SHOWN))
    with contextlib.ExitStack() as stack:
        processes: list[tuple[subprocess.Popen[bytes], IO[bytes] | None]] = []
        stack.callback(lambda: _end([process for process, _ in processes]))
        for number in range(workers):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
            said: IO[bytes] | None = stack.enter_context(tempfile.TemporaryFile()) if number else None
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tledge", *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**for_child(), "TF_CONFIG": json.dumps(config), **devices[number]},
            )
            processes.append((process, said))
        while True:
            codes = [process.poll() for process, _ in processes]
            ended = [code for code in codes if code is not None]
            if ended and min(ended) < 0:  # the others end because of it
                return min(ended)
            for code, (_, said) in zip(codes, processes, strict=True):
                if code:
                    if said is not None:
                        said.seek(0)
                        note(said.read().decode(errors="replace").strip())
                    return code
            if len(ended) == len(codes):
                return 0
            time.sleep(_LOOK_S)


def _devices(workers: int, found: int, shown: str | None) -> list[dict[str, str]]:
    """What each worker's environment says of GPUs; they sum gradients between them, which two on one GPU cannot."""
    numbers = [str(number) for number in range(found)]
    if shown is not None and found:
        numbers = [one.strip() for one in shown.split(",") if one.strip() not in ("", "-1")]
    if not numbers:
        return [{}] * workers
    if workers > len(numbers):
        raise SettingsError(
            f"expected at most {len(numbers)} --workers, one for each GPU, but got {workers}; ask for fewer, or set "
            f'{_SHOWN}="" to train on the processor'
        )
    return [{_SHOWN: number} for number in numbers[:workers]]


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    # They may wait for one that is lost, in native code that no exception gets through.
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def without_workers(words: list[str]) -> list[str]:
    """A command without its `--workers N`."""
    kept: list[str] = []
    skipped = False
    for word in words:
        if not (skipped or word == "--workers" or word.startswith("--workers=")):
            kept.append(word)
        skipped = word == "--workers"
    return kept
