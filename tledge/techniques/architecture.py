"""Technique 2: VGG16's architecture with a new head; every layer trains."""

from __future__ import annotations

from tledge.techniques.fit import fit_on_pixels, set_trainable
from tledge.techniques.lesson import Lesson, Training


def train(lesson: Lesson) -> Training:
    """Train all layers on the pixels, from pre-trained or random weights, whichever the model holds."""
    set_trainable(lesson.model, frozen_layers=0)
    return fit_on_pixels(lesson)
