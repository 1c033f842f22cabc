"""Activations of the frozen layers, computed once and kept in memory or memory-mapped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.data.pixels import BUDGET_BYTES
from tledge.dependencies import require_tensorflow
from tledge.selection.feature_cache import FeatureCache
from tledge.selection.pooled import WIDTHS, pooled_features
from tledge.techniques.lesson import Lesson

_BATCH = 16


@dataclass(frozen=True)
class Prefix:
    """Kept activations: rows of `values` (N, …) float32 are images in the order train, then val.

    `cached` of them were known from an earlier command.
    """

    values: NDArray[np.float32]
    seconds: float
    cached: int = 0


def compute_prefix(lesson: Lesson, prefix: Any) -> Prefix:
    """Run every train and validation image through the frozen layers, once.

    Args:
        lesson: the images.
        prefix: a Keras model from pixels to the activations to keep.
    """
    tf, _ = require_tensorflow()
    started = time.perf_counter()
    indices = np.concatenate([lesson.train[0], lesson.val[0]])
    values = _allocate((len(indices), *prefix.output_shape[1:]), lesson.scratch)
    call = tf.function(lambda x: tf.cast(prefix(x, training=False), tf.float32), reduce_retracing=True)
    done = 0
    for batch in lesson.pixels.batches(indices, _BATCH):
        values[done : done + len(batch)] = call(tf.constant(batch, tf.float32)).numpy()
        done += len(batch)
        lesson.progress("frozen layers", done, len(indices))
    return Prefix(values, time.perf_counter() - started)


def kept_features(lesson: Lesson, cache: FeatureCache) -> Prefix:
    """The means of block 5 for every train and validation image: from the cache, or computed and put there.

    Args:
        lesson: the images, and a model whose trunk is the cache's.
        cache: what earlier commands left.

    Raises:
        DataError: an image changed since it was first read.
    """
    started = time.perf_counter()
    indices = np.concatenate([lesson.train[0], lesson.val[0]])
    digests = [lesson.pixels.digest(int(index)) for index in indices]
    known = dict(cache.get(digests))
    missing = np.asarray([row for row, digest in enumerate(digests) if digest not in known], np.int64)
    if len(missing):
        computed = pooled_features(
            lesson.model,
            lesson.pixels,
            indices[missing],
            lesson.compute,
            lambda done, total: lesson.progress("frozen layers", done, total),
        )
        cache.put([digests[row] for row in missing], computed)
        known |= {digests[row]: features for row, features in zip(missing, computed, strict=True)}
    values = _allocate((len(indices), WIDTHS[-1]), lesson.scratch)
    for row, digest in enumerate(digests):
        values[row] = known[digest][-WIDTHS[-1] :]
    return Prefix(values, time.perf_counter() - started, cached=len(indices) - len(missing))


def _allocate(shape: tuple[int, ...], scratch: Path) -> NDArray[np.float32]:
    if 4 * int(np.prod(shape)) <= BUDGET_BYTES:
        return np.empty(shape, np.float32)
    return np.lib.format.open_memmap(scratch / "activations.npy", "w+", np.float32, shape)
