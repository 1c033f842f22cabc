"""What apps and converters do to pixels by mistake, as functions of the pixels that should have gone in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tledge.diagnosis.findings import Cause
from tledge.model.vgg16 import MEAN_BGR

Pixels = NDArray[np.float32]
"""(N, S, S, 3) RGB; 0 to 255 unless transformed."""

_MEAN_RGB = np.asarray(MEAN_BGR[::-1], np.float32)


@dataclass(frozen=True)
class Transform:
    """`apply` gives the pixels on which the healthy model answers as a file with this fault does on the true ones."""

    cause: Cause
    what: str
    advice: str
    apply: Callable[[Pixels], Pixels]


_PREPROCESSED_INSIDE = "the preprocessing is part of the model, so convert it as it is and preprocess nothing outside"

INPUT_TRANSFORMS = (
    Transform(
        "channel-order",
        "red and blue swapped",
        "remove the swap of red and blue that was added to the file, or pass it RGB",
        lambda x: x[..., ::-1],
    ),
    Transform(
        "scaled-input", "pixels divided by 255", _PREPROCESSED_INSIDE, lambda x: np.divide(x, 255, dtype=np.float32)
    ),
    Transform(
        "scaled-input",
        "pixels scaled to -1..1",
        _PREPROCESSED_INSIDE,
        lambda x: np.subtract(x / 127.5, 1, dtype=np.float32),
    ),
    Transform(
        "mean-subtracted-twice",
        "the mean subtracted twice",
        _PREPROCESSED_INSIDE,
        lambda x: np.subtract(x, _MEAN_RGB, dtype=np.float32),
    ),
    # The model subtracts the mean and swaps channels: undo both beforehand, and it sees what a file without them sees.
    Transform(
        "missing-preprocessing",
        "neither channels swapped nor the mean subtracted",
        _PREPROCESSED_INSIDE,
        lambda x: np.add(x[..., ::-1], _MEAN_RGB, dtype=np.float32),
    ),
    Transform(
        "missing-preprocessing",
        "the mean not subtracted",
        _PREPROCESSED_INSIDE,
        lambda x: np.add(x, _MEAN_RGB, dtype=np.float32),
    ),
)
