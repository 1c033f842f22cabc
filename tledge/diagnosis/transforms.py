"""What apps and converters do to pixels by mistake, as functions of the pixels that should have gone in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tledge.diagnosis.findings import Cause
from tledge.model.vgg16 import MEAN_BGR

Pixels = NDArray[np.float32]
"""(N, S, S, 3) RGB; 0 to 255 unless transformed."""


@dataclass(frozen=True)
class Transform:
    """A fault of the input: swap red and blue if `swapped`, then multiply by `scale`, then add `offset`."""

    cause: Cause
    what: str
    advice: str
    swapped: bool = False
    scale: float = 1.0
    offset: tuple[float, ...] = (0.0,)

    def apply(self, pixels: Pixels) -> Pixels:
        """The pixels on which the healthy model answers as a file with this fault does on the true ones."""
        ordered = pixels[..., ::-1] if self.swapped else pixels
        return np.asarray(ordered * np.float32(self.scale) + np.asarray(self.offset, np.float32), np.float32)


_MEAN_RGB = MEAN_BGR[::-1]
_INSIDE = "the preprocessing is part of the model, so convert it as it is and preprocess nothing outside"
_SWAP = "remove the swap of red and blue that was added to the file, or pass it RGB"

INPUT_TRANSFORMS = (
    Transform("channel-order", "red and blue swapped", _SWAP, swapped=True),
    Transform("scaled-input", "pixels divided by 255", _INSIDE, scale=1 / 255),
    Transform("scaled-input", "pixels scaled to -1..1", _INSIDE, scale=2 / 255, offset=(-1.0,)),
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
