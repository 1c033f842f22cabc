"""From findings to one cause: what explains most is asked first, so that its consequences are not taken for causes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tledge.diagnosis.answers import CLOSE, AnswerFindings, Explanation, Hypothesis, explain_findings
from tledge.diagnosis.layers import LayerError

# Healthy layers of float16, dynamic and int8 files measured 32 dB and more, whatever the image size; scrambled ones 0.
_DAMAGED_DB = 15.0
_BELOW_OTHERS_DB = 20.0
_HARMLESS_DB = 50.0
# A healthy first convolution measured 38 dB and more; other guesses about the same file 6 and less.
_FIRST_LAYER_DB = 12.0
_FIRST_LAYER_LEAD_DB = 10.0
# The same images give the same range to six digits; learned ranges are compared with themselves.
RANGE_RATIOS = (0.8, 1.25)
CLIPPED = 0.02
_OUTPUT_CAUSES = ("permuted-classes", "dead-class")


def most_likely_cause(
    findings: AnswerFindings,
    layers: Sequence[LayerError],
    same_input_db: float,
    input_hypotheses: Sequence[Hypothesis],
) -> Explanation:
    """Name the most likely cause.

    Args:
        findings: about the answers.
        layers: in the order of the model.
        same_input_db: SQNR of the first convolution's output against the model on the same pixels.
        input_hypotheses: with the same SQNR for transformed pixels.
    """
    if findings.finite < 1:
        return _not_finite(layers)
    if not findings.sums_to_one:
        settled = explain_findings(findings)
        assert settled is not None
        return settled
    if (guess := _input_guess(same_input_db, input_hypotheses)) is not None:
        return Explanation(
            guess.cause,
            f"The first convolution puts out what the model's would with {guess.what} ({guess.first_layer_sqnr_db:.0f} "
            f"dB instead of {same_input_db:.0f} dB): {guess.advice}",
        )
    damaged = _damaged(layers)
    hidden = [layer for layer in damaged if layer.position < len(layers) - 1]
    if hidden:
        return _damage(hidden)
    # A scrambled last layer may happen never to answer a class; then its other logits are wrong too.
    scrambled = findings.best is not None and findings.best.cause == "dead-class" and layers[-1].wrong_channels > 1
    if findings.best is not None and findings.best.cause in _OUTPUT_CAUSES and not scrambled:
        settled = explain_findings(findings)
        assert settled is not None
        return settled
    if damaged:
        return _damage(damaged)
    if (bad := badly_calibrated(layers)) is not None:
        return _calibration(bad, layers)
    return _what_is_left(findings, layers)


def badly_calibrated(layers: Sequence[LayerError]) -> LayerError | None:
    """The layer whose range is the furthest from what the calibration images need, None if all fit."""
    low, high = RANGE_RATIOS
    off = [
        layer
        for layer in layers
        if layer.range_ratio is not None and (not low <= layer.range_ratio <= high or _cuts_off(layer))
    ]
    return min(off, key=lambda layer: layer.own_sqnr_db, default=None)


def _cuts_off(layer: LayerError) -> bool:
    """Whether a file's range cuts off many values that the one of the calibration images would hold.

    Of few values some lie beyond any range that other images gave.
    """
    if layer.clipped is None or layer.clipped <= CLIPPED or layer.file_range is None:
        return False
    (low, high), (wanted_low, wanted_high) = layer.file_range, layer.expected_range
    allowed = CLIPPED * (wanted_high - wanted_low)
    return low > wanted_low + allowed or high < wanted_high - allowed


def ranges_off(ratios: Sequence[float]) -> int:
    """How many ranges are not as wide as the calibration images need, given the file's width over the needed one."""
    low, high = RANGE_RATIOS
    return sum(not low <= ratio <= high for ratio in ratios)


def _input_guess(same_input_db: float, guesses: Sequence[Hypothesis]) -> Hypothesis | None:
    known = [(guess.first_layer_sqnr_db, guess) for guess in guesses if guess.first_layer_sqnr_db is not None]
    best_db, best = max(known, key=lambda pair: pair[0])
    return best if best_db >= max(_FIRST_LAYER_DB, same_input_db + _FIRST_LAYER_LEAD_DB) else None


def _damaged(layers: Sequence[LayerError]) -> list[LayerError]:
    usual = float(np.median([layer.weights_sqnr_db for layer in layers]))
    limit = max(_DAMAGED_DB, min(usual - _BELOW_OTHERS_DB, _HARMLESS_DB))
    return [layer for layer in layers if layer.weights_sqnr_db < limit]


def _damage(damaged: Sequence[LayerError]) -> Explanation:
    worst = min(damaged, key=lambda layer: layer.weights_sqnr_db)
    more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
    dead = f", {worst.dead_channels} of {worst.channels} channels dead" if worst.dead_channels else ""
    return Explanation(
        "damaged-layer",
        f"{worst.name}{more} does not compute what the model's layer makes of the same input "
        f"({worst.weights_sqnr_db:.0f} dB{dead}): its weights differ from the run's; export the file again.",
    )


def _not_finite(layers: Sequence[LayerError]) -> Explanation:
    worst = min(layers, key=lambda layer: (layer.own_sqnr_db, layer.position))
    return Explanation(
        "not-finite",
        f"Answers are NaN or infinite, and {worst.name} is the first layer to blame: its weights or scales overflow; "
        "export the file again, in float32 if its precision is float16.",
    )


def _calibration(bad: LayerError, layers: Sequence[LayerError]) -> Explanation:
    count = ranges_off([layer.range_ratio for layer in layers if layer.range_ratio is not None])
    return Explanation(
        "calibration",
        f"The range of {bad.name} is {bad.range_ratio:.2g} times as wide as the calibration images need and cuts off "
        f"{bad.clipped:.1%} of its values, and {count} of {len(layers)} ranges are off: the file was calibrated on "
        "other images; calibrate it on the run's training images, by exporting it again.",
    )


def _what_is_left(findings: AnswerFindings, layers: Sequence[LayerError]) -> Explanation:
    worst = min(layers, key=lambda layer: layer.own_sqnr_db)
    numbers = f"agreement {findings.agreement:.3f}, mean difference {findings.distance:.2g}"
    if findings.distance < CLOSE:
        return Explanation("none", f"The file answers as the run's model does ({numbers}); nothing to do.")
    if worst.own_sqnr_db < _HARMLESS_DB:
        return Explanation(
            "quantization-loss",
            f"Every layer computes what it should up to rounding ({numbers}), most of it in {worst.name} "
            f"({worst.own_sqnr_db:.0f} dB): the precision is too low; try `tledge optimize --method qat`, more "
            "calibration images, or a float recipe.",
        )
    return Explanation(
        "unknown",
        f"The layers compute what they should but the answers differ ({numbers}): what follows the last layer is "
        "wrong; export the file again and report it.",
    )
