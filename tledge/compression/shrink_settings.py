"""What `filters` and `low-rank` are told: how small, or how good."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tledge.compression.schedule import TrainingSchedule
from tledge.compression.study import PICTURES
from tledge.compression.truncation import AUTO, NONE, require_last_layer
from tledge.core.errors import SettingsError
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX


@dataclass(frozen=True)
class ShrinkSettings:
    """How small, or how good: `max_drop`, or any of `speedup`, `size_ratio` and `image_size_px`.

    `speedup` is the ratio of multiply-adds, original to result, above 1; `size_ratio` that of parameters, above 1; None
    for no limit. `max_drop`, in 0..1, is how much validation accuracy the smallest acceptable model may lose; it may go
    with the other two but not with a speed-up. `image_size_px` is the side of the result's input, None for one that
    suits the speed-up; alone, it prunes no filter. `last_layer` is where the net ends: a layer of `LAST_LAYERS`, `none`
    for where it ends now, or `auto` for an earlier end where validation images do not tell the difference. `epochs` and
    `learning_rate` are those of the distillation. `pictures` and `seed` are those of the `Study`.

    Raises:
        SettingsError: no target, both a speed-up and a maximum drop, or a value out of range.
    """

    speedup: float | None = None
    max_drop: float | None = None
    size_ratio: float | None = None
    image_size_px: int | None = None
    last_layer: str = AUTO
    epochs: int = 10
    learning_rate: float = 5e-5
    pictures: int = PICTURES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.speedup is not None and self.max_drop is not None:
            raise SettingsError("expected a speed-up or a maximum accuracy drop, but got both; give one of the two")
        require_last_layer(self.last_layer)
        if self.speedup is self.max_drop is self.size_ratio is self.image_size_px is None and (
            self.last_layer in (AUTO, NONE)
        ):
            raise SettingsError(
                "expected a speed-up, a size ratio, an image size, a last layer or a maximum accuracy drop, but got "
                "none; give one"
            )
        limits = (
            ("a finite speed-up above 1", self.speedup is None or 1 < self.speedup < math.inf),
            ("a maximum drop from 0 to 1", self.max_drop is None or 0 <= self.max_drop <= 1),
            ("a finite size ratio above 1", self.size_ratio is None or 1 < self.size_ratio < math.inf),
            (
                f"an image size of at least {MIN_IMAGE_SIZE_PX} px",
                self.image_size_px is None or self.image_size_px >= MIN_IMAGE_SIZE_PX,
            ),
            ("1 picture or more", self.pictures >= 1),
        )
        for wanted, holds in limits:
            if not holds:
                raise SettingsError(f"expected {wanted}, but got {self}; change it")
        TrainingSchedule(self.epochs, self.learning_rate, self.seed)


@dataclass(frozen=True)
class LowRankSettings(ShrinkSettings):
    """The same for `low-rank`: thin layers bear larger steps than narrow ones."""

    learning_rate: float = 1e-4
