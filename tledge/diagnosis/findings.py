"""The words of a diagnosis: causes, and what was found about layers, input and output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class LayerError:
    """How one layer's output, after its ReLU and before the softmax, differs from the float model's.

    `position` counts the layers from 0, the input of the first convolution. SQNR is 10 log10 of signal over error
    energy, within -100..200 dB. `sqnr_db` and `cosine` compare with the model on the same pixels, so they include what
    earlier layers lost; `fall_db` is the SQNR of the layer before minus this one's, where 60 dB and more count as
    exact. `own_sqnr_db` compares with what the float layer makes of the artefact's own input to it: what this layer
    alone loses. `weights_sqnr_db` is the same after that float output is rounded and clipped to the file's integers,
    so calibration no longer counts.

    `file_range` is what the file's integers can stand for, None where it holds floats; `expected_range` what they
    should: the range seen on the calibration images or learned in training. `range_ratio` is the width of the first
    over that of the second. `clipped` is the share, 0..1, of the values other than 0 that the file's range cuts off.
    `dead_channels` are constant in the artefact and alive in the model; the `wrong_channels` are those whose own error,
    calibration aside, is more than 1/30 of the layer's mean energy per channel.
    """

    name: str
    position: int
    sqnr_db: float
    own_sqnr_db: float
    weights_sqnr_db: float
    fall_db: float
    cosine: float
    file_range: tuple[float, float] | None
    expected_range: tuple[float, float]
    range_ratio: float | None
    clipped: float | None
    dead_channels: int
    wrong_channels: int
    channels: int


@dataclass(frozen=True)
class Move:
    """`images` validation images that the model calls `expected` and the artefact calls `got`."""

    expected: str
    got: str
    images: int
