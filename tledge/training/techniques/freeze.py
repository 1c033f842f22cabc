"""Technique 3: freeze the first layers, train the rest.

Yosinski et al., "How transferable are features in deep neural networks?", 2014.
"""

from __future__ import annotations

from tledge.model.compute import computing_in
from tledge.training.activations import fit_on_activations
from tledge.training.fit import fit_on_pixels, set_trainable
from tledge.training.head import start_head
from tledge.training.task import Training, TrainingTask


def train(task: TrainingTask) -> Training:
    """Train what comes after the first `task.frozen_layers` layers.

    Without augmentation the frozen layers see the same pixels every epoch, so their activations are computed once.
    """
    set_trainable(task.model, frozen_layers=task.frozen_layers)
    if task.augment or task.frozen_layers <= 1:
        with computing_in(task.model, task.compute):
            start_head(task)
        return fit_on_pixels(task)
    return fit_on_activations(task)
