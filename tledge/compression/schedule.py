"""How long and how fast a method trains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tledge.core.errors import SettingsError
from tledge.core.types import LARGEST_SEED


@dataclass(frozen=True)
class TrainingSchedule:
    """`epochs` from 0, `learning_rate` above 0: Adam's highest. `seed`, 0 to `LARGEST_SEED`, orders images.

    Raises:
        SettingsError: a value out of range.
    """

    epochs: int
    learning_rate: float
    seed: int

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise SettingsError(f"expected 0 epochs or more, but got {self.epochs}; change it")
        if not 0 < self.learning_rate < math.inf:
            raise SettingsError(f"expected a finite learning rate above 0, but got {self.learning_rate:g}; change it")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise SettingsError(f"expected a seed from 0 to {LARGEST_SEED}, but got {self.seed}; change it")
