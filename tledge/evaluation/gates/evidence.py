"""What is known of one artefact before gates hold it against limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tledge.core.types import Labels, Probabilities
from tledge.stats.changes import Changes
from tledge.stats.intervals import Interval
from tledge.stats.paired import Hits

# Answers whose total variation is a thousandth at most on every image are the same model up to rounding: only images
# between two classes could flip, and there the reference is a coin toss as well. Single probabilities would not do: of
# a thousand classes all are small.
_SAME = 1e-3


@dataclass(frozen=True)
class RangeFit:
    """How the ranges of a file's integer activations fit those that calibration on the run's images gives.

    `off` of `layers` are too narrow or too wide; `images` calibrated them, 0 if training learned the ranges. That of
    `worst` is `ratio` times as wide as it should be.
    """

    off: int
    layers: int
    images: int
    worst: str
    ratio: float


@dataclass(frozen=True)
class PairedAnswers:
    """`answers` of an artefact and of the `reference`, both (N, C), to the same images in the same order."""

    answers: Probabilities
    reference: Probabilities

    @property
    def changed(self) -> NDArray[np.bool_]:
        """(N,), for which images the two name different classes."""
        return np.asarray(self.answers.argmax(axis=1) != self.reference.argmax(axis=1))

    @property
    def changes(self) -> Changes:
        """How many images these are."""
        return Changes(int(np.count_nonzero(self.changed)), len(self.reference))

    @property
    def difference(self) -> Probabilities:
        """|artefact - reference|, (N, C); a value that is no number differs by as much as probabilities can."""
        return np.asarray(np.nan_to_num(np.abs(self.answers - self.reference), nan=1.0, posinf=1.0), np.float32)

    @property
    def largest_variation(self) -> float:
        """The largest total variation of the two answers to one image, 0..1: half the sum of absolute differences."""
        return float(self.difference.sum(axis=1).max() / 2)

    @property
    def alike(self) -> bool:
        """Whether the two are the same model up to rounding, so that no statistics are needed."""
        return self.largest_variation <= _SAME and not self.changed.any()

    @property
    def alike_in_words(self) -> str:
        """The note of a gate that passes for that."""
        return f"answers equal to {self.largest_variation:.1g} on every image"


@dataclass(frozen=True)
class Evidence(PairedAnswers):
    """What is known of one artefact: its answers to labelled images, `labels` (N,) being the true classes, and more.

    `output_step` is the probability between two neighbouring values of the file's output, 0 where it is a float.
    `arena_bytes` is what LiteRT Micro needs for a .tflite file, None where it was not measured.
    `int8_share` is None where the file's operators cannot be counted. `latency` is p50 over Keras's with its interval,
    of `latency_n` inferences, None without a measurement. `baseline_hits` is which images the accepted release got
    right, None without a baseline; `same_as_baseline` if it was this very file. `ranges` is None where the file has no
    integer activations, or theirs cannot be known. `precision` is that of a file made from the reference, None of any
    other. `unlabelled` are answers to images without labels, None without such.
    `resized` is which images the artefact gets right when they are resized in other ways, by the way's name; empty
    where that was not measured.
    """

    labels: Labels
    classes: tuple[str, ...]
    size_bytes: int
    output_step: float
    int8_share: float | None = None
    arena_bytes: int | None = None
    latency: Interval | None = None
    latency_n: int = 0
    baseline_hits: Hits | None = None
    same_as_baseline: bool = False
    ranges: RangeFit | None = None
    precision: str | None = None
    unlabelled: PairedAnswers | None = None
    resized: Mapping[str, Hits] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Images."""
        return len(self.labels)

    @property
    def hits(self) -> Hits:
        """Which images the artefact gets right."""
        return np.asarray(self.answers.argmax(axis=1) == self.labels)

    @property
    def reference_hits(self) -> Hits:
        """Which images the reference gets right."""
        return np.asarray(self.reference.argmax(axis=1) == self.labels)
