"""What an export must be and do before it is kept: learned ranges unchanged, integer where promised, answers close."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from tledge.errors import RunError, VerificationError
from tledge.files import sha256_file
from tledge.manifest import Manifest, quantization_digest
from tledge.metrics import agreement
from tledge.model.ranges import ActivationRanges, read_ranges
from tledge.recipe import Recipe
from tledge.rundir import RunDir
from tledge.runners import Runner
from tledge.targets import OpCount
from tledge.types import Images, Json, Probabilities


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


def verify_precision(recipe: Recipe, ops: OpCount) -> None:
    """Refuse a file whose convolutions and dense layers do not compute in what its name says.

    Raises:
        VerificationError: the converter fell back to floats, or to integers where none were asked for.
    """
    int8_ops = ops.matrix_ops if recipe.precision == "int8" else 0
    # The converter leaves weights of less than 1024 numbers in float when only weights are quantized.
    low, high = {"dynamic": (0.95, 1.0), "int8": (1.0, 1.0)}.get(recipe.precision, (0.0, 0.0))
    if ops.int8_matrix_ops != int8_ops or not low <= ops.int8_weight_share <= high or not ops.matrix_ops:
        raise VerificationError(
            f"expected {recipe.name} to have {int8_ops} integer layers of {ops.matrix_ops} and at least {low:.0%} int8 "
            f"weights, but the written file has {ops.int8_matrix_ops} and {ops.int8_weight_share:.0%}; "
            "the converter fell back, please report it"
        )


def verify_answers(recipe: Recipe, runner: Runner, images: Images, expected: Probabilities) -> Json:
    """Refuse a file whose answers differ from the model's by more than its recipe allows; return the differences.

    Args:
        recipe: holds the limits.
        runner: has the file open.
        images: (N, S, S, 3) uint8, training images.
        expected: the model's probabilities (N, C).

    Raises:
        VerificationError: NaN, or a limit is broken.
    """
    answers = runner.predict(images)
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
            raise VerificationError(
                f"expected {name} of {limit:g} for {recipe.name}, but the written file has {value:.4g} on "
                f"{len(answers)} training images; it was not kept: relax [verify] in the recipe or choose another"
            )
    return {
        "images": len(answers),
        "max_probability_difference": found["max_probability_difference"],
        "mean_probability_difference": found["max_mean_probability_difference"],
        "agreement": found["min_agreement"],
    }
