"""The rows of `peers.py`: models, their answers for the test images, and the columns made of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import click
import numpy as np
from openvino_classifier import open_openvino

from tledge.benchmark.measure import Subject
from tledge.core.environment import cpu
from tledge.core.errors import RunError, TledgeError
from tledge.core.files import gzip_bytes, sha256_file
from tledge.core.image_size import ImageSize
from tledge.core.types import Images, Labels, Probabilities
from tledge.data.pixels import PixelStore
from tledge.runs.bench_json import Measurement
from tledge.runs.images import data_root
from tledge.runs.manifest import Manifest, read_split
from tledge.runs.rundir import RunDir
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.options import RuntimeOptions
from tledge.stats import metrics

_BATCH = 16

COLUMNS = (
    *("name", "tool", "versions", "status", "image_size_px", "size_bytes", "gzip_bytes", "p50_ms", "p90_ms"),
    *("speedup_vs_keras", "speedup_low_95", "speedup_high_95", "accuracy", "accuracy_low", "accuracy_high", "n"),
    *("drop", "agreement", "threads", "batch", "latency_n", "cpu", "cpu_flags"),
)


@dataclass(frozen=True)
class Candidate:
    """One row: a model and, once asked, its answers; or, by `status`, why there is none.

    `files` is all that an app must ship, the one that its runtime opens first. `provider` computes inside the runtime,
    empty for its own choice.
    """

    name: str
    tool: str
    packages: tuple[str, ...]
    files: tuple[Path, ...] = ()
    status: str = "ok"
    image_size_px: ImageSize = 0
    answers: Probabilities | None = None
    provider: str = ""

    @property
    def path(self) -> Path:
        """The file a runtime opens."""
        return self.files[0]


class Pixels:
    """Images of a subset of the run at any size, and their labels."""

    def __init__(self, run: RunDir, manifest: Manifest, subset: str) -> None:
        rows = [row for row in read_split(run) if row.subset == subset]
        if not rows:
            raise RunError(f"expected {subset} images in {run.split}, but it lists none; train again")
        self._paths = [data_root(run, manifest) / row.path for row in rows]
        self._sha256 = [row.sha256 for row in rows]
        self.names = [row.label for row in rows]
        self.labels: Labels = np.asarray([manifest.classes.index(name) for name in self.names], np.int64)

    def of(self, size: ImageSize) -> Images:
        """All images, decoded and resized as tledge does, (N, height, width, 3) uint8."""
        return PixelStore(self._paths, size, sha256=self._sha256).take(np.arange(len(self._paths)))


def failed(candidate: Candidate, status: str, reason: str) -> Candidate:
    """The row of a model that is not there, its reason told on stderr."""
    click.echo(f"peers: {candidate.name} {status}: {reason}", err=True)
    return replace(candidate, status=status, answers=None)


def open_any(candidate: Candidate, threads: int) -> ImageClassifier:
    """Any candidate's model in its runtime."""
    if candidate.path.suffix == ".xml":
        return open_openvino(candidate.path, threads)
    return open_classifier(candidate.path, MODEL_OF_A_RUN, threads, RuntimeOptions(provider=candidate.provider))


def asked(candidate: Candidate, test: Pixels, threads: int) -> Candidate:
    """The candidate with its answers for the test images."""
    if candidate.status != "ok":
        return candidate
    try:
        classifier = open_any(candidate, threads)
        images = test.of(classifier.image_size_px)
        parts = [classifier.predict(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    except (TledgeError, RuntimeError, ValueError) as error:  # what runtimes raise for a model they cannot run
        return failed(candidate, "failed", str(error))
    return replace(candidate, answers=np.concatenate(parts), image_size_px=classifier.image_size_px)


def subject_of(candidate: Candidate) -> Subject:
    """The candidate for `measure`."""
    subject = Subject(candidate.name, candidate.path, "int8", sha256_file(candidate.path))
    if candidate.path.suffix != ".xml":
        return subject.given_to(candidate.provider)
    return replace(subject, worker=(str(Path(__file__).with_name("openvino_classifier.py")),))


def line(
    candidate: Candidate, measured: Measurement | None, reference: Probabilities, labels: Labels
) -> dict[str, object]:
    """One row of the result."""
    name, flags = cpu()
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {"name": candidate.name, "tool": candidate.tool, "status": candidate.status, "cpu": name}
    row |= {"versions": ", ".join(map(version, candidate.packages)), "cpu_flags": " ".join(flags)}
    if measured is None or candidate.answers is None:
        return row
    accuracy = metrics.accuracy(candidate.answers, labels)
    low, high = measured.speedup_interval_95 or ("", "")
    return row | {
        "image_size_px": candidate.image_size_px,
        "size_bytes": sum(path.stat().st_size for path in candidate.files),
        "gzip_bytes": sum(map(gzip_bytes, candidate.files)),
        "p50_ms": measured.latency_ms["p50"],
        "p90_ms": measured.latency_ms["p90"],
        "speedup_vs_keras": measured.speedup_vs_keras,
        "speedup_low_95": low,
        "speedup_high_95": high,
        "accuracy": round(accuracy.value, 4),
        "accuracy_low": round(accuracy.low, 4),
        "accuracy_high": round(accuracy.high, 4),
        "n": accuracy.n,
        "drop": round(metrics.accuracy(reference, labels).value - accuracy.value, 4),
        "agreement": round(metrics.agreement(candidate.answers, reference).value, 4),
        "threads": measured.threads,
        "batch": measured.batch,
        "latency_n": measured.n,
    }


def version(package: str) -> str:
    """Name and version of an installed package."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} absent"
