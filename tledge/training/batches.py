"""Batches for `Model.fit`, of Keras 3 or Keras 2, in an order that depends on a seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.core.types import Labels

Order: TypeAlias = Callable[[], Labels]
"""Called once for every epoch: the rows in its order."""


def keras_batches(
    take: Callable[[Labels], Any], order: Order, batch_size: int, base: Any = None, *, epochs: int = 0, batches: int = 0
) -> Any:
    """A data set that Keras can train and validate on.

    Args:
        take: from the numbers of rows to what Keras gets for them: (inputs, targets).
        order: of the rows, asked before the first epoch and after each.
        batch_size: rows at a time; the last batch may have fewer.
        base: Keras 2's `Sequence` where its `fit` is called; None: Keras 3's `PyDataset`.
        epochs: trained before, by an earlier process: their orders are passed over.
        batches: of each epoch to leave out, fewer than there are: the first ones.
    """
    _, keras = require_tensorflow()

    class Batches(base or keras.utils.PyDataset):  # type: ignore[misc]
        """Rows in batches."""

        def __init__(self) -> None:
            super().__init__()
            for _ in range(epochs + 1):
                self._rows = order()

        def __len__(self) -> int:
            return -(-len(self._rows) // batch_size) - batches

        def __getitem__(self, batch: int) -> Any:
            batch += batches
            return take(self._rows[batch * batch_size : (batch + 1) * batch_size])

        def on_epoch_end(self) -> None:
            self._rows = order()

    return Batches()


def shuffled(count: int, seed: int | None) -> Order:
    """Each epoch shuffles the order of the one before; without a seed rows stay as they are."""
    rows = np.arange(count)
    generator = None if seed is None else np.random.default_rng(seed)

    def following() -> Labels:
        if generator is not None:
            generator.shuffle(rows)
        return rows

    return following


def permuted(count: int, seed: int) -> Order:
    """Each epoch has a permutation of its own. Not the numbers of `shuffled`, from the second epoch on."""
    generator = np.random.default_rng(seed)
    return lambda: generator.permutation(count)
