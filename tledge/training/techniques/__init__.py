"""The three transfer-learning techniques, each a module whose code reads like the technique."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tledge.core.progress import Progress
from tledge.core.types import TechniqueName
from tledge.training.task import Epoch, Training, TrainingTask
from tledge.training.techniques import architecture, feature_extraction, freeze

TECHNIQUES: Mapping[TechniqueName, Callable[[TrainingTask], Training]] = {
    "feature-extraction": feature_extraction.train,
    "architecture": architecture.train,
    "freeze": freeze.train,
}

__all__ = ["TECHNIQUES", "Epoch", "Progress", "Training", "TrainingTask"]
