"""Method `filters`: a smaller input, fewer filters, least-squares reconstruction, distillation."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tledge.compression.budget import Limits, allocate, default_image_size
from tledge.compression.chain import Keep, layer_costs, multiply_adds, narrow, parameters
from tledge.compression.distill import Distillation, DistillSettings, Progress, distill
from tledge.compression.reconstruct import reconstruct
from tledge.compression.study import PICTURES, Study
from tledge.compression.truncation import AUTO, NONE, features_layer, require_last_layer
from tledge.errors import SettingsError
from tledge.metrics import Proportion
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX

if TYPE_CHECKING:
    import keras

RUNGS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Speed-ups among which the search for `max_drop` looks."""


@dataclass(frozen=True)
class ShrinkSettings:
    """How small, or how good: `max_drop`, or any of `speedup`, `size_ratio` and `image_size_px`.

    `speedup` is the ratio of multiply-adds, original to result, above 1; `size_ratio` that of parameters, above 1; None
    for no limit. `max_drop`, in 0..1, is how much validation accuracy the smallest acceptable model may lose; it may go
    with the other two but not with a speed-up. `image_size_px` is the side of the result's input, None for one that
    suits the speed-up; alone, it prunes no filter. `last_layer` is where the net ends: a layer of `LAST_LAYERS`, `none`
    for where it ends now, or `auto` for an earlier end where validation images do not tell the difference. `epochs`,
    `patience` and `learning_rate` are those of the distillation; `time_budget_s` ends it after that many seconds per
    candidate, and where it bites the result depends on the machine's speed. `pictures` and `seed` are those of the
    `Study`.

    Raises:
        SettingsError: no target, both a speed-up and a maximum drop, or a value out of range.
    """

    speedup: float | None = None
    max_drop: float | None = None
    size_ratio: float | None = None
    image_size_px: int | None = None
    last_layer: str = AUTO
    epochs: int = 10
    patience: int = 10
    learning_rate: float = 5e-5
    time_budget_s: float | None = None
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
            ("a speed-up above 1", self.speedup is None or self.speedup > 1),
            ("a maximum drop from 0 to 1", self.max_drop is None or 0 <= self.max_drop <= 1),
            ("a size ratio above 1", self.size_ratio is None or self.size_ratio > 1),
            (f"an image size of at least {MIN_IMAGE_SIZE_PX} px", (self.image_size_px or 32) >= MIN_IMAGE_SIZE_PX),
            ("0 epochs or more", self.epochs >= 0),
            ("a patience of 1 or more", self.patience >= 1),
            ("a learning rate above 0", self.learning_rate > 0),
            ("1 picture or more", self.pictures >= 1),
            ("a time budget above 0 s", self.time_budget_s is None or self.time_budget_s > 0),
        )
        for wanted, holds in limits:
            if not holds:
                raise SettingsError(f"expected {wanted}, but got {self}; change it")


@dataclass(frozen=True)
class Step:
    """What one step made of the model.

    `what` is `original`, `resized`, `truncated`, `filters`, `reconstructed` or `distilled`; `speedup` the ratio of
    multiply-adds that was aimed at (1.0 for the original). `val_accuracy` carries its n and 95 % interval.
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

    `result` is the step that made `model`. `filters` says by convolution how many are left. `distillation` is None if
    it was left out.
    """

    model: keras.Model
    speedup: float
    steps: tuple[Step, ...]
    result: Step
    filters: dict[str, int]
    distillation: Distillation | None


def shrink(study: Study, settings: ShrinkSettings, progress: Progress) -> Shrunk:
    """Make a trained model cheaper without seeing a test image.

    Filters are ranked and weights refitted on training images alone; validation images stop the distillation and
    judge the result. Equal inputs and seeds give the same filters; weights agree up to rounding of threaded sums.

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
    whole = study.teacher(side, last_layer, progress)
    log.add("truncated" if last_layer != features_layer(original) else "resized", speedup, whole)
    if speedup == 1.0 and settings.size_ratio is None:
        full = {
            name: layer.filters for layer in whole.layers if (name := layer.name).startswith("block") and layer.weights
        }
        return Shrunk(whole, speedup, tuple(log.steps), log.steps[-1], full, None)
    lesson = study.at(side, last_layer, progress)
    limits = Limits(
        multiply_adds(original) / speedup,
        None if settings.size_ratio is None else parameters(original) / settings.size_ratio,
    )
    counts = allocate(layer_costs(lesson.teacher), lesson.rankings, limits)
    if all(count == len(lesson.rankings[name].order) for name, count in counts.items()):
        return Shrunk(lesson.teacher, speedup, tuple(log.steps), log.steps[-1], counts, None)
    keep: Keep = {name: lesson.rankings[name].keep(count) for name, count in counts.items()}
    small = narrow(lesson.teacher, keep)
    log.add("filters", speedup, small)
    progress("reconstructing", 0, 1)
    reconstruct(small, keep, lesson.targets, lesson.sampling)
    log.add("reconstructed", speedup, small)
    distillation = None
    if settings.epochs:
        last_convolution = [name for name in keep if name.startswith("block")][-1]
        lectures = study.lectures(side, last_layer, progress)
        train, val = (lecture.of(keep[last_convolution]) for lecture in lectures)
        distillation = distill(small, train, val, _distillation(settings), progress)
        log.add("distilled", speedup, small)
    return Shrunk(small, speedup, tuple(log.steps), log.steps[-1], counts, distillation)


def _last_layer(study: Study, settings: ShrinkSettings, side: int, progress: Progress) -> str:
    if settings.last_layer not in (AUTO, NONE):
        return settings.last_layer
    # An image size alone asks for that and nothing else.
    narrower = not (settings.speedup is settings.max_drop is settings.size_ratio is None)
    return study.last_layer(side, progress) if settings.last_layer == AUTO and narrower else features_layer(study.model)


def _distillation(settings: ShrinkSettings) -> DistillSettings:
    return DistillSettings(
        epochs=settings.epochs,
        patience=settings.patience,
        learning_rate=settings.learning_rate,
        time_budget_s=settings.time_budget_s,
        seed=settings.seed,
    )


def _search(study: Study, log: _Log, settings: ShrinkSettings, progress: Progress) -> Shrunk:
    """Bisect the rungs for the largest speed-up that holds, taking for granted that a smaller one holds as well."""
    assert settings.max_drop is not None
    floor = log.steps[0].val_accuracy.value - settings.max_drop
    found: Shrunk | None = None
    low, high = 0, len(RUNGS)
    while low < high:
        middle = (low + high) // 2
        candidate = _candidate(study, log, settings, RUNGS[middle], progress)
        if candidate.steps[-1].val_accuracy.value >= floor:
            found, low = candidate, middle + 1
        else:
            high = middle
    if found is None:
        raise SettingsError(
            f"expected a model whose validation accuracy drops by at most {settings.max_drop:g}, but even "
            f"{RUNGS[0]:g} times fewer multiply-adds cost more; allow a larger drop or add training images"
        )
    return replace(found, steps=tuple(log.steps))
