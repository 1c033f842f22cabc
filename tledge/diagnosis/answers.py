"""What an artefact's answers alone tell: each fault predicts other answers, and the best prediction names the fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError
from tledge.core.types import Images, Probabilities
from tledge.model.preprocessing import MEAN_BGR
from tledge.runtimes.declared import SCALINGS, Channels, Scaling
from tledge.runtimes.form import ModelForm
from tledge.stats import metrics

# A fault that makes all answers alike is told from others that do so only by its very numbers.
_EXACTLY = 0.02
_OF_VARIATION = 0.5
# Mean total variation up to which answers count as the model's own.
CLOSE = 0.05
# A guess must predict the answers this much better than "nothing is wrong" does, and well in itself.
_MUCH_BETTER = 0.5
_WELL = 0.15
_FEW_IMAGES = 16
_BATCH = 16
_DEAD = 0.05


Cause = Literal[
    "none",
    "not-finite",
    "output-scale",
    "permuted-classes",
    "dead-class",
    "channel-order",
    "scaled-input",
    "mean-subtracted-twice",
    "missing-preprocessing",
    "damaged-layer",
    "calibration",
    "quantization-loss",
    "optimized-model",
    "unknown",
]
"""Most likely cause. `optimized-model`: the file answers like the run's model, and it is that model which differs from
the original it was made from."""


@dataclass(frozen=True)
class Explanation:
    """The most likely cause, and one sentence that says why and what to try."""

    cause: Cause
    sentence: str


@dataclass(frozen=True)
class Hypothesis:
    """One guess at what went wrong, and how well it predicts what the artefact does.

    `distance` is the mean total variation, 0..1, between the artefact's probabilities and the predicted ones. `advice`
    is what to try if it is right, the end of a sentence.
    `first_layer_sqnr_db` says the same of the first convolution's output; None for guesses about the output, and where
    no layers were looked at.
    """

    cause: Cause
    what: str
    distance: float
    advice: str
    first_layer_sqnr_db: float | None = None


Pixels = NDArray[np.float32]
"""(N, S, S, 3) RGB; 0 to 255 unless transformed."""


@dataclass(frozen=True)
class Transform:
    """A fault of the input: swap red and blue if `swapped`, then multiply by `scale`, then add `offset`.

    Both hold one value, or one for red, green and blue. `advice` is the end of a sentence.
    """

    cause: Cause
    what: str
    advice: str
    swapped: bool = False
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)

    def apply(self, pixels: Pixels) -> Pixels:
        """The pixels on which the healthy model answers as a file with this fault does on the true ones."""
        ordered = pixels[..., ::-1] if self.swapped else pixels
        return np.asarray(
            ordered * np.asarray(self.scale, np.float32) + np.asarray(self.offset, np.float32), np.float32
        )


_MEAN_RGB = MEAN_BGR[::-1]
_INSIDE = "the preprocessing is part of the model, so convert it as it is and preprocess nothing outside."
_SWAP = "remove the swap of red and blue that was added to the file, or pass it RGB."

INPUT_TRANSFORMS = (
    Transform("channel-order", "red and blue swapped", _SWAP, swapped=True),
    Transform("scaled-input", "pixels divided by 255", _INSIDE, scale=(1 / 255,)),
    Transform("scaled-input", "pixels scaled to -1..1", _INSIDE, scale=(2 / 255,), offset=(-1.0,)),
    Transform("mean-subtracted-twice", "the mean subtracted twice", _INSIDE, offset=tuple(-mean for mean in _MEAN_RGB)),
    # The model subtracts the mean and swaps channels: undone beforehand, it sees what a file without these steps sees.
    Transform(
        "missing-preprocessing",
        "neither channels swapped nor the mean subtracted",
        _INSIDE,
        swapped=True,
        offset=_MEAN_RGB,
    ),
    Transform("missing-preprocessing", "the mean not subtracted", _INSIDE, offset=_MEAN_RGB),
)


def other_forms(name: str, taken: ModelForm) -> tuple[Transform, ...]:
    """Every other way in which a model could take pixels than the one it is given them in.

    Args:
        name: of the file, as `--input` calls it.
        taken: how its input is filled.
    """
    orders: tuple[Channels, ...] = ("rgb", "bgr")
    forms = [(order, each) for each in SCALINGS.values() for order in orders if each.channels in (None, order)]
    return tuple(
        _mistaken(name, taken, order, scaling)
        for order, scaling in forms
        if (order, scaling.mean, scaling.std) != (taken.channels, taken.scaling.mean, taken.scaling.std)
    )


def _mistaken(name: str, taken: ModelForm, channels: Channels, scaling: Scaling) -> Transform:
    """A model that takes `scaling` reads values that were made by `taken.scaling` as those of other pixels."""
    factors = np.asarray(scaling.std) / np.asarray(taken.scaling.std)
    shifts = np.asarray(scaling.mean) - np.asarray(taken.scaling.mean) * factors
    in_rgb = slice(None) if channels == "rgb" else slice(None, None, -1)
    form = scaling.name if scaling.channels else f"{scaling.name},{channels}"
    return Transform(
        "scaled-input" if (scaling.mean, scaling.std) != (taken.scaling.mean, taken.scaling.std) else "channel-order",
        f"pixels as {channels} {scaling.name} instead of {taken.channels} {taken.scaling.name}",
        f"declare --input {name}={form}, or convert the file again.",
        swapped=channels != taken.channels,
        scale=tuple(factors[in_rgb].tolist()),
        offset=tuple(shifts[in_rgb].tolist()),
    )


class Original(Protocol):
    """A model that can be asked about pixels which no image has."""

    def predict_floats(self, pixels: Pixels) -> Probabilities:
        """Classify (N, S, S, 3) float32 RGB pixels, not only of 0..255; returns (N, C)."""
        ...


@dataclass(frozen=True)
class FaultHypotheses:
    """What may be wrong with a file: `transforms` of its input; `labels` in the texts, and `otherwise` what to try."""

    labels: Sequence[str]
    transforms: Sequence[Transform] = INPUT_TRANSFORMS
    otherwise: str = "run `tledge diagnose` on the file to find the layer."


@dataclass(frozen=True)
class AnswerFindings:
    """What was found in (N, C) answers.

    `distance` is the mean total variation, 0..1, between artefact and model, `variation` the same between the
    artefact's answers and their mean. `row_sum` is the median over images of the sum of the artefact's probabilities.
    `finite` is the share, 0..1, of images with finite answers. `dead_class` is the index of a class that the model
    names and the artefact never does. `permutation` tells for each of the model's classes which output of the artefact
    fits best. `hypotheses` are sorted, the best first.
    """

    distance: float
    variation: float
    agreement: float
    row_sum: float
    sums_to_one: bool
    finite: float
    dead_class: int | None
    permutation: tuple[int, ...]
    hypotheses: tuple[Hypothesis, ...]

    @property
    def best(self) -> Hypothesis | None:
        """The guess that explains the answers, None if nothing is wrong with them or no guess does."""
        if not self.hypotheses or self.distance < CLOSE:
            return None
        first = self.hypotheses[0]
        limit = min(_WELL, _MUCH_BETTER * self.distance, max(_EXACTLY, _OF_VARIATION * self.variation))
        return first if first.distance <= limit else None


def distance(first: Probabilities, second: Probabilities) -> float:
    """Mean over images of the total variation of two answers: half the sum of absolute differences, 0..1."""
    return float(np.abs(first - second).sum(axis=1).mean() / 2)


def evenly(count: int, at_most: int) -> NDArray[np.int64]:
    """Indices of at most so many of `count` images, evenly spaced since subsets are sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(np.int64))


def examine_answers(
    reference: Original,
    images: Images,
    artefact_answers: Probabilities,
    reference_answers: Probabilities,
    faults: FaultHypotheses,
) -> AnswerFindings:
    """Compare answers, and the artefact's with what each fault would make of the reference's.

    Args:
        reference: the model that the artefact should be.
        images: (N, S, S, 3) uint8, of the reference's size; transformed ones of a few are asked about.
        artefact_answers: (N, C) to the same images.
        reference_answers: (N, C) to the same images.
        faults: what to look for.
    """
    finite = np.isfinite(artefact_answers).all(axis=1)
    classes = artefact_answers.shape[1]
    if not finite.all():
        share = float(finite.mean())
        return AnswerFindings(1.0, 0.0, 0.0, 0.0, False, share, None, tuple(range(classes)), ())
    sums = artefact_answers.sum(axis=1)
    row_sum = float(np.median(sums))
    # Of floats, or of integers in the 256 steps that converters give to a softmax.
    off = [metrics.sums_off(artefact_answers, reference_answers, step) for step in (0.0, 1 / 256)]
    sums_to_one = any(value <= limit for value, limit in off)
    # What else is wrong shows better once the scale is right.
    found = artefact_answers if sums_to_one or row_sum <= 0 else artefact_answers / max(row_sum, 1e-6)
    permutation, permuted = _permutation(found, reference_answers, faults.labels)
    dead_class, dead = _dead_class(found, reference_answers, faults.labels)
    hypotheses = [*_input_hypotheses(reference, images, found, faults.transforms), *permuted, *dead]
    return AnswerFindings(
        distance=distance(found, reference_answers),
        variation=distance(found, found.mean(axis=0, keepdims=True)),
        agreement=float(np.mean(found.argmax(axis=1) == reference_answers.argmax(axis=1))),
        row_sum=row_sum,
        sums_to_one=sums_to_one,
        finite=1.0,
        dead_class=dead_class,
        permutation=permutation,
        hypotheses=tuple(sorted(hypotheses, key=lambda hypothesis: hypothesis.distance)),
    )


def _input_hypotheses(
    reference: Original, images: Images, answers: Probabilities, transforms: Sequence[Transform]
) -> list[Hypothesis]:
    few = evenly(len(images), _FEW_IMAGES)
    pixels = images[few].astype(np.float32)
    result = []
    for transform in transforms:
        batches = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
        predicted = np.concatenate([reference.predict_floats(transform.apply(batch)) for batch in batches])
        away = distance(answers[few], predicted)
        result.append(Hypothesis(transform.cause, transform.what, away, transform.advice))
    return result


def _permutation(
    found: Probabilities, expected: Probabilities, names: Sequence[str]
) -> tuple[tuple[int, ...], list[Hypothesis]]:
    """The assignment of outputs to classes that minimises the summed absolute difference (Hungarian method)."""
    cost = np.abs(found[:, None, :] - expected[:, :, None]).sum(axis=0)
    _, columns = require("scipy.optimize").linear_sum_assignment(cost)
    permutation = tuple(int(column) for column in columns)
    moved = [f"{names[i]} at {names[column]}'s place" for i, column in enumerate(permutation) if i != column]
    if not moved:
        return permutation, []
    what = "classes permuted: " + ", ".join(moved[:6]) + (", …" if len(moved) > 6 else "")
    advice = "take labels and outputs in the original's order, or export the file again."
    return permutation, [Hypothesis("permuted-classes", what, distance(found[:, list(permutation)], expected), advice)]


def _dead_class(
    found: Probabilities, expected: Probabilities, names: Sequence[str]
) -> tuple[int | None, list[Hypothesis]]:
    """The class that the model names most often among those the artefact gives next to no probability."""
    counts = np.bincount(expected.argmax(axis=1), minlength=expected.shape[1])
    never = np.bincount(found.argmax(axis=1), minlength=expected.shape[1]) == 0
    counts = np.where(never & (found.max(axis=0) < _DEAD), counts, 0)
    dead = int(counts.argmax())
    if not counts[dead]:
        return None, []
    without = expected.copy()
    without[:, dead] = 0
    without /= np.maximum(without.sum(axis=1, keepdims=True), 1e-12)
    advice = "the last layer's weights for it are gone; export the file again."
    return dead, [Hypothesis("dead-class", f"{names[dead]} never answered", distance(found, without), advice)]


def explain_answers(
    input_dtype: str,
    reference: Original,
    images: Images,
    artefact_answers: Probabilities,
    reference_answers: Probabilities,
    faults: FaultHypotheses,
) -> Explanation:
    """The most likely cause of a failed check, from answers that are there; `reference` runs on a few images only.

    Args:
        input_dtype: of the artefact.
        reference: what it was compared with.
        images: (N, S, S, 3) uint8 of the reference's input size, in the order of the answers.
        artefact_answers: (N, C) as its classifier returned them.
        reference_answers: (N, C).
        faults: what to look for.

    Returns:
        The cause and one sentence. Layers are not looked at: `damaged-layer` and `calibration` are left to
        `tledge diagnose`, and come out as `unknown` or `quantization-loss` here.

    Raises:
        ArtefactError: numbers of images differ.
    """
    if not len(images) == len(artefact_answers) == len(reference_answers):
        raise ArtefactError(
            f"expected as many answers as images, but got {len(images)} images, {len(artefact_answers)} and "
            f"{len(reference_answers)} answers; pass those of the same images"
        )
    findings = examine_answers(reference, images, artefact_answers, reference_answers, faults)
    if (explained := explain_findings(findings)) is not None:
        return explained
    if findings.distance < CLOSE and findings.agreement == 1:
        return Explanation("none", "The answers are the model's own; nothing to do.")
    numbers = f"(agreement {findings.agreement:.2f}, mean difference {findings.distance:.2g})"
    differ = f"The answers differ in no way that input or output explain {numbers}"
    # Rounding moves answers a little; what makes them entirely others is something else.
    if findings.distance < (CLOSE if input_dtype == "float32" else _WELL):
        blame = "rounding, calibration or a damaged layer"
        return Explanation("quantization-loss", f"{differ}: {blame}; {faults.otherwise}")
    return Explanation("unknown", f"{differ}; {faults.otherwise}")


def explain_findings(findings: AnswerFindings) -> Explanation | None:
    """The cause that answers alone settle, None if they settle none."""
    if findings.finite < 1:
        return Explanation(
            "not-finite",
            f"{1 - findings.finite:.0%} of the answers are NaN or infinite: weights or scales of the file overflow; "
            "export it again, in float32 if its precision is float16.",
        )
    if not findings.sums_to_one:
        return Explanation(
            "output-scale",
            f"The probabilities of an image sum to {findings.row_sum:.3g} instead of 1: the output's scale is wrong by "
            "that factor; correct the scale and zero point of the output tensor, or export the file again.",
        )
    best = findings.best
    if best is None:
        return None
    return Explanation(best.cause, f"{_text(best, findings)} {best.advice}")


def _text(best: Hypothesis, findings: AnswerFindings) -> str:
    return (
        f"The file answers as the model would with {best.what} (mean difference {best.distance:.2g} instead of "
        f"{findings.distance:.2g}):"
    )
