"""Which numbers a training multiplies: float32, or half of its bits where the machine has instructions for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tledge.core.dependencies import require_tensorflow
from tledge.core.environment import cpu
from tledge.core.errors import SettingsError, TledgeError
from tledge.core.types import ComputeType
from tledge.model.preprocessing import PREPROCESSING

if TYPE_CHECKING:
    import keras

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
# From these compute capabilities on NVIDIA's tensor cores multiply in the format.
CAPABILITIES: Mapping[ComputeType, tuple[int, int]] = {"float16": (7, 0), "bfloat16": (8, 0)}


def require_compute(compute: ComputeType) -> None:
    """Check a choice before slow work.

    Raises:
        SettingsError: a format that this machine would have to emulate, which is slower than float32.
    """
    if (lacks := lacking(compute)) is not None:
        raise SettingsError(f"expected {lacks}; leave out --compute {compute}")


def lacking(compute: ComputeType) -> str | None:
    """What multiplies in a format without emulating it, and that this machine has none; None if it has one.

    TensorFlow is loaded for other formats than float32: where it finds GPUs, it computes on them.
    """
    if compute == "float32":
        return None
    tf, _ = require_tensorflow()
    details = tf.config.experimental.get_device_details
    found = [details(gpu).get("compute_capability", (0, 0)) for gpu in tf.config.list_physical_devices("GPU")]
    wanted = f"a GPU of compute capability {'.'.join(map(str, CAPABILITIES[compute]))} for {compute}"
    if found:
        capability = ".".join(map(str, min(found)))
        return None if min(found) >= CAPABILITIES[compute] else f"{wanted}, but this one has {capability}"
    name, flags = cpu()
    if compute == "float16":
        return f"{wanted}, but TensorFlow finds no GPU"
    if set(BFLOAT16_FLAGS) & set(flags):
        return None
    return f"a processor with bfloat16 instructions ({', '.join(BFLOAT16_FLAGS)}), or {wanted}, but {name} has none"


def optimizer_of(learning_rate: Any, compute: ComputeType) -> keras.optimizers.Optimizer:
    """Adam; in float16 it scales the loss, since gradients below 6e-8 would be 0 (Micikevicius et al. 2018).

    Args:
        learning_rate: a number, or a schedule of Keras.
        compute: what the layers multiply in.
    """
    _, keras = require_tensorflow()
    adam = keras.optimizers.Adam(learning_rate)
    return keras.optimizers.LossScaleOptimizer(adam) if compute == "float16" else adam


@contextmanager
def enough_memory(for_what: str, remedy: str) -> Iterator[None]:
    """Say in one line what to do where TensorFlow finds no memory in the block.

    Raises:
        TledgeError: it found none.
    """
    tf, _ = require_tensorflow()
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        place = "the GPU has" if "GPU" in str(error) else "there is"
        raise TledgeError(f"expected memory for {for_what}, but {place} too little; {remedy}") from None


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
        layer.dtype_policy = keras.DTypePolicy(f"mixed_{compute}")
    try:
        yield
    finally:
        for layer, policy in zip(changed, before, strict=True):
            layer.dtype_policy = policy
