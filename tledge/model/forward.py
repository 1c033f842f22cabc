"""Run a Keras model over images batch by batch, through one compiled graph instead of `Model.predict`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow

BATCH = 16


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


def outputs_of(model: Any, images: NDArray[Any], then: Callable[[Any], Any] = lambda outputs: outputs) -> Any:
    """What a model puts out for images (N, …), as `compiled` returns it, 16 at a time."""
    call = compiled(model, then)
    parts = [call(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    if isinstance(parts[0], list | tuple):
        return [np.concatenate(part) for part in zip(*parts, strict=True)]
    return np.concatenate(parts)
