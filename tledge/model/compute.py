"""Which numbers a training multiplies: float32, or bfloat16 where the processor has instructions for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tledge.core.dependencies import require_tensorflow
from tledge.core.environment import cpu
from tledge.core.errors import SettingsError
from tledge.core.types import ComputeType
from tledge.model.preprocessing import PREPROCESSING

if TYPE_CHECKING:
    import keras

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")


def require_compute(compute: ComputeType) -> None:
    """Check a choice before slow work.

    Raises:
        SettingsError: bfloat16 on a processor that would have to emulate it, which is slower than float32.
    """
    if compute == "float32":
        return
    name, flags = cpu()
    if not set(BFLOAT16_FLAGS) & set(flags):
        raise SettingsError(
            f"expected a processor with bfloat16 instructions ({', '.join(BFLOAT16_FLAGS)}) for --compute bfloat16, "
            f"but {name} has none; leave it out"
        )


@contextmanager
def computing_in(model: keras.Model, compute: ComputeType) -> Iterator[None]:
    """Let the layers of a model multiply in `compute` inside the block; models of the same layers are built in there.

    Weights and their updates stay float32 (P. Micikevicius et al., "Mixed Precision Training", 2018), and so do the
    preprocessing, which subtracts means from pixels, and the last layer, whose softmax makes the loss. Afterwards the
    layers are float32 layers again, so nothing of this is seen in the saved model.
    """
    if compute == "float32":
        yield
        return
    _, keras = require_tensorflow()
    # The input layer computes nothing.
    changed = [layer for layer in model.layers[1:-1] if layer.name != PREPROCESSING]
    before = [layer.dtype_policy for layer in changed]
    for layer in changed:
        layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    try:
        yield
    finally:
        for layer, policy in zip(changed, before, strict=True):
            layer.dtype_policy = policy
