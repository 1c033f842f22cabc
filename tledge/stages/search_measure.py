"""The numbers of a candidate: exported files, accuracy on validation images, latency beside the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tledge import metrics
from tledge.artefacts import RunArtefact, find_artefacts
from tledge.errors import VerificationError
from tledge.manifest import Manifest, read_manifest
from tledge.rundir import RunDir, open_run
from tledge.runners import Runner, open_runner
from tledge.stages.bench import REFERENCE, BenchSettings, Measurement, bench, measure
from tledge.stages.bench_process import Subject
from tledge.stages.check_images import CheckImages, run_images
from tledge.stages.export import export
from tledge.stages.search_numbers import FileNumbers, Latency

Progress = Callable[[str, int, int], None]

RECIPES = ("tflite-int8", "onnx-int8")
_BATCH = 16


class Examiner:
    """Measures candidates of one run; the original is asked about the validation images once."""

    def __init__(self, run: RunDir, manifest: Manifest, bench_settings: BenchSettings, progress: Progress) -> None:
        self._run = run
        self._manifest = manifest
        self._bench_settings = bench_settings
        self._progress = progress
        self._images: dict[int, CheckImages] = {}
        self._hits: NDArray[np.bool_] | None = None

    def original_hits(self) -> NDArray[np.bool_]:
        """Which validation images the original names rightly, (N,)."""
        if self._hits is None:
            runner = open_runner(self._run.reference)
            images = self._images_at(runner.image_size_px)
            self._hits = self._right(runner, images, "asking the original on validation images")
        return self._hits

    def original_accuracy(self) -> metrics.Proportion:
        """Accuracy of the original on the validation images."""
        hits = self.original_hits()
        return metrics.proportion(int(hits.sum()), len(hits))

    def examine(self, name: str, run: RunDir) -> tuple[tuple[FileNumbers, ...], str | None]:
        """Export a candidate's files and measure each.

        Returns:
            The numbers by file, and why a file is missing if one is.

        Raises:
            DataError, RunError: the images or the candidate are not what its lists say.
        """
        error = None
        for recipe in RECIPES:
            try:
                export(run.path, (recipe,), progress=self._progress)
            except VerificationError as failed:
                error = str(failed)
        paths = [path for path in run.artefacts() if path.stem in RECIPES]
        if not paths:
            return (), error
        artefacts = find_artefacts(run, read_manifest(run), paths)
        measured = {item.sha256: item for item in self._bench(run, artefacts)}
        return tuple(self._file(name, artefact, measured[artefact.sha256]) for artefact in artefacts), error

    def measure_again(self, run: RunDir, files: Sequence[FileNumbers]) -> tuple[FileNumbers, ...]:
        """The same files with latencies of this machine and these settings."""
        artefacts = find_artefacts(run, read_manifest(run), [_path(run, file.recipe) for file in files])
        measured = {item.sha256: item for item in self._bench(run, artefacts)}
        return tuple(replace(file, own_latency=_latency(measured[file.sha256])) for file in files)

    def _bench(self, run: RunDir, artefacts: Sequence[RunArtefact]) -> tuple[Measurement, ...]:
        paths = [artefact.path for artefact in artefacts]
        return bench(run.path, self._bench_settings, artefacts=paths, progress=self._progress).measurements

    def _file(self, name: str, artefact: RunArtefact, measured: Measurement) -> FileNumbers:
        runner = open_runner(artefact.path)
        hits = self._right(runner, self._images_at(runner.image_size_px), "checking on validation images")
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
            own_latency=_latency(measured),
            final_latency=None,
        )

    def _images_at(self, side: int) -> CheckImages:
        if side not in self._images:
            self._images[side] = run_images(self._run, self._manifest, (side,), "val")
        return self._images[side]

    def _right(self, runner: Runner, images: CheckImages, what: str) -> NDArray[np.bool_]:
        answers = []
        n = len(images.labels)
        for batch in images.stores[runner.image_size_px].batches(np.arange(n), _BATCH):
            answers.append(runner.predict(batch).argmax(axis=1))
            self._progress(what, sum(map(len, answers)), n)
        return np.asarray(np.concatenate(answers) == images.labels)


def measure_together(
    run: RunDir,
    manifest: Manifest,
    finalists: Mapping[FileNumbers, RunDir],
    settings: BenchSettings,
    progress: Progress,
) -> dict[FileNumbers, FileNumbers]:
    """Measure files of several candidates and the original in the same rounds.

    Returns:
        By the numbers before, the numbers with the new latencies.
    """
    subjects = [Subject(REFERENCE, run.reference, "float32", manifest.reference_sha256)]
    for file, candidate in finalists.items():
        path = _path(open_run(candidate.path), file.recipe)
        subjects.append(Subject(f"{file.candidate}/{file.recipe}", path, "int8", file.sha256))
    _, *measured = measure(subjects, settings, progress)
    pairs = zip(finalists, measured, strict=True)
    return {file: replace(file, final_latency=_latency(item)) for file, item in pairs}


def _path(run: RunDir, recipe: str) -> Path:
    return next(path for path in run.artefacts() if path.stem == recipe)


def _latency(item: Measurement) -> Latency:
    if item.speedup_vs_keras is None or item.speedup_interval_95 is None:
        raise AssertionError("the original is always measured along")
    return Latency(
        p50_ms=item.latency_ms["p50"],
        p90_ms=item.latency_ms["p90"],
        speedup=item.speedup_vs_keras,
        speedup_interval_95=item.speedup_interval_95,
        n=item.n,
    )
