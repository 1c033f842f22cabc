"""What an exported file must be and do before it is kept: integer where promised, answers close."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import structs

from tledge.conversion.recipe import Recipe
from tledge.conversion.sidecar import VerificationFacts
from tledge.core.errors import VerificationError
from tledge.core.types import Images, Probabilities
from tledge.formats.operators import OpCount
from tledge.runtimes import ImageClassifier
from tledge.stats.metrics import agreement

# A runtime that takes any batch keeps the activations of all its images at once.
_BATCH = 4


def verify_precision(recipe: Recipe, ops: OpCount, float_layers: Sequence[str]) -> None:
    """Refuse a file whose convolutions and dense layers do not compute in what its name says.

    Args:
        recipe: names the precision.
        ops: the file's operators.
        float_layers: layers of an int8 file that are meant to compute in float.

    Raises:
        VerificationError: the converter fell back to floats, or to integers where none were asked for.
    """
    int8_ops = ops.matrix_ops - len(float_layers) if recipe.is_integer else 0
    low, high = {"dynamic": (1.0, 1.0), "int8": (1.0, 1.0), "int8x16": (1.0, 1.0)}.get(recipe.precision, (0.0, 0.0))
    low = 0.0 if float_layers else low
    if ops.int8_matrix_ops != int8_ops or not low <= ops.int8_weight_share <= high or not ops.matrix_ops:
        raise VerificationError(
            f"expected {recipe.name} to have {int8_ops} integer layers of {ops.matrix_ops} and at least {low:.0%} int8 "
            f"weights, but the written file has {ops.int8_matrix_ops} and {ops.int8_weight_share:.0%}; "
            "the converter fell back, please report it"
        )


def verify_answers(
    recipe: Recipe, classifier: ImageClassifier, images: Images, expected: Probabilities
) -> VerificationFacts:
    """Refuse a file whose answers differ from the model's by more than its recipe allows; return the differences.

    Args:
        recipe: holds the limits.
        classifier: has the file open.
        images: (N, S, S, 3) uint8, training images.
        expected: the model's probabilities (N, C).

    Raises:
        VerificationError: NaN, or a limit is broken.
    """
    parts = [classifier.predict(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    answers = np.concatenate(parts)
    if not np.isfinite(answers).all():
        raise VerificationError(f"expected probabilities from {recipe.name}, but the written file returns NaN")
    difference = np.abs(answers - expected)
    found = {
        "max_probability_difference": float(difference.max()),
        "max_mean_probability_difference": float(difference.mean()),
        "min_agreement": agreement(answers, expected).value,
    }
    for name, limit in structs.asdict(recipe.verify).items():
        value = found[name]
        if value < limit if name.startswith("min") else value > limit:
            way_out = "return layers to float with --max-drop, " if recipe.is_integer else ""
            raise VerificationError(
                f"expected {name} of {limit:g} for {recipe.name}, but the written file has {value:.4g} on "
                f"{len(answers)} training images; it was not kept: {way_out}relax [verify] in the recipe or choose "
                "another"
            )
    return VerificationFacts(
        images=len(answers),
        max_probability_difference=found["max_probability_difference"],
        mean_probability_difference=found["max_mean_probability_difference"],
        agreement=found["min_agreement"],
    )
