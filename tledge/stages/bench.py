"""Stage 4: latency, load time and memory of the reference and its artefacts, measured side by side.

Every model lives in a process of its own. Rounds go through all models in turn, so that a change of the machine's
speed meets them all alike, and speed-up is the ratio within one and the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tledge.artefacts import find_artefacts
from tledge.dependencies import installed
from tledge.environment import available_cores, machine, versions
from tledge.errors import SettingsError
from tledge.files import write_json
from tledge.manifest import read_manifest, verify_reference
from tledge.rundir import RunDir, open_run, require_writable
from tledge.stages.bench_process import Subject, Worker
from tledge.stages.bench_targets import read_targets
from tledge.types import Json

Progress = Callable[[str, int, int], None]

REFERENCE = "keras"
_SEED = 0
_RESAMPLES = 1000
_LISTEN_S = 1.0
_BUSY_CORES = 0.3


@dataclass(frozen=True)
class BenchSettings:
    """How to measure: inferences per model are `rounds * samples`, `warmup` more per round are run and not counted."""

    threads: int
    batch: int = 1
    rounds: int = 10
    samples: int = 5
    warmup: int = 2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < (0 if name == "warmup" else 1):
                raise SettingsError(f"expected --{name} above 0, but got {value}; choose a larger value")
        if self.threads > available_cores():
            raise SettingsError(
                f"expected --threads of at most {available_cores()}, the cores available here, but got {self.threads}"
            )


@dataclass(frozen=True)
class Measurement:
    """Latency of one model over one batch; `samples_ms[r]` are round r's raw samples.

    `speedup_vs_keras` is the reference's p50 over this one's; its interval is a 95 % bootstrap over rounds. Both are
    None where the reference was not measured.
    """

    name: str
    runtime: str
    precision: str
    size_bytes: int
    sha256: str
    batch: int
    threads: int
    n: int
    latency_ms: dict[str, float]
    load_ms: float
    first_ms: float
    peak_rss_mb: float
    model_rss_mb: float
    speedup_vs_keras: float | None
    speedup_interval_95: tuple[float, float] | None
    samples_ms: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class BenchResult:
    """All measurements of one bench, the reference first; `notes` say what a reader should know about the numbers."""

    run: RunDir
    environment: Json
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]


def bench(
    run_path: Path,
    settings: BenchSettings,
    *,
    artefacts: Sequence[Path] = (),
    progress: Progress = lambda *_: None,
) -> BenchResult:
    """Measure the reference and artefacts of a run and write `bench.json`; what other machines measured stays in it.

    Without TensorFlow, as on a board, only the artefacts are measured and no speed-up is given.

    Raises:
        RunError, ArtefactError: what is to be measured is missing, damaged or of another run.
    """
    run = open_run(run_path)
    require_writable(run)
    manifest = read_manifest(run)
    subjects = [
        Subject(a.name, a.path, a.precision or "unknown", a.sha256) for a in find_artefacts(run, manifest, artefacts)
    ]
    busy_cores, notes = listen()
    if not installed("tensorflow"):
        notes.append("TensorFlow is not installed here: the Keras reference was not measured and there is no speed-up")
    else:
        verify_reference(run, manifest)
        subjects.insert(0, Subject(REFERENCE, run.reference, "float32", manifest.reference_sha256))
    environment = {"machine": machine(), "versions": versions(), "busy_cores_before": round(busy_cores, 2)}
    measurements = measure(subjects, settings, progress)
    result = BenchResult(run, environment, measurements, tuple(notes))
    write_json(run.bench, _json(result, settings))
    return result


def listen() -> tuple[float, list[str]]:
    """How many cores are at work while this process waits, and a note if too many are.

    The load average would count our own stages before.
    """
    import psutil

    busy_cores = float(psutil.cpu_percent(interval=_LISTEN_S)) / 100 * (psutil.cpu_count() or 1)
    note = f"other work kept {busy_cores:.1f} cores busy at the start: latencies may be high"
    return busy_cores, [note] if busy_cores > _BUSY_CORES else []


def measure(subjects: Sequence[Subject], settings: BenchSettings, progress: Progress) -> tuple[Measurement, ...]:
    """Measure models in interleaved rounds; speed-up is against the first one if its name is `REFERENCE`.

    Raises:
        ArtefactError: a model cannot be loaded, or its process died.
    """
    workers: list[Worker] = []
    try:
        for done, subject in enumerate(subjects):
            progress("loading models", done, len(subjects))
            workers.append(Worker(subject, settings.threads, settings.batch, _SEED))
        rounds: list[list[tuple[float, ...]]] = [[] for _ in workers]
        for done in range(settings.rounds):
            progress("measuring rounds", done, settings.rounds)
            for samples, worker in zip(rounds, workers, strict=True):
                samples.append(worker.measure(settings.warmup, settings.samples))
        progress("measuring rounds", settings.rounds, settings.rounds)
        peaks = [worker.stop() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    reference = rounds[0] if subjects[0].name == REFERENCE else None
    return tuple(
        _summary(worker, tuple(samples), peak, reference, settings)
        for worker, samples, peak in zip(workers, rounds, peaks, strict=True)
    )


def _summary(
    worker: Worker,
    samples: tuple[tuple[float, ...], ...],
    peak_rss_mb: float,
    reference: list[tuple[float, ...]] | None,
    settings: BenchSettings,
) -> Measurement:
    flat = np.concatenate([np.asarray(part) for part in samples])
    p50, p90, p99 = (float(value) for value in np.percentile(flat, (50, 90, 99)))
    latency = {"p50": p50, "p90": p90, "p99": p99, "mean": float(flat.mean()), "min": float(flat.min())}
    speedup, interval = None, None
    if reference is not None:
        speedup = float(np.median(np.concatenate(reference))) / p50
        interval = _ratio_interval(np.asarray(reference), np.asarray(samples))
    subject, hello = worker.subject, worker.hello
    return Measurement(
        name=subject.name,
        runtime=hello["runtime"],
        precision=subject.precision,
        size_bytes=subject.path.stat().st_size,
        sha256=subject.sha256,
        batch=settings.batch,
        threads=settings.threads,
        n=len(flat),
        latency_ms={name: round(value, 4) for name, value in latency.items()},
        load_ms=round(hello["load_ms"], 2),
        first_ms=round(hello["first_ms"], 2),
        peak_rss_mb=peak_rss_mb,
        model_rss_mb=round(peak_rss_mb - hello["rss_before_load_mb"], 1),
        speedup_vs_keras=None if speedup is None else round(speedup, 3),
        speedup_interval_95=interval,
        samples_ms=tuple(tuple(round(value, 4) for value in part) for part in samples),
    )


def _ratio_interval(reference: np.ndarray[Any, Any], samples: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of medians, drawing whole rounds: their samples belong together."""
    rng = np.random.default_rng(_SEED)
    drawn = rng.integers(0, len(samples), (_RESAMPLES, len(samples)))
    ratios = [np.median(reference[rounds]) / np.median(samples[rounds]) for rounds in drawn]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return round(float(low), 3), round(float(high), 3)


def _json(result: BenchResult, settings: BenchSettings) -> Json:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": result.environment,
        "settings": asdict(settings),
        "notes": list(result.notes),
        "results": [asdict(measurement) for measurement in result.measurements],
        "targets": read_targets(result.run),
    }
