"""Technique 3: freeze the first layers, train the rest.

Yosinski et al., "How transferable are features in deep neural networks?", 2014.
"""

from __future__ import annotations

from tledge.model.compute import computing_in
from tledge.training.activations import fit_on_activations
from tledge.training.fit import fit_on_pixels, set_trainable
from tledge.training.head import start_head
from tledge.training.task import Lesson, Training


def train(lesson: Lesson) -> Training:
    """Train what comes after the first `lesson.frozen_layers` layers.

    Without augmentation the frozen layers see the same pixels every epoch, so their activations are computed once.
    """
    set_trainable(lesson.model, frozen_layers=lesson.frozen_layers)
    if lesson.augment or lesson.frozen_layers <= 1:
        with computing_in(lesson.model, lesson.compute):
            start_head(lesson)
        return fit_on_pixels(lesson)
    return fit_on_activations(lesson)
