"""The measuring side's view of a `bench_worker` process."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions

_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Subject:
    """A model file to measure; `worker` is what Python runs to serve it, `bench_worker` or a script like it.

    `options` and `threads` are of its runtime; without `threads`, those of the bench.
    """

    name: str
    path: Path
    precision: str
    sha256: str
    worker: tuple[str, ...] = ("-m", "tledge.benchmark.worker")
    options: RuntimeOptions = DEFAULT_OPTIONS
    threads: int | None = None


@dataclass(frozen=True)
class Turn:
    """Inferences in a row: how many did not count, and the latencies in milliseconds of those that did."""

    warmup: int
    samples_ms: tuple[float, ...]


class Worker:
    """A bench_worker process."""

    def __init__(self, subject: Subject, threads: int, batch: int, seed: int) -> None:
        self.subject = subject
        self.threads = threads if subject.threads is None else subject.threads
        arguments = [str(subject.path), str(self.threads), str(batch), str(seed)]
        if subject.options != DEFAULT_OPTIONS:  # a script for another runtime takes none
            arguments.append(subject.options.as_json())
        self._process = subprocess.Popen(
            [sys.executable, *subject.worker, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid
        try:
            self.hello = self._answer()
        except ArtefactError:
            self.kill()
            raise

    def measure(self, warmup: int, warmup_ms: int, samples: int) -> Turn:
        """Measure `samples` inferences after at least `warmup` uncounted ones and `warmup_ms` of them."""
        answer = self._ask(f"measure {warmup} {warmup_ms} {samples}")
        return Turn(answer["warmup"], tuple(answer["samples_ms"]))

    def stop(self) -> float:
        """End the process; returns its peak resident memory in MB."""
        peak = float(self._ask("stop")["peak_rss_mb"])
        with suppress(subprocess.TimeoutExpired):  # it has answered; on a busy machine TensorFlow takes long to end
            self._process.wait(_STOP_TIMEOUT_S)
        return peak

    def kill(self) -> None:
        """End the process however it is."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer tells more
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ArtefactError(
                f"expected a measurement of {self.subject.path}, but its process ended with code {code}; "
                "check free memory, or run it with `tledge predict` to see why"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise (FixedBatchError if answer.get("fixed_batch") else ArtefactError)(answer["error"])
        return answer
