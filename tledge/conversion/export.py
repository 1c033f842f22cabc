"""Stage 2: write the artefacts that recipes ask for, and prove right away that each is what it says."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tledge.conversion.evaluator import Evaluator
from tledge.conversion.format import ExportRequest
from tledge.conversion.mixed_precision import hold_drop
from tledge.conversion.recipe import DEFAULT_RECIPES, Recipe, load_recipes
from tledge.conversion.registry import FORMATS
from tledge.conversion.sidecar import (
    CalibrationFacts,
    InputFacts,
    MixedPrecisionFacts,
    OutputFacts,
    RangeSource,
    Sidecar,
    VerificationFacts,
    lineage_of,
    sidecar_if_current,
)
from tledge.conversion.verification import verify_answers, verify_precision
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import ArtefactError, RecipeError, SettingsError
from tledge.core.files import gzip_bytes, sha256_file, write_bytes
from tledge.core.progress import Progress, silent
from tledge.core.records import plain, write_record
from tledge.core.types import Probabilities
from tledge.evaluation.gates import parse_limits
from tledge.formats.operators import OpCount
from tledge.model.inference import inference_model, matrix_layers
from tledge.model.ranges import ActivationRanges, learned_ranges
from tledge.runs.images import TrainingSamples
from tledge.runs.manifest import Manifest, read_manifest, verify_reference
from tledge.runs.rundir import RunDir, open_run, remove_stale, require_writable, sidecar_of
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier

if TYPE_CHECKING:
    import keras

VERIFICATION_IMAGES = 20


@dataclass(frozen=True)
class Artefact:
    """One exported file and its sidecar's content; `kept` if an earlier export had already made the same."""

    name: str
    path: Path
    sidecar: Sidecar
    kept: bool


@dataclass(frozen=True)
class ExportResult:
    """The artefacts of one export, in the order of the recipes."""

    run: RunDir
    artefacts: tuple[Artefact, ...]


def export(
    run_path: Path,
    recipes: Sequence[str] = (),
    *,
    force: bool = False,
    max_drop: float | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> ExportResult:
    """Export a run by recipes, skipping artefacts that are already there and made the same way.

    Args:
        run_path: the run.
        recipes: built-in names or TOML files; empty for the default six.
        force: export again even what is there.
        max_drop: largest allowed drop of accuracy on the run's validation images, 0..1, for int8 recipes: the layers
            that int8 harms most return to float until it holds. None exports as the recipes say.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, recipes done, recipes in all).

    Raises:
        RecipeError: unknown, malformed or impossible recipe.
        SettingsError: `max_drop` is no share, or asked of another recipe than int8 or of a run from
            quantization-aware training.
        RunError, DataError: the run or its images are not what the manifest says.
        VerificationError: a written file does not do what its recipe promises, or `max_drop` cannot be held; it is
            not kept.
    """
    chosen = load_recipes(tuple(recipes) or DEFAULT_RECIPES)
    _require_int8(chosen, max_drop)
    run = open_run(run_path, data)
    manifest = read_manifest(run)
    verify_reference(run, manifest)
    ranges = learned_ranges(run, manifest)
    _require_calibrated(chosen, max_drop, ranges)
    require_writable(run)
    remove_stale(run.exports)
    exporter = _Exporter(run, manifest, ranges, max_drop, progress)
    if any(recipe.float_layers for recipe in chosen):
        _require_known_layers(chosen, exporter.source.model)
    artefacts = []
    for done, recipe in enumerate(chosen):
        progress("exporting", done, len(chosen))
        path = run.artefact(recipe.name, recipe.suffix)
        current = None if force else sidecar_if_current(path, manifest, recipe, max_drop)
        kept = None if current is None else Artefact(recipe.name, path, current, kept=True)
        artefacts.append(kept or exporter.export(recipe))
    progress("exporting", len(chosen), len(chosen))
    return ExportResult(run, tuple(artefacts))


def _require_int8(recipes: Sequence[Recipe], max_drop: float | None) -> None:
    """Refuse a limit on the drop for recipes that have no int8 layers to return to float.

    Raises:
        SettingsError: the limit is no share, or one of the recipes has another precision.
    """
    parse_limits({} if max_drop is None else {"max_drop": max_drop}, "--max-drop")
    others = [recipe.name for recipe in recipes if recipe.precision != "int8"]
    if max_drop is not None and others:
        raise SettingsError(
            f"expected only int8 recipes with --max-drop, but got {', '.join(others)}; name the int8 ones, as in "
            "`--recipe tflite-int8 --recipe onnx-int8`"
        )


def _require_calibrated(recipes: Sequence[Recipe], max_drop: float | None, ranges: ActivationRanges | None) -> None:
    """Refuse float layers for a run that learned its rounding: its weights were trained for every layer in int8.

    Raises:
        SettingsError: `ranges` are there, and a limit on the drop or a recipe asks for float layers.
    """
    asked = [recipe.name for recipe in recipes if recipe.float_layers]
    if ranges is not None and (max_drop is not None or asked):
        what = "--max-drop" if max_drop is not None else f"quantization.float_layers in recipe {asked[0]}"
        raise SettingsError(
            f"expected a run whose int8 files are calibrated, but got {what} for one with ranges from "
            "quantization-aware training; leave it out, or export the run before `--method qat`"
        )


def _require_known_layers(recipes: Sequence[Recipe], model: keras.Model) -> None:
    """Refuse recipes that declare float layers which the model does not have.

    Raises:
        RecipeError: it has no convolution or dense layer of that name.
    """
    known = matrix_layers(model)
    for recipe in recipes:
        if unknown := [name for name in recipe.float_layers if name not in known]:
            raise RecipeError(
                f"expected quantization.float_layers among {', '.join(known)}, but recipe {recipe.name} has "
                f"{', '.join(unknown)}; correct the names"
            )


class _Source:
    """The reference in the form that gets converted, and its answers for the verification images."""

    def __init__(self, run: RunDir, samples: TrainingSamples) -> None:
        _, keras = require_tensorflow()
        reference = keras.models.load_model(run.model, compile=False, safe_mode=True)
        self.model = inference_model(reference)
        self.images, _ = samples.take(VERIFICATION_IMAGES)
        self.answers: Probabilities = np.asarray(reference(self.images.astype(np.float32), training=False), np.float32)


@dataclass(frozen=True)
class _Made:
    """A file's content, its float layers, and what the sidecar says about how its numbers were found."""

    content: bytes
    float_layers: tuple[str, ...]
    ranges: RangeSource | None
    calibration: CalibrationFacts | None
    mixed: MixedPrecisionFacts | None


class _Exporter:
    """Makes artefacts; what several of them need is loaded when the first one does."""

    def __init__(
        self,
        run: RunDir,
        manifest: Manifest,
        ranges: ActivationRanges | None,
        max_drop: float | None,
        progress: Progress,
    ) -> None:
        self._run = run
        self._manifest = manifest
        self._ranges = ranges
        self._max_drop = max_drop
        self._progress = progress
        self._samples = TrainingSamples(run, manifest)

    @cached_property
    def source(self) -> _Source:
        return _Source(self._run, self._samples)

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self._run, self._manifest)

    def export(self, recipe: Recipe) -> Artefact:
        started = time.perf_counter()
        path = self._run.artefact(recipe.name, recipe.suffix)
        path.parent.mkdir(exist_ok=True)
        # A hidden name with the right suffix: runtimes can open it, and no later command takes it for an artefact.
        candidate = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
        try:
            made = self._convert(recipe, candidate)
            write_bytes(candidate, made.content)
            ops = FORMATS[recipe.format].count_ops(candidate)
            verify_precision(recipe, ops, made.float_layers)
            classifier = open_classifier(candidate, MODEL_OF_A_RUN)
            verification = verify_answers(recipe, classifier, self.source.images, self.source.answers)
            described = self._described(recipe, candidate, classifier, ops, made, verification, started)
            # The old sidecar goes first and the new one comes last: an artefact with a sidecar is always whole.
            sidecar_of(path).unlink(missing_ok=True)
            # A recipe of this name may have had another format.
            for fmt in FORMATS.values():
                path.with_suffix(fmt.suffix).unlink(missing_ok=True)
            candidate.replace(path)
            write_record(sidecar_of(path), described)
        finally:
            candidate.unlink(missing_ok=True)
        return Artefact(recipe.name, path, described, kept=False)

    def _described(
        self,
        recipe: Recipe,
        path: Path,
        classifier: ImageClassifier,
        ops: OpCount,
        made: _Made,
        verification: VerificationFacts,
        started: float,
    ) -> Sidecar:
        classes = self._manifest.classes
        if classifier.labels != classes:
            raise ArtefactError(
                f"expected the run's labels in {recipe.name}, but the written file has {classifier.labels}"
            )
        side, batch = self._manifest.image_size_px, recipe.batch or "N"
        return Sidecar(
            name=recipe.name,
            format=recipe.format,
            precision=recipe.precision,
            sha256=sha256_file(path),
            size_bytes=path.stat().st_size,
            gzip_bytes=gzip_bytes(path),
            input=InputFacts(shape=(batch, side, side, 3), dtype=recipe.input_dtype, range=(0, 255)),
            output=OutputFacts(shape=(batch, classifier.classes), dtype=recipe.output_dtype),
            ops=dict(ops.by_dtype),
            int8_op_share=round(ops.int8_share, 4),
            float_layers=made.float_layers,
            verification=verification,
            limits=dict(recipe.limits),
            source_sha256=self._manifest.model_sha256,
            lineage=lineage_of(self._manifest, recipe, made.float_layers),
            ranges=made.ranges,
            calibration=made.calibration,
            accuracy_aware=made.mixed,
            seconds=round(time.perf_counter() - started, 3),
        )

    def _convert(self, recipe: Recipe, scratch: Path) -> _Made:
        ranges = self._ranges if recipe.precision == "int8" else None
        calibration, digest = self._samples.take(recipe.calibration_images if ranges is None else 0)
        source: RangeSource = "calibration" if ranges is None else "qat"
        images = CalibrationFacts(images=len(calibration), sha256=digest, subset="train")

        def made(content: bytes, float_layers: tuple[str, ...], mixed: MixedPrecisionFacts | None) -> _Made:
            return _Made(
                content,
                float_layers,
                source if recipe.precision == "int8" else None,
                images if len(calibration) else None,
                mixed,
            )

        def request_with(float_layers: tuple[str, ...]) -> ExportRequest:
            return ExportRequest(
                name=recipe.name,
                precision=recipe.precision,
                model=self.source.model,
                labels=tuple(self._manifest.classes),
                calibration=calibration,
                lineage=plain(lineage_of(self._manifest, recipe, float_layers)),
                reduce_range=recipe.reduce_range,
                ranges=ranges,
                float_layers=float_layers,
                batch=recipe.batch,
            )

        if self._max_drop is None:
            declared = tuple(name for name in matrix_layers(self.source.model) if name in recipe.float_layers)
            return made(FORMATS[recipe.format].convert(request_with(declared)), declared, None)
        mixed = hold_drop(recipe, request_with, self._evaluator, self._max_drop, scratch, self._progress)
        return made(mixed.content, mixed.kept.float_layers, mixed.facts())
