"""Stage 2: write the artefacts that recipes ask for, and prove right away that each is what it says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tledge.dependencies import require_tensorflow
from tledge.environment import versions
from tledge.errors import ArtefactError
from tledge.files import gzip_bytes, read_json, sha256_file, write_bytes, write_json
from tledge.manifest import Manifest, quantization_digest, read_manifest, verify_reference
from tledge.model.inference import inference_model
from tledge.model.ranges import ActivationRanges
from tledge.recipe import DEFAULT_RECIPES, SUFFIXES, Recipe, load_recipes
from tledge.rundir import RunDir, open_run, remove_stale, require_writable, sidecar_of
from tledge.runners import Runner, open_runner
from tledge.stages.export_verification import learned_ranges, verify_answers, verify_precision
from tledge.stages.training_samples import TrainingSamples
from tledge.targets import CONVERTERS, OP_COUNTERS, ExportRequest, OpCount
from tledge.types import Json, Probabilities

Progress = Callable[[str, int, int], None]

VERIFICATION_IMAGES = 20
_CONVERTING = ("tensorflow", "keras", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Artefact:
    """One exported file and its sidecar's content; `kept` if an earlier export had already made the same."""

    name: str
    path: Path
    sidecar: Json
    kept: bool


@dataclass(frozen=True)
class ExportResult:
    """The artefacts of one export, in the order of the recipes."""

    run: RunDir
    artefacts: tuple[Artefact, ...]


def export(
    run_path: Path, recipe_names: tuple[str, ...], *, force: bool = False, progress: Progress = lambda *_: None
) -> ExportResult:
    """Export a run by recipes, skipping artefacts that are already there and made the same way.

    Args:
        run_path: the run.
        recipe_names: built-in names or TOML files; empty for the default six.
        force: export again even what is there.
        progress: called with (what, recipes done, recipes in all).

    Raises:
        RecipeError: unknown, malformed or impossible recipe.
        RunError, DataError: the run or its images are not what the manifest says.
        VerificationError: a written file does not do what its recipe promises; it is not kept.
    """
    recipes = load_recipes(recipe_names or DEFAULT_RECIPES)
    run = open_run(run_path)
    manifest = read_manifest(run)
    verify_reference(run, manifest)
    ranges = learned_ranges(run, manifest)
    require_writable(run)
    remove_stale(run.exports)
    samples = TrainingSamples(run, manifest)
    source: _Source | None = None
    artefacts = []
    for done, recipe in enumerate(recipes):
        progress("exporting", done, len(recipes))
        kept = None if force else _already_there(run, manifest, recipe)
        if kept is None:
            source = source or _Source(run, samples)
            kept = _export_one(run, manifest, recipe, source, samples, ranges if recipe.precision == "int8" else None)
        artefacts.append(kept)
    progress("exporting", len(recipes), len(recipes))
    return ExportResult(run, tuple(artefacts))


class _Source:
    """The reference in the form that gets converted, and its answers for the verification images."""

    def __init__(self, run: RunDir, samples: TrainingSamples) -> None:
        _, keras = require_tensorflow()
        reference = keras.models.load_model(run.model, compile=False, safe_mode=True)
        self.model = inference_model(reference)
        self.images, _ = samples.take(VERIFICATION_IMAGES)
        self.answers: Probabilities = np.asarray(reference(self.images.astype(np.float32), training=False), np.float32)


def lineage_of(manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    """What an artefact carries about its origin; it depends on the run and the recipe alone."""
    quantization = quantization_digest(manifest) if recipe.precision == "int8" else None
    return {
        "tledge": versions()["tledge"],
        "source_sha256": manifest.model_sha256,
        **({"quantization_sha256": quantization} if quantization else {}),
        "recipe": recipe.name,
        "recipe_sha256": recipe.digest,
        "technique": manifest.technique,
        "weights_sha256": manifest.weights["digest"],
        "data_fingerprint": manifest.data_fingerprint,
        "image_size_px": manifest.image_size_px,
        "resize_method": manifest.resize_method,
        "versions": {name: versions()[name] for name in _CONVERTING if name in versions()},
    }


def _already_there(run: RunDir, manifest: Manifest, recipe: Recipe) -> Artefact | None:
    path = run.artefact(recipe.name, recipe.suffix)
    if not (path.is_file() and sidecar_of(path).is_file()):
        return None
    sidecar = read_json(sidecar_of(path))
    same = sidecar.get("lineage") == lineage_of(manifest, recipe) and sidecar.get("sha256") == sha256_file(path)
    return Artefact(recipe.name, path, sidecar, kept=True) if same else None


def _export_one(
    run: RunDir,
    manifest: Manifest,
    recipe: Recipe,
    source: _Source,
    samples: TrainingSamples,
    ranges: ActivationRanges | None,
) -> Artefact:
    started = time.perf_counter()
    calibration, calibration_digest = samples.take(recipe.calibration_images if ranges is None else 0)
    request = ExportRequest(
        name=recipe.name,
        precision=recipe.precision,
        model=source.model,
        labels=tuple(manifest.classes),
        calibration=calibration,
        lineage=lineage_of(manifest, recipe),
        reduce_range=recipe.reduce_range,
        ranges=ranges,
    )
    content = CONVERTERS[recipe.format](request)
    path = run.artefact(recipe.name, recipe.suffix)
    path.parent.mkdir(exist_ok=True)
    # A hidden name with the right suffix: runtimes can open it, and no later command takes it for an artefact.
    candidate = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        write_bytes(candidate, content)
        ops = OP_COUNTERS[recipe.format](candidate)
        verify_precision(recipe, ops)
        runner = open_runner(candidate)
        verification = verify_answers(recipe, runner, source.images, source.answers)
        sidecar = _sidecar(recipe, manifest, candidate, runner, ops, verification)
        if recipe.precision == "int8":
            sidecar["ranges"] = "calibration" if ranges is None else "qat"
        if len(calibration):
            sidecar["calibration"] = {"images": len(calibration), "sha256": calibration_digest, "subset": "train"}
        sidecar["seconds"] = round(time.perf_counter() - started, 3)
        # The old sidecar goes first and the new one comes last: an artefact with a sidecar is always whole.
        sidecar_of(path).unlink(missing_ok=True)
        for suffix in SUFFIXES.values():
            path.with_suffix(suffix).unlink(missing_ok=True)  # a recipe of this name may have had another format
        candidate.replace(path)
        write_json(sidecar_of(path), sidecar)
    finally:
        candidate.unlink(missing_ok=True)
    return Artefact(recipe.name, path, sidecar, kept=False)


def _sidecar(recipe: Recipe, manifest: Manifest, path: Path, runner: Runner, ops: OpCount, verification: Json) -> Json:
    if runner.labels != tuple(manifest.classes):
        raise ArtefactError(f"expected the run's labels in {recipe.name}, but the written file has {runner.labels}")
    side = manifest.image_size_px
    return {
        "name": recipe.name,
        "format": recipe.format,
        "precision": recipe.precision,
        "sha256": sha256_file(path),
        "size_bytes": path.stat().st_size,
        "gzip_bytes": gzip_bytes(path),
        "input": {"shape": ["N", side, side, 3], "dtype": recipe.input_dtype, "range": [0, 255]},
        "output": {"shape": ["N", runner.classes], "dtype": recipe.output_dtype},
        "ops": dict(ops.by_dtype),
        "int8_op_share": round(ops.int8_share, 4),
        "verification": verification,
        "limits": dict(recipe.limits),
        "source_sha256": manifest.model_sha256,
        "lineage": lineage_of(manifest, recipe),
    }
