"""What an artefact carries about its origin, what stands in the sidecar beside it, and whether the two still hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tledge.conversion.recipe import Recipe
from tledge.core.environment import versions
from tledge.core.errors import ArtefactError
from tledge.core.files import gzip_bytes, read_json, sha256_file
from tledge.core.types import Json
from tledge.formats.operators import OpCount
from tledge.runs.manifest import Manifest, quantization_digest
from tledge.runs.rundir import sidecar_of
from tledge.runtimes import ImageClassifier

_CONVERTING = ("tensorflow", "keras", "onnx", "onnxruntime")


def lineage_of(manifest: Manifest, recipe: Recipe, float_layers: Sequence[str]) -> dict[str, Any]:
    """What an artefact carries about its origin; it depends on the run, the recipe and the float layers alone."""
    quantization = quantization_digest(manifest) if recipe.precision == "int8" else None
    return {
        "tledge": versions()["tledge"],
        "source_sha256": manifest.model_sha256,
        **({"quantization_sha256": quantization} if quantization else {}),
        **({"float_layers": list(float_layers)} if float_layers else {}),
        "recipe": recipe.name,
        "recipe_sha256": recipe.digest,
        "technique": manifest.technique,
        "weights_sha256": manifest.weights.digest,
        "data_fingerprint": manifest.data_fingerprint,
        "image_size_px": manifest.image_size_px,
        "resize_method": manifest.resize_method,
        "versions": {name: versions()[name] for name in _CONVERTING if name in versions()},
    }


def sidecar_if_current(path: Path, manifest: Manifest, recipe: Recipe, max_drop: float | None) -> Json | None:
    """The sidecar of an artefact that this run and recipe would make again; None if it would become another one.

    A file that a search for `max_drop` made counts for the same limit alone; one that it left fully int8 (or as the
    recipe says) is also what a plain export makes, since then the lineage is the same.
    """
    if not (path.is_file() and sidecar_of(path).is_file()):
        return None
    sidecar = read_json(sidecar_of(path))
    searched = sidecar.get("accuracy_aware")
    if max_drop is not None and not (isinstance(searched, dict) and searched.get("max_drop") == max_drop):
        return None
    # In the recipe the order is free; the sidecar has the model's.
    listed = sidecar.get("float_layers", [])
    found = tuple(map(str, listed)) if isinstance(listed, list) else ()
    wanted = found if max_drop is not None or set(found) == set(recipe.float_layers) else recipe.float_layers
    same = sidecar.get("lineage") == lineage_of(manifest, recipe, wanted) and sidecar.get("sha256") == sha256_file(path)
    return sidecar if same else None


def sidecar(
    recipe: Recipe,
    manifest: Manifest,
    path: Path,
    classifier: ImageClassifier,
    ops: OpCount,
    verification: Json,
    float_layers: Sequence[str],
) -> Json:
    """Describe a freshly written file.

    Args:
        recipe: what it was made by.
        manifest: of its run.
        path: the file.
        classifier: has it open.
        ops: its operators.
        verification: what `verify_answers` returned.
        float_layers: layers that an int8 file computes in float32.

    Raises:
        ArtefactError: the labels in the file are not the run's.
    """
    if classifier.labels != tuple(manifest.classes):
        raise ArtefactError(f"expected the run's labels in {recipe.name}, but the written file has {classifier.labels}")
    side, batch = manifest.image_size_px, recipe.batch or "N"
    return {
        "name": recipe.name,
        "format": recipe.format,
        "precision": recipe.precision,
        "sha256": sha256_file(path),
        "size_bytes": path.stat().st_size,
        "gzip_bytes": gzip_bytes(path),
        "input": {"shape": [batch, side, side, 3], "dtype": recipe.input_dtype, "range": [0, 255]},
        "output": {"shape": [batch, classifier.classes], "dtype": recipe.output_dtype},
        "ops": dict(ops.by_dtype),
        "int8_op_share": round(ops.int8_share, 4),
        **({"float_layers": list(float_layers)} if float_layers else {}),
        "verification": verification,
        "limits": dict(recipe.limits),
        "source_sha256": manifest.model_sha256,
        "lineage": lineage_of(manifest, recipe, float_layers),
    }
