"""What TensorFlow keeps of a training that has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def released() -> Iterator[None]:
    """When the block ends, give back the memory of the training steps that were traced in it.

    Optimizers sum gradients over replicas, and TensorFlow registers the gradient of that sum under a new name for
    every traced step. It never removes one, and with it live the step's graph, the weights and the optimizer's
    moments, 0.4 GB after each training of the whole VGG16. Only a backward pass through such a step would look the
    name up.
    """
    from tensorflow.python.framework.ops import gradient_registry

    before = set(gradient_registry.list())
    try:
        yield
    finally:
        # There is no public way to take one back; where the attribute is gone, memory is kept as it was.
        registered = getattr(gradient_registry, "_registry", {})
        for name in set(gradient_registry.list()) - before:
            if name.startswith("CustomGradient-"):
                registered.pop(name, None)
