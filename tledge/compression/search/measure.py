"""The numbers of a candidate: exported files, accuracy on validation images, latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tledge.compression.search.goal import Goal
from tledge.compression.search.latency import LatencyMeter
from tledge.compression.search.numbers import FileNumbers, Latency
from tledge.conversion.artefacts import RunArtefact, find_artefacts
from tledge.conversion.export import export
from tledge.core.errors import RemoteError, VerificationError
from tledge.core.image_size import ImageSize
from tledge.core.progress import Progress
from tledge.runs.images import CheckImages, run_images
from tledge.runs.manifest import Manifest, read_manifest
from tledge.runs.rundir import RunDir
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.litert_micro import measure_arena
from tledge.runtimes.options import RuntimeOptions
from tledge.stats import metrics

_BATCH = 16


class TrialEvaluator:
    """Measures candidates of one run; the original is asked about the validation images once."""

    def __init__(self, run: RunDir, manifest: Manifest, meter: LatencyMeter, goal: Goal, progress: Progress) -> None:
        self._run = run
        self._manifest = manifest
        self._meter = meter
        self._goal = goal
        self._progress = progress
        self._images: dict[ImageSize, CheckImages] = {}
        self._hits: NDArray[np.bool_] | None = None

    def original_hits(self) -> NDArray[np.bool_]:
        """Which validation images the original names rightly, (N,)."""
        if self._hits is None:
            classifier = open_classifier(self._run.reference, MODEL_OF_A_RUN)
            images = self._images_at(classifier.image_size_px)
            self._hits = self._right(classifier, images, "asking the original on validation images")
        return self._hits

    def original_accuracy(self) -> metrics.Proportion:
        """Accuracy of the original on the validation images."""
        hits = self.original_hits()
        return metrics.proportion(int(hits.sum()), len(hits))

    def evaluate(self, name: str, run: RunDir) -> tuple[tuple[FileNumbers, ...], str | None]:
        """Export a candidate's files and measure each.

        Returns:
            The numbers by file, and why a file is missing if one is.

        Raises:
            DataError, RunError: the images or the candidate are not what its lists say.
        """
        error = None
        for recipe in self._goal.recipes:
            try:
                export(run.path, (recipe,), data=run.data, progress=self._progress)
            except VerificationError as failed:
                error = str(failed)
        paths = [path for path in run.artefacts() if path.stem in self._goal.recipes]
        if not paths:
            return (), error
        artefacts = find_artefacts(run, read_manifest(run), paths)
        measured = self._meter.candidate(run, artefacts, self._progress)
        # Another machine may lack a runtime.
        if unmeasured := [artefact.name for artefact in artefacts if artefact.sha256 not in measured]:
            error = f"{', '.join(unmeasured)} was not measured on {self._meter.where}: its runtime is missing there"
        files = tuple(
            self._file(name, artefact, measured[artefact.sha256])
            for artefact in artefacts
            if artefact.sha256 in measured
        )
        return files, error

    def measure_again(self, run: RunDir, files: Sequence[FileNumbers]) -> tuple[FileNumbers, ...]:
        """The same files with latencies of the machine and the settings of this search.

        Raises:
            RemoteError: the machine lacks a runtime that the one of before had.
        """
        artefacts = find_artefacts(run, read_manifest(run), [_path(run, file.recipe) for file in files])
        measured = self._meter.candidate(run, artefacts, self._progress)
        if unmeasured := [file.recipe for file in files if file.sha256 not in measured]:
            raise RemoteError(
                f"expected the runtime of {', '.join(unmeasured)} on {self._meter.where}, as in the search before, "
                "but it is missing there; install it, or choose another --out"
            )
        return tuple(replace(file, own_latency=measured[file.sha256]) for file in files)

    def _file(self, name: str, artefact: RunArtefact, latency: Latency) -> FileNumbers:
        arena_bytes = measure_arena(artefact.path).bytes if self._goal.on("arena") else None
        # LiteRT Micro rounds otherwise than LiteRT and takes a hundred times as long: it answers where that can count.
        options = RuntimeOptions(micro=arena_bytes is not None and self._fits(arena_bytes, artefact.size_bytes))
        classifier = open_classifier(artefact.path, MODEL_OF_A_RUN, options=options)
        hits = self._right(classifier, self._images_at(classifier.image_size_px), "checking on validation images")
        original = self.original_hits()
        lost, won = int(np.sum(original & ~hits)), int(np.sum(hits & ~original))
        return FileNumbers(
            candidate=name,
            recipe=artefact.name,
            sha256=artefact.sha256,
            size_bytes=artefact.size_bytes,
            accuracy=metrics.proportion(int(hits.sum()), len(hits)),
            drop=(lost - won) / len(hits),
            lost=lost,
            won=won,
            own_latency=latency,
            final_latency=None,
            arena_bytes=arena_bytes,
        )

    def _fits(self, arena_bytes: int, size_bytes: int) -> bool:
        values = {"arena": arena_bytes / 1e3, "flash": size_bytes / 1e3}
        return all(c.holds(values[c.metric]) for c in self._goal.conditions if c.metric in values)

    def _images_at(self, size: ImageSize) -> CheckImages:
        if size not in self._images:
            self._images[size] = run_images(self._run, self._manifest, (size,), "val")
        return self._images[size]

    def _right(self, classifier: ImageClassifier, images: CheckImages, what: str) -> NDArray[np.bool_]:
        answers = []
        n = len(images.labels)
        for batch in images.stores[classifier.image_size_px].batches(np.arange(n), _BATCH):
            answers.append(classifier.predict(batch).argmax(axis=1))
            self._progress(what, sum(map(len, answers)), n)
        return np.asarray(np.concatenate(answers) == images.labels)


def _path(run: RunDir, recipe: str) -> Path:
    return next(path for path in run.artefacts() if path.stem == recipe)
