"""Run a Keras model over images batch by batch, through one compiled graph instead of `Model.predict`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.arrays import allocate
from tledge.core.dependencies import require_tensorflow

BATCH = 16
# Of 224 px images only four at a time: the activations of VGG16's first layers take 50 MB an image.
_PIXELS_AT_ONCE = 4 * 224 * 224


def compiled(model: Any, then: Callable[[Any], Any] = lambda outputs: outputs) -> Callable[[NDArray[Any]], Any]:
    """A model's inference as one graph, which follows its weights.

    Args:
        model: of Keras 3 or Keras 2, with one input.
        then: applied to the model's outputs inside the graph.

    Returns:
        A function from a batch (N, …) of any number type, cast to float32, to what `then` returns, as arrays.
    """
    tf, _ = require_tensorflow()
    call = tf.function(lambda x: then(model(x, training=False)), reduce_retracing=True)
    return lambda batch: tf.nest.map_structure(np.asarray, call(tf.constant(batch, tf.float32)))


def batch_of(shape: Sequence[int]) -> int:
    """How many images of (height, width, …) go through a net at once: 16, of large ones fewer."""
    return max(1, min(BATCH, _PIXELS_AT_ONCE // max(1, math.prod(shape[:2]))))


def outputs_of(
    model: Any, images: NDArray[Any], then: Callable[[Any], Any] = lambda outputs: outputs, folder: Path | None = None
) -> Any:
    """What a model puts out for images (N, …), as `compiled` returns it, at most 16 at a time.

    What is too large for memory is kept as `tledge.core.arrays.allocate` does in `folder`.
    """
    call = compiled(model, then)
    batch = batch_of(images.shape[1:3])
    found: list[NDArray[Any]] = []
    for start in range(0, len(images), batch):
        outputs = call(images[start : start + batch])
        several = isinstance(outputs, list | tuple)
        parts = outputs if several else [outputs]
        found = found or [allocate((len(images), *part.shape[1:]), folder, part.dtype) for part in parts]
        for values, part in zip(found, parts, strict=True):
            values[start : start + len(part)] = part
    return found if several else found[0]
