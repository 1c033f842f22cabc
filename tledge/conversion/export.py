"""Stage 2: write the artefacts that recipes ask for, and prove right away that each is what it says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tledge.conversion.calibration import Calibration, calibration_of, learned_by_call
from tledge.conversion.evaluator import Evaluator
from tledge.conversion.format import ExportRequest, Format
from tledge.conversion.kept_calibration import RunCalibrations
from tledge.conversion.mixed_precision import hold_drop
from tledge.conversion.recipe import DEFAULT_RECIPES, Recipe, load_recipes
from tledge.conversion.registry import FORMATS
from tledge.conversion.sidecar import (
    CalibrationFacts,
    InputFacts,
    MixedPrecisionFacts,
    Origin,
    OutputFacts,
    RangeSource,
    Sidecar,
    VerificationFacts,
    sidecar_if_current,
)
from tledge.conversion.verification import verify_answers, verify_precision
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import ArtefactError, RecipeError, SettingsError
from tledge.core.files import gzip_bytes, remove_stale, sha256_file, write_bytes
from tledge.core.image_size import height_width
from tledge.core.progress import Progress, Steps, silent
from tledge.core.records import plain, write_record
from tledge.core.types import CalibrationMethod, Images, Probabilities
from tledge.evaluation.gates import parse_limits
from tledge.formats.operators import OpCount
from tledge.model.forward import outputs_of
from tledge.model.graph import Graph
from tledge.model.inference import inference_graph
from tledge.model.ranges import ActivationRanges, learned_ranges
from tledge.runs.images import TrainingSamples
from tledge.runs.manifest import read_manifest, verify_run
from tledge.runs.rundir import RunDir, open_run, require_writable, sidecar_of
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier

VERIFICATION_IMAGES = 20
# A file in float computes the model's function but for the last digits: every fourth image settles that, and they are
# the slow ones.
_EVERY_FLOAT_IMAGE = 4


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
    verify_run(run, manifest)
    ranges = learned_ranges(run, manifest)
    _require_calibrated(chosen, max_drop, ranges)
    require_writable(run)
    remove_stale(run.exports)
    samples = TrainingSamples(run, manifest)
    source = Source(run.model, samples)
    exporter = Exporter(
        run,
        Origin.of(manifest),
        source,
        RunCalibrations(run, manifest, lambda: source.graph, samples),
        ranges,
        None if max_drop is None else Limit(max_drop, lambda: Evaluator(run, manifest)),
        progress,
    )
    require_known_layers(chosen, source)
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


def require_known_layers(recipes: Sequence[Recipe], source: Source) -> None:
    """Refuse recipes that declare float layers which the model does not have.

    Raises:
        RecipeError: it has no convolution or dense layer of that name.
    """
    if not any(recipe.float_layers for recipe in recipes):
        return
    known = source.graph.matrix_layers
    for recipe in recipes:
        if unknown := [name for name in recipe.float_layers if name not in known]:
            raise RecipeError(
                f"expected quantization.float_layers among {', '.join(known)}, but recipe {recipe.name} has "
                f"{', '.join(unknown)}; correct the names"
            )


class Samples(Protocol):
    """Training images."""

    def take(self, count: int) -> tuple[Images, str]:
        """A sample of at most `count` of them, and a digest of it."""
        ...


class Calibrations(Protocol):
    """Activation ranges of a model on samples of its training images."""

    def of(self, images: int, method: CalibrationMethod, progress: Steps) -> tuple[Calibration, CalibrationFacts]:
        """Ranges on at most `images` of them, and what the sidecar says about them."""
        ...


class Source:
    """A model in the form that gets converted, and its answers for verification images; loaded when first needed."""

    def __init__(self, path: Path, samples: Samples) -> None:
        self._path, self.samples = path, samples

    @cached_property
    def _model(self) -> Any:
        _, keras = require_tensorflow()
        return keras.models.load_model(self._path, compile=False, safe_mode=True)

    @cached_property
    def images(self) -> Images:
        """(N, H, W, 3) uint8."""
        return self.samples.take(VERIFICATION_IMAGES)[0]

    @cached_property
    def answers(self) -> Probabilities:
        """The model's probabilities for them."""
        return np.asarray(outputs_of(self._model, self.images), np.float32)

    @cached_property
    def graph(self) -> Graph:
        """What `inference_graph` returns."""
        # Before the graph is made, which calls the layers once more.
        _ = self.answers
        return inference_graph(self._model)


@dataclass(frozen=True)
class Limit:
    """The largest drop that int8 files may have, and what measures it, made when it is first needed."""

    max_drop: float
    evaluator: Callable[[], Evaluator]


@dataclass(frozen=True)
class _Made:
    """A file's content, its float layers, and what the sidecar says about how its numbers were found."""

    content: bytes
    float_layers: tuple[str, ...]
    ranges: RangeSource | None
    calibration: CalibrationFacts | None
    mixed: MixedPrecisionFacts | None


class Exporter:
    """Makes artefacts; what several of them need is loaded when the first one does.

    `ranges` are those that a quantization-aware training learned, None where int8 files are calibrated.
    """

    def __init__(
        self,
        run: RunDir,
        origin: Origin,
        source: Source,
        calibrations: Calibrations,
        ranges: ActivationRanges | None,
        limit: Limit | None,
        progress: Progress,
    ) -> None:
        self._run, self._origin, self._source = run, origin, source
        self._calibrations = calibrations
        self._ranges = ranges
        self._limit = limit
        self._progress = progress
        self._float_models: dict[Callable[[Graph], Any], Any] = {}

    @cached_property
    def _learned(self) -> Calibration:
        assert self._ranges is not None  # the run's training learned them
        graph = self._source.graph
        return calibration_of(graph, learned_by_call(graph, self._ranges), self._source.images)

    def _float_model(self, fmt: Format) -> Any:
        """What a format made of the graph, made once for all recipes of all formats that share it."""
        if fmt.float_model not in self._float_models:
            self._float_models[fmt.float_model] = fmt.float_model(self._source.graph)
        return self._float_models[fmt.float_model]

    @cached_property
    def _evaluator(self) -> Evaluator:
        assert self._limit is not None
        return self._limit.evaluator()

    def export(self, recipe: Recipe) -> Artefact:
        """Write one artefact and its sidecar.

        Raises:
            VerificationError: the written file does not do what its recipe promises; it is not kept.
        """
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
            step = _EVERY_FLOAT_IMAGE if recipe.precision in ("float32", "float16") else 1
            images, answers = self._source.images[::step], self._source.answers[::step]
            # Compressing takes one core for seconds, which the verification leaves idle for much of its time.
            with ThreadPoolExecutor(1) as beside:
                compressed = beside.submit(gzip_bytes, candidate)
                verification = verify_answers(recipe, classifier, images, answers)
                gzipped = compressed.result()
            described = self._described(recipe, candidate, classifier, ops, made, verification, gzipped, started)
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
        gzipped: int,
        started: float,
    ) -> Sidecar:
        if classifier.labels != self._origin.classes:
            raise ArtefactError(
                f"expected the run's labels in {recipe.name}, but the written file has {classifier.labels}"
            )
        size, batch = self._origin.image_size_px, recipe.batch or "N"
        return Sidecar(
            name=recipe.name,
            format=recipe.format,
            precision=recipe.precision,
            sha256=sha256_file(path),
            size_bytes=path.stat().st_size,
            gzip_bytes=gzipped,
            input=InputFacts(shape=(batch, *height_width(size), 3), dtype=recipe.input_dtype, range=(0, 255)),
            output=OutputFacts(shape=(batch, classifier.classes), dtype=recipe.output_dtype),
            ops=dict(ops.by_dtype),
            int8_op_share=round(ops.int8_share, 4),
            float_layers=made.float_layers,
            verification=verification,
            limits=dict(recipe.limits),
            source_sha256=self._origin.model_sha256,
            lineage=self._origin.lineage(recipe, made.float_layers),
            ranges=made.ranges,
            calibration=made.calibration,
            accuracy_aware=made.mixed,
            seconds=round(time.perf_counter() - started, 3),
        )

    def _convert(self, recipe: Recipe, scratch: Path) -> _Made:
        calibration: Calibration | None = None
        facts: CalibrationFacts | None = None
        source: RangeSource | None = None
        if recipe.is_integer:
            source = "calibration" if self._ranges is None else "qat"
            calibration, facts = (self._learned, None) if self._ranges is not None else self._calibrated(recipe)
        fmt = FORMATS[recipe.format]

        graph = self._source.graph

        def request_with(float_layers: tuple[str, ...]) -> ExportRequest:
            lineage = plain(self._origin.lineage(recipe, float_layers))
            return recipe.request(
                graph, self._float_model(fmt), self._origin.classes, lineage, calibration, float_layers
            )

        if self._limit is None:
            declared = tuple(name for name in graph.matrix_layers if name in recipe.float_layers)
            return _Made(fmt.convert(request_with(declared)), declared, source, facts, None)
        shown, _ = self._source.samples.take(recipe.calibration_images)
        mixed = hold_drop(recipe, request_with, shown, self._evaluator, self._limit.max_drop, scratch, self._progress)
        return _Made(mixed.content, mixed.kept.float_layers, source, facts, mixed.facts())

    def _calibrated(self, recipe: Recipe) -> tuple[Calibration, CalibrationFacts]:
        measuring = partial(self._progress, "calibrating")
        return self._calibrations.of(recipe.calibration_images, recipe.calibration_method, measuring)
