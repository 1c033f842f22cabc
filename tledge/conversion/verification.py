"""What an export must be and do before it is kept: learned ranges unchanged, integer where promised, answers close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from tledge.conversion.recipe import Recipe
from tledge.core.errors import RecipeError, RunError, SettingsError, VerificationError
from tledge.core.files import sha256_file
from tledge.core.types import Images, Json, Probabilities
from tledge.evaluation.gates import parse_limits
from tledge.formats.operators import OpCount
from tledge.model.inference import matrix_layers
from tledge.model.ranges import ActivationRanges, read_ranges
from tledge.runs.manifest import Manifest, quantization_digest
from tledge.runs.rundir import RunDir
from tledge.runtimes import ImageClassifier
from tledge.stats.metrics import agreement

if TYPE_CHECKING:
    import keras


def learned_ranges(run: RunDir, manifest: Manifest) -> ActivationRanges | None:
    """Activation ranges of a run from quantization-aware training, None for other runs.

    Raises:
        RunError: the file is missing, changed or malformed.
    """
    digest = quantization_digest(manifest)
    if digest is None:
        return None
    if not run.quantization.is_file() or sha256_file(run.quantization) != digest:
        raise RunError(
            f"expected {run.quantization} to be the file that {run.manifest.name} describes, but it is missing or "
            "its SHA-256 differs; restore it or optimize again"
        )
    return read_ranges(run.quantization)


def require_int8(recipes: Sequence[Recipe], max_drop: float | None) -> None:
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


def require_calibrated(recipes: Sequence[Recipe], max_drop: float | None, ranges: ActivationRanges | None) -> None:
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


def require_known_layers(recipes: Sequence[Recipe], model: keras.Model) -> None:
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


def verify_precision(recipe: Recipe, ops: OpCount, float_layers: Sequence[str]) -> None:
    """Refuse a file whose convolutions and dense layers do not compute in what its name says.

    Args:
        recipe: names the precision.
        ops: the file's operators.
        float_layers: layers of an int8 file that are meant to compute in float.

    Raises:
        VerificationError: the converter fell back to floats, or to integers where none were asked for.
    """
    int8_ops = ops.matrix_ops - len(float_layers) if recipe.precision == "int8" else 0
    # The converter leaves weights of less than 1024 numbers in float when only weights are quantized.
    low, high = {"dynamic": (0.95, 1.0), "int8": (1.0, 1.0)}.get(recipe.precision, (0.0, 0.0))
    low = 0.0 if float_layers else low
    if ops.int8_matrix_ops != int8_ops or not low <= ops.int8_weight_share <= high or not ops.matrix_ops:
        raise VerificationError(
            f"expected {recipe.name} to have {int8_ops} integer layers of {ops.matrix_ops} and at least {low:.0%} int8 "
            f"weights, but the written file has {ops.int8_matrix_ops} and {ops.int8_weight_share:.0%}; "
            "the converter fell back, please report it"
        )


def verify_answers(recipe: Recipe, classifier: ImageClassifier, images: Images, expected: Probabilities) -> Json:
    """Refuse a file whose answers differ from the model's by more than its recipe allows; return the differences.

    Args:
        recipe: holds the limits.
        classifier: has the file open.
        images: (N, S, S, 3) uint8, training images.
        expected: the model's probabilities (N, C).

    Raises:
        VerificationError: NaN, or a limit is broken.
    """
    answers = classifier.predict(images)
    if not np.isfinite(answers).all():
        raise VerificationError(f"expected probabilities from {recipe.name}, but the written file returns NaN")
    difference = np.abs(answers - expected)
    found = {
        "max_probability_difference": float(difference.max()),
        "max_mean_probability_difference": float(difference.mean()),
        "min_agreement": agreement(answers, expected).value,
    }
    for name, limit in asdict(recipe.verify).items():
        value = found[name]
        if value < limit if name.startswith("min") else value > limit:
            way_out = "return layers to float with --max-drop, " if recipe.precision == "int8" else ""
            raise VerificationError(
                f"expected {name} of {limit:g} for {recipe.name}, but the written file has {value:.4g} on "
                f"{len(answers)} training images; it was not kept: {way_out}relax [verify] in the recipe or choose "
                "another"
            )
    return {
        "images": len(answers),
        "max_probability_difference": found["max_probability_difference"],
        "mean_probability_difference": found["max_mean_probability_difference"],
        "agreement": found["min_agreement"],
    }
