"""Measure models side by side, each in a process of its own, in rounds that go through all of them in turn.

A change of the machine's speed then meets them all alike, and a ratio of two of them is taken within the same rounds.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tledge.benchmark.conditions import EnergyMeter, Watch, drift_notes
from tledge.benchmark.settings import FEWEST_ROUNDS, BenchSettings
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.progress import Progress
from tledge.core.temporary import for_child
from tledge.runs.bench_json import Computed, Conditions, LatencyMs, Measurement
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions
from tledge.runtimes.providers import require_taken
from tledge.runtimes.registry import open_adapter
from tledge.stats.intervals import Interval
from tledge.stats.latency import drift, half_width_percent, mean_interval, median_interval, ratio_interval

_STOP_TIMEOUT_S = 20.0
REFERENCE = "keras"
_SEED = 0
# Whoever looks after every round stops too often on an interval that is narrow by chance.
_LOOK_AGAIN = 1.3


@dataclass(frozen=True)
class Subject:
    """A model file to measure; `worker` is what Python runs to serve it, `tledge.benchmark.worker` or a script like it.

    `options` and `threads` are of its runtime; without `threads`, those of the bench. `computed` is what a provider
    took of it, None where none was asked for.
    """

    name: str
    path: Path
    precision: str
    sha256: str
    worker: tuple[str, ...] = ("-P", "-m", "tledge.benchmark.worker")
    options: RuntimeOptions = DEFAULT_OPTIONS
    threads: int | None = None
    computed: Computed | None = None

    def given_to(self, provider: str | None) -> Subject:
        """The same file computed by a provider, of which it is opened here to see what that takes; None for none.

        Raises:
            SettingsError, MissingDependencyError: nobody knows the provider, or it is not there.
            ArtefactError: it does not fit the file, or takes nothing of it.
        """
        if not provider:
            return self
        options = replace(self.options, provider=provider)
        computed = require_taken(self.name, provider, open_adapter(self.path, self.threads, options).computed())
        return replace(self, options=options, computed=computed)


@dataclass(frozen=True)
class Turn:
    """Inferences in a row: how many did not count, and the latencies in milliseconds of those that did."""

    warmup: int
    samples_ms: tuple[float, ...]


class Worker:
    """A process of `tledge.benchmark.worker`."""

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
            env=for_child(),
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


@dataclass(frozen=True)
class Measured:
    """What was measured with one setting.

    `settings.rounds` is how many rounds there were. `conditions` is what the machine did meanwhile, `notes` what of it
    a reader should know; `energy_source` names the sensor, None without one.
    """

    settings: BenchSettings
    measurements: tuple[Measurement, ...]
    conditions: Conditions
    energy_source: str | None
    notes: tuple[str, ...]


@dataclass
class _Series:
    """One model and what has been measured of it, round by round."""

    worker: Worker
    samples: list[tuple[float, ...]]
    joules: list[float]


def measure(subjects: Sequence[Subject], settings: BenchSettings, progress: Progress) -> tuple[Measurement, ...]:
    """Measure models in interleaved rounds; speed-up is against the first one if its name is `REFERENCE`.

    Raises:
        ArtefactError: a model cannot be loaded, or its process died.
    """
    return measure_watched(subjects, settings, progress).measurements


def measure_watched(subjects: Sequence[Subject], settings: BenchSettings, progress: Progress) -> Measured:
    """As `measure`, with what the machine did meanwhile.

    Files of another, fixed batch size are left out and named in the notes, unless nothing else is left.

    Raises:
        ArtefactError: a model cannot be loaded, or its process died.
    """
    series: list[_Series] = []
    try:
        series, notes = _load(subjects, settings, progress)
        watch, meter = Watch([item.worker.pid for item in series]), EnergyMeter()
        rounds = _rounds(series, settings, watch, meter, progress)
        watch.look(last=True)
        ratio = drift([item.samples for item in series])
        conditions, seen = watch.result(ratio)
        peaks = [item.worker.stop() for item in series]
    finally:
        for item in series:
            item.worker.kill()
    done = replace(settings, rounds=rounds, max_rounds=max(rounds, settings.max_rounds))
    base = series[0].samples if series[0].worker.subject.name == REFERENCE else None
    measurements = tuple(_summary(item, peak, base, done) for item, peak in zip(series, peaks, strict=True))
    few = f"{rounds} rounds are too few for an interval; take {FEWEST_ROUNDS} or more"
    notes += [few] if rounds < FEWEST_ROUNDS else []
    notes += [*seen, *drift_notes(ratio), *_unstable(measurements, done)]
    return Measured(done, measurements, conditions, meter.source, tuple(notes))


def _load(subjects: Sequence[Subject], settings: BenchSettings, progress: Progress) -> tuple[list[_Series], list[str]]:
    series: list[_Series] = []
    notes = []
    try:
        for done, subject in enumerate(subjects):
            progress("loading models", done, len(subjects))
            try:
                series.append(_Series(Worker(subject, settings.threads, settings.batch, _SEED), [], []))
            except FixedBatchError as error:
                if not series and subject is subjects[-1]:
                    raise
                notes.append(f"{subject.name} was not measured with batch {settings.batch}: {error}")
    except BaseException:
        for item in series:
            item.worker.kill()
        raise
    return series, notes


def _rounds(
    series: Sequence[_Series], settings: BenchSettings, watch: Watch, meter: EnergyMeter, progress: Progress
) -> int:
    most = settings.rounds if settings.until_stable is None else settings.max_rounds
    done, widest, next_look = 0, float("inf"), settings.rounds
    while not settings.enough(done, widest):
        progress("measuring rounds", done, most)
        for item in series:
            meter.start()
            turn = item.worker.measure(settings.warmup, settings.warmup_ms, settings.samples)
            item.samples.append(turn.samples_ms)
            joules = meter.joules()
            if joules is not None:
                item.joules.append(joules / (turn.warmup + settings.samples))
        watch.look()
        done += 1
        if settings.until_stable is not None and done >= next_look:
            next_look = math.ceil(done * _LOOK_AGAIN)
            widest = max(half_width_percent(median_interval(item.samples)) for item in series)
    progress("measuring rounds", most, most)
    return done


def _unstable(measurements: Sequence[Measurement], settings: BenchSettings) -> list[str]:
    return [
        f"p50 of {item.name} never was stable within ±{settings.until_stable:g} % in {settings.rounds} rounds: "
        "{:.2f} ms, 95 % interval {:.2f}–{:.2f}".format(item.latency_ms["p50"], *item.p50_interval_95)
        for item in measurements
        if item.stable is False
    ]


def _summary(
    item: _Series, peak_rss_mb: float, base: Sequence[tuple[float, ...]] | None, settings: BenchSettings
) -> Measurement:
    flat = np.concatenate([np.asarray(part) for part in item.samples])
    p50, p90, p99, mean, least = (
        round(float(value), 4) for value in (*np.percentile(flat, (50, 90, 99)), flat.mean(), flat.min())
    )
    median = median_interval(item.samples)
    speedup = None if base is None else ratio_interval(base, item.samples)
    # A sensor that stopped answering once has not measured this model.
    energy = mean_interval(item.joules) if item.joules and len(item.joules) == len(item.samples) else None
    limit = settings.until_stable
    subject, hello = item.worker.subject, item.worker.hello
    return Measurement(
        name=subject.name,
        runtime=hello["runtime"],
        precision=subject.precision,
        size_bytes=subject.path.stat().st_size,
        sha256=subject.sha256,
        batch=settings.batch,
        threads=item.worker.threads,
        n=len(flat),
        latency_ms=LatencyMs(p50=p50, p90=p90, p99=p99, mean=mean, min=least),
        p50_interval_95=_ends(median, 4),
        stable=None if limit is None else half_width_percent(median) <= limit,
        load_ms=round(hello["load_ms"], 2),
        first_ms=round(hello["first_ms"], 2),
        peak_rss_mb=peak_rss_mb,
        model_rss_mb=round(peak_rss_mb - hello["rss_before_load_mb"], 1),
        energy_j=None if energy is None else round(energy.value, 5),
        energy_interval_95=None if energy is None else _ends(energy, 5),
        computed=subject.computed,
        speedup_vs_keras=None if speedup is None else round(speedup.value, 3),
        speedup_interval_95=None if speedup is None else _ends(speedup, 3),
        samples_ms=tuple(tuple(round(value, 4) for value in part) for part in item.samples),
    )


def _ends(interval: Interval, digits: int) -> tuple[float, float]:
    return round(interval.low, digits), round(interval.high, digits)
