"""Technique 2: VGG16's architecture with a new head; every layer trains."""

from __future__ import annotations

from tledge.model.compute import computing_in
from tledge.training.fit import fit_on_pixels, set_trainable
from tledge.training.head import start_head
from tledge.training.initialisation import scale_to_unit_variance
from tledge.training.task import Training, TrainingTask


def train(task: TrainingTask) -> Training:
    """Train all layers on the pixels, from pre-trained or random weights, whichever the model holds.

    Pre-trained layers wait until the head fits them. Random layers are scaled before, and their learning rate warms up
    and decays: see `techniques.fit`.
    """
    set_trainable(task.model, frozen_layers=0)
    if task.from_random:
        scale_to_unit_variance(task)
    else:
        with computing_in(task.model, task.compute):
            start_head(task)
    return fit_on_pixels(task)
