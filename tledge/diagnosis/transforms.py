"""What apps and converters do to pixels by mistake, as functions of the pixels that should have gone in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tledge.diagnosis.findings import Cause
from tledge.model.vgg16 import MEAN_BGR
from tledge.runtimes.forms import SCALINGS, Channels, Scaling
from tledge.runtimes.pixel_values import PixelForm

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


def other_forms(name: str, taken: PixelForm) -> tuple[Transform, ...]:
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


def _mistaken(name: str, taken: PixelForm, channels: Channels, scaling: Scaling) -> Transform:
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
