"""Training pictures resized at random as apps do it, since a model bears what it has seen.

Models answer worse where pictures come by another filter or in another mode than those they learned from (of size and
crop: H. Touvron et al., "Fixing the train-test resolution discrepancy", 2019). Here each epoch draws a way for each
picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tledge.core.types import Images, Labels
from tledge.data.decode import Resizer
from tledge.data.pixels import PixelStore

OWN_SHARE = 0.5
"""Of the pictures that come as they do in validation and check, which choose the best epoch and judge the model."""


class RandomResizing:
    """Pixels of training images, each epoch each by a way of its own: half of them by the store's, the rest by others.

    Other ways are decoded when they are taken: keeping them would take the memory of as many stores.

    Args:
        pixels: the images as the run resizes them.
        others: other ways to bring them to the same size.
        seed: what is drawn depends on it and on the number of the epoch.
    """

    def __init__(self, pixels: PixelStore, others: Sequence[Resizer], seed: int) -> None:
        self._stores = [pixels, *(pixels.resized_by(resizer) for resizer in others)]
        self._seed = seed
        self.restart()

    def restart(self) -> None:
        """Go back to before the first epoch."""
        self._generator = np.random.default_rng(self._seed)
        self._ways = np.zeros(0, np.int64)

    def draw(self, count: int) -> None:
        """Begin an epoch: draw a way for each of `count` training images."""
        others = self._generator.integers(1, len(self._stores), count)
        self._ways = np.where(self._generator.random(count) < OWN_SHARE, 0, others)

    def take(self, indices: Labels, rows: Labels) -> Images:
        """Pixels of some images, (N, H, W, 3) uint8, by the ways of this epoch.

        Args:
            indices: where the images stand in the store, (N,).
            rows: their numbers among the training images, (N,).

        Raises:
            DataError: a file changed or vanished since it was first read.
        """
        ways = self._ways[rows]
        pixels = self._stores[0].take(indices)
        for way in np.unique(ways[ways > 0]):
            pixels[ways == way] = self._stores[way].take(indices[ways == way])
        return pixels
