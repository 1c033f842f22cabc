"""Technique 1: use the trunk as it is, train a small head on its output.

Donahue et al., "DeCAF: A Deep Convolutional Activation Feature for Generic Visual Recognition", 2014.
"""

from __future__ import annotations

from tledge.model.vgg16 import TRUNK_LAYERS
from tledge.training.activations import fit_on_activations
from tledge.training.fit import set_trainable
from tledge.training.task import Training, TrainingTask


def train(task: TrainingTask) -> Training:
    """Predict the trunk's output once for train and validation images, then train the head on it.

    Trunk and head are layers of one model all along, so they are joined without copying anything. Augmentation, which
    would need the trunk again for every epoch, is refused where the training is planned.
    """
    set_trainable(task.model, frozen_layers=len(TRUNK_LAYERS))
    return fit_on_activations(task)
