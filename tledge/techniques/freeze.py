"""Technique 3: freeze the first layers, train the rest.

Yosinski et al., "How transferable are features in deep neural networks?", 2014.
"""

from __future__ import annotations

from tledge.techniques.fit import fit_on_activations, fit_on_pixels, set_trainable
from tledge.techniques.lesson import Lesson, Training


def train(lesson: Lesson) -> Training:
    """Train what comes after the first `lesson.frozen_layers` layers.

    Without augmentation the frozen layers see the same pixels every epoch, so their activations are computed once.
    """
    set_trainable(lesson.model, frozen_layers=lesson.frozen_layers)
    if lesson.augment or lesson.frozen_layers <= 1:
        return fit_on_pixels(lesson)
    return fit_on_activations(lesson)
