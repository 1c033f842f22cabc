"""How a learning rate moves while a model trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tledge.core.dependencies import require_tensorflow

if TYPE_CHECKING:
    import keras


def rise_then_cosine(highest: float, steps: int, rise: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A linear rise from 0 (Goyal et al. 2017), then half a cosine down to 0 (Loshchilov and Hutter 2017).

    Args:
        highest: the learning rate after the rise, above 0.
        steps: batches in all.
        rise: batches of the rise.
    """
    _, keras = require_tensorflow()
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0, decay_steps=max(1, steps - rise), warmup_target=highest, warmup_steps=rise
    )
