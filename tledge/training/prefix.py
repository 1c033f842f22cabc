"""Activations of the frozen layers, computed once and kept in memory or memory-mapped."""

from __future__ import annotations

import contextlib
import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.arrays import allocate, fits_memory, mapped
from tledge.core.dependencies import require_tensorflow
from tledge.core.image_size import ImageSize, height_width
from tledge.core.progress import say
from tledge.core.types import Labels
from tledge.model.forward import BATCH, compiled
from tledge.selection.features import WIDTHS, FeatureCache, Features, pooled_features
from tledge.training.task import TrainingTask

# Features are put into the cache in parts: memory stays bounded, and a killed training loses one part at most.
_KEPT_AT_ONCE = 1024
_MOST_AT_ONCE = 64
_PIXELS = 224 * 224
_SUM = np.dtype("<u4")


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

    It goes on from what an earlier process kept in the task's `work`.

    Args:
        task: the images.
        prefix: a Keras model from pixels, or from `source`, to the activations to keep.
        source: activations of earlier layers, of which the task's indices are rows; None: the task's pixels.

    Raises:
        OSError: they are too many for memory, and for the disk.
    """
    tf, _ = require_tensorflow()
    started = time.perf_counter()
    indices = np.concatenate([task.train[0], task.val[0]])
    shape = (len(indices), *prefix.output_shape[1:])
    # From activations it takes no time, and other workers' files are not this one's to write.
    batch_size = _batch(task.pixels.size_px)
    kept = _Kept.of(task, shape, batch_size) if source is None and task.workers.leads else None
    values = allocate(shape, task.scratch) if kept is None else kept.values
    done = known = 0 if kept is None else kept.known()
    if 0 < known < len(indices):
        say(f"frozen layers resumed after image {known} of {len(indices)}")
    call = compiled(prefix, lambda outputs: tf.cast(outputs, tf.float32))
    rest = indices[known:]
    batches = task.pixels.batches(rest, batch_size) if source is None else _rows(source, rest, batch_size)
    for batch in batches:
        values[done : done + len(batch)] = call(batch)
        if kept is not None:
            kept.add(done)
        done += len(batch)
        task.progress("frozen layers", done, len(indices))
    return Prefix(values, time.perf_counter() - started)


class _Kept:
    """Activations in a file, for this process and for one that goes on after it.

    `values` are the file, mapped. A second file has a checksum of each batch that was computed: what was lost with the
    machine's memory is noticed.
    """

    def __init__(self, values: NDArray[np.float32], sums: Path, batch: int) -> None:
        self.values = values
        self._sums = sums
        self._batch = batch

    @classmethod
    def of(cls, task: TrainingTask, shape: tuple[int, ...], batch: int) -> _Kept | None:
        """Those of a task; None where it keeps nothing, or the disk has no room and memory does."""
        if task.work is None:
            return None
        file = task.work / f"{task.part}-activations.f32"
        try:
            values = mapped(file, shape)
        except OSError as error:
            if not fits_memory(shape):
                raise
            say(f"frozen layers are computed, but what they give cannot be kept: {error.strerror or error}")
            return None
        return cls(values, file.with_suffix(".crc"), batch)

    def known(self) -> int:
        """How many rows an earlier process computed, from the first on."""
        found = np.fromfile(self._sums, _SUM) if self._sums.is_file() else np.empty(0, _SUM)
        whole = next((i for i, wanted in enumerate(found) if self._sum(i * self._batch) != wanted), len(found))
        found[:whole].tofile(self._sums)
        return min(whole * self._batch, len(self.values))

    def add(self, start: int) -> None:
        """Count the batch from a row on as computed."""
        # Where the disk is full, what follows is computed again by whoever goes on.
        with contextlib.suppress(OSError), self._sums.open("ab") as stream:
            stream.write(np.asarray(self._sum(start), _SUM).tobytes())

    def _sum(self, start: int) -> int:
        return zlib.crc32(self.values[start : start + self._batch].tobytes())


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
    values = allocate((len(indices), WIDTHS[-1]), task.scratch)
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


def _batch(size_px: ImageSize) -> int:
    """Images at a time: more of small ones, which makes 1.3 times as many a second of 64 px in bfloat16 on AMX."""
    return max(BATCH, min(_MOST_AT_ONCE, BATCH * _PIXELS // math.prod(height_width(size_px))))


def _rows(source: NDArray[np.float32], indices: Labels, batch: int) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(indices), batch):
        yield source[indices[start : start + batch]]
