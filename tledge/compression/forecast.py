"""How long `optimize` will take on this machine, told before it starts.

A net is timed on a few images; the rest is counting how many images go how often through it. The factors were fitted to
what whole runs on photographs took (docs/design.md).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tledge.compression.flat import input_size
from tledge.core.image_size import height_width
from tledge.model.forward import batch_of, compiled

if TYPE_CHECKING:
    import keras

# Passes of a picture through the original, or what takes as long: to look at layers and to fit each thin one, to answer
# for a distillation, and in a training step of a net of as many multiply-adds.
_FITTED, _ANSWERED, _TRAINED = 7.5, 1.2, 3.5
# Systems of equations, whatever the pictures, for each million of weights.
_EQUATIONS_S = 2.0


@dataclass(frozen=True)
class Work:
    """What there is to do: `fitted` pictures for least squares, `taught` ones to learn from, `validated` ones.

    The net has `million_weights`, and its multiply-adds become a `share` of what they are.
    """

    fitted: int
    taught: int
    validated: int
    epochs: int
    share: float
    million_weights: float

    def seconds(self, image_s: float) -> float:
        """How long it takes where an image takes `image_s` in a pass through the original."""
        passes = _FITTED * self.fitted + _ANSWERED * (self.taught + self.validated) + 3 * self.validated
        steps = self.epochs * (_TRAINED * self.taught + self.validated) * self.share
        return (passes + steps) * image_s + _EQUATIONS_S * self.million_weights


def seconds_per_image(model: keras.Model) -> float:
    """Of a pass through a net in batches as `outputs_of` makes them, the faster of two."""
    size = height_width(input_size(model))
    images = np.random.default_rng(0).integers(0, 256, (batch_of(size), *size, 3), np.uint8)
    call = compiled(model)
    call(images)
    found = []
    for _ in range(2):
        began = time.perf_counter()
        call(images)
        found.append(time.perf_counter() - began)
    return min(found) / len(images)
