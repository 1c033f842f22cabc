"""Activations of the frozen layers, computed once and kept in memory or memory-mapped."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.types import Labels
from tledge.data.pixels import BUDGET_BYTES
from tledge.model.forward import BATCH, compiled
from tledge.selection.features import WIDTHS, FeatureCache, Features, pooled_features
from tledge.training.task import TrainingTask

# Features are put into the cache in parts: memory stays bounded, and a killed training loses one part at most.
_KEPT_AT_ONCE = 1024


@dataclass(frozen=True)
class Prefix:
    """Kept activations: rows of `values` (N, …) float32 are images in the order train, then val.

    `cached` of them were known from an earlier command.
    """

    values: NDArray[np.float32]
    seconds: float
    cached: int = 0

    def rows(self, task: TrainingTask) -> tuple[Labels, Labels]:
        """Which rows are training images and which validation images of the task that this was computed for."""
        positions = np.arange(len(self.values))
        return positions[: len(task.train[0])], positions[len(task.train[0]) :]


def compute_prefix(task: TrainingTask, prefix: Any, source: NDArray[np.float32] | None = None) -> Prefix:
    """Run every train and validation image through the frozen layers, once.

    Args:
        task: the images.
        prefix: a Keras model from pixels, or from `source`, to the activations to keep.
        source: activations of earlier layers, of which the task's indices are rows; None: the task's pixels.
    """
    tf, _ = require_tensorflow()
    started = time.perf_counter()
    indices = np.concatenate([task.train[0], task.val[0]])
    values = _allocate((len(indices), *prefix.output_shape[1:]), task.scratch)
    call = compiled(prefix, lambda outputs: tf.cast(outputs, tf.float32))
    done = 0
    batches = task.pixels.batches(indices, BATCH) if source is None else _rows(source, indices)
    for batch in batches:
        values[done : done + len(batch)] = call(batch)
        done += len(batch)
        task.progress("frozen layers", done, len(indices))
    return Prefix(values, time.perf_counter() - started)


def kept_features(task: TrainingTask, cache: FeatureCache) -> Prefix:
    """The means of block 5 for every train and validation image: from the cache, or computed and put there.

    Args:
        task: the images, and a model whose trunk is the cache's.
        cache: what earlier commands left.

    Raises:
        DataError: an image changed since it was first read.
    """
    started = time.perf_counter()
    indices = np.concatenate([task.train[0], task.val[0]])
    values = _allocate((len(indices), WIDTHS[-1]), task.scratch)
    cached = 0
    for start in range(0, len(indices), _KEPT_AT_ONCE):
        rows = indices[start : start + _KEPT_AT_ONCE]
        found, known = cache.complete([task.pixels.digest(int(row)) for row in rows], _computing(task, rows))
        values[start : start + len(rows)] = found[:, -WIDTHS[-1] :]
        cached += known
        task.progress("frozen layers", start + len(rows), len(indices))
    return Prefix(values, time.perf_counter() - started, cached)


def _computing(task: TrainingTask, rows: Labels) -> Callable[[Labels], Features]:
    return lambda missing: pooled_features(task.model, task.pixels, rows[missing], task.compute)


def _rows(source: NDArray[np.float32], indices: Labels) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(indices), BATCH):
        yield source[indices[start : start + BATCH]]


def _allocate(shape: tuple[int, ...], scratch: Path) -> NDArray[np.float32]:
    if 4 * int(np.prod(shape)) <= BUDGET_BYTES:
        return np.empty(shape, np.float32)
    # A name of its own: activations of two places in the net may be kept at the same time.
    folder = Path(tempfile.mkdtemp(dir=scratch))
    return np.lib.format.open_memmap(folder / "activations.npy", "w+", np.float32, shape)
