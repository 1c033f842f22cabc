"""Methods `filters` and `low-rank`: a smaller input, an earlier end, cheaper layers, distillation."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tledge.compression.budget import Limits, UnreachableError, default_image_size
from tledge.compression.chain import multiply_adds, parameters
from tledge.compression.cut import CUT_METHODS, Left, holds
from tledge.compression.distill import Distillation, DistillSettings, distill
from tledge.compression.shrink_settings import ShrinkSettings
from tledge.compression.study import Study
from tledge.compression.truncation import AUTO, NONE, features_layer
from tledge.core.errors import SettingsError
from tledge.core.limits import ROUNDING
from tledge.core.progress import Progress
from tledge.stats.metrics import Proportion

if TYPE_CHECKING:
    import keras

RUNGS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Speed-ups among which the search for `max_drop` looks."""


@dataclass(frozen=True)
class Step:
    """What one step made of the model.

    `what` is `original`, `resized`, `truncated`, `filters`, `reconstructed`, `split` or `distilled`; `speedup` the
    ratio of multiply-adds that was aimed at (1.0 for the original). `val_accuracy` carries its n and 95 % interval.
    """

    what: str
    speedup: float
    image_size_px: int
    multiply_adds: int
    parameters: int
    val_accuracy: Proportion
    seconds: float


@dataclass(frozen=True)
class Shrunk:
    """The result: an ordinary chain, and every step that was tried.

    `result` is the step that made `model`. `left` is that of the `Cut`, empty if nothing was cut. `distillation` is
    None if it was left out.
    """

    model: keras.Model
    speedup: float
    steps: tuple[Step, ...]
    result: Step
    left: Left
    distillation: Distillation | None


def shrink(study: Study, settings: ShrinkSettings, progress: Progress) -> Shrunk:
    """Make a trained model cheaper without seeing a test image.

    Layers are looked at and weights refitted on training images alone; validation images stop the distillation and
    evaluate the result. Equal inputs and seeds give the same layers; weights agree up to rounding of threaded sums.

    Args:
        study: the original, left as it is, with its training and validation images; it may serve several calls.
        settings: how small or how good.
        progress: called with (what is going on, steps done, steps in all).

    Raises:
        SettingsError: a target that cannot be met, or not a chain that tledge trains.
    """
    log = _Log(study, [])
    log.add("original", 1.0, study.model)
    if settings.max_drop is None:
        return _candidate(study, log, settings, settings.speedup or 1.0, progress)
    return _search(study, log, settings, progress)


class _Log:
    """Steps as they happen, each with the seconds since the one before."""

    def __init__(self, study: Study, steps: list[Step]) -> None:
        self._study = study
        self.steps = steps
        self._last = time.perf_counter()

    def add(self, what: str, speedup: float, model: keras.Model) -> None:
        side = int(model.input_shape[1])
        found = self._study.val_accuracy(model)
        now = time.perf_counter()
        self.steps.append(Step(what, speedup, side, multiply_adds(model), parameters(model), found, now - self._last))
        self._last = now


def _candidate(study: Study, log: _Log, settings: ShrinkSettings, speedup: float, progress: Progress) -> Shrunk:
    original = study.model
    side = settings.image_size_px or default_image_size(int(original.input_shape[1]), speedup)
    if side > original.input_shape[1]:
        raise SettingsError(
            f"expected an image size of at most the original's {original.input_shape[1]} px, but got {side}; lower it"
        )
    last_layer = _last_layer(study, settings, side, progress)
    whole = study.uncompressed(side, last_layer, progress)
    log.add("truncated" if last_layer != features_layer(original) else "resized", speedup, whole)
    limits = Limits(
        multiply_adds(original) / speedup,
        None if settings.size_ratio is None else parameters(original) / settings.size_ratio,
    )
    if holds(whole, limits):
        return Shrunk(whole, speedup, tuple(log.steps), log.steps[-1], {}, None)
    teacher = study.teacher(side, last_layer, progress)
    cut = CUT_METHODS[type(settings)](
        study, teacher, limits, lambda what, model: log.add(what, speedup, model), progress
    )
    distillation = None
    if settings.epochs:
        train, val = (outputs.of(cut.features) for outputs in study.teacher_outputs(side, last_layer, progress))
        distillation = distill(cut.model, train, val, _distillation(settings), progress)
        log.add("distilled", speedup, cut.model)
    return Shrunk(cut.model, speedup, tuple(log.steps), log.steps[-1], cut.left, distillation)


def _last_layer(study: Study, settings: ShrinkSettings, side: int, progress: Progress) -> str:
    if settings.last_layer not in (AUTO, NONE):
        return settings.last_layer
    # An image size alone asks for that and nothing else.
    narrower = not (settings.speedup is settings.max_drop is settings.size_ratio is None)
    return study.last_layer(side, progress) if settings.last_layer == AUTO and narrower else features_layer(study.model)


def _distillation(settings: ShrinkSettings) -> DistillSettings:
    return DistillSettings(settings.epochs, settings.learning_rate, settings.seed)


def _search(study: Study, log: _Log, settings: ShrinkSettings, progress: Progress) -> Shrunk:
    """Bisect the rungs for the largest speed-up that holds, taking for granted that a smaller one holds as well.

    One that no allocation of channels reaches does not hold.
    """
    assert settings.max_drop is not None
    floor = log.steps[0].val_accuracy.value - settings.max_drop
    found: Shrunk | None = None
    low, high = 0, len(RUNGS)
    while low < high:
        middle = (low + high) // 2
        try:
            candidate = _candidate(study, log, settings, RUNGS[middle], progress)
        except UnreachableError:
            high = middle
            continue
        if candidate.steps[-1].val_accuracy.value >= floor - ROUNDING:
            found, low = candidate, middle + 1
        else:
            high = middle
    if found is None:
        raise SettingsError(
            f"expected a model whose validation accuracy drops by at most {settings.max_drop:g}, but even "
            f"{RUNGS[0]:g} times fewer multiply-adds cost more or cannot be had; allow a larger drop or add training "
            "images"
        )
    return replace(found, steps=tuple(log.steps))
