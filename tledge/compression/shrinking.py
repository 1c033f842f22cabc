"""Make a net smaller: a smaller input, an earlier end, cheaper layers, distillation; `filters` and `low-rank` share it.

The two differ in how the layers get cheaper, which is a function of type `Cheaper`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tledge.compression.budget import file_bytes
from tledge.compression.distill import Distillation, TrainingSchedule, distill
from tledge.compression.flat import input_size, multiply_adds, not_a_chain, parameters
from tledge.compression.images import RunImages
from tledge.compression.method import Outcome
from tledge.compression.study import MOST_PICTURES, PICTURES, Study, Teacher
from tledge.compression.truncation import AUTO, NONE, features_layer, require_end
from tledge.core.errors import SettingsError
from tledge.core.image_size import ImageSize, height_width, sides_text
from tledge.core.limits import ROUNDING
from tledge.core.progress import Progress, say
from tledge.core.settings import Settings, option
from tledge.evaluation.gates import parse_drop
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX
from tledge.stats.metrics import Proportion

if TYPE_CHECKING:
    import keras

EPOCHS, EPOCHS_OF_MANY = 10, 3
MANY_PICTURES = 4000
"""From so many on fewer epochs bring a net as far: what counts is how many pictures it has seen."""

RUNGS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Speed-ups among which the search for `max_drop` looks."""

Note: TypeAlias = Callable[[str, "keras.Model"], None]
"""Called with (what a step was, the model after it)."""
Left: TypeAlias = dict[str, dict[str, int] | dict[str, list[int | None]]]

_POOLED_BY = 32
_SMALLEST_SHARE = 0.7


@dataclass(frozen=True)
class ShrinkSettings(Settings):
    """How small, or how good: `max_drop`, or any of `speedup`, `size_ratio` and `image_size_px`.

    `speedup` is the ratio of multiply-adds, original to result, above 1; `size_ratio` that of parameters, above 1; None
    for no limit. `max_drop`, in 0..1, is how much validation accuracy the smallest acceptable model may lose; it may go
    with the other two but not with a speed-up. `image_size_px` is the side of the result's input, None for one that
    suits the speed-up, which for an input that is no square is its own; alone, it prunes no filter. `last_layer` is
    where the net ends: one of its `ends`, `none` for where it ends now, or `auto` for an earlier end where
    validation images do not tell the difference. `epochs` and `learning_rate` are those of the distillation. `pictures`
    and `seed` are those of the `Study`.

    Raises:
        SettingsError: no target, both a speed-up and a maximum drop, or a value out of range.
    """

    speedup: float | None = option(None, help="Target ratio of multiply-adds, original to result, above 1.")
    max_drop: float | None = option(
        None, help="Instead: the smallest model that loses at most this on validation.", parse=parse_drop
    )
    size_ratio: float | None = option(None, help="Target ratio of weights, above 1; alone or with the others.")
    image_size_px: int | None = option(None, help="Input in pixels. Default: one that suits the speed-up.")
    last_layer: str = option(
        AUTO,
        help="End the net at this layer, such as block4_pool. Default: auto, where validation does not suffer.",
        metavar="LAYER|auto|none",
    )
    epochs: int | None = option(
        None,
        help=f"Most epochs of training; 0 for none. filters, low-rank: {EPOCHS}, or {EPOCHS_OF_MANY} of "
        f"{MANY_PICTURES:,} pictures or more.",
    )
    learning_rate: float = option(5e-5, help="Adam's highest.")
    pictures: int | None = option(
        None,
        help=f"Training images and random views of them to learn from. Default: {PICTURES}, or where there are many "
        f"training images up to {MOST_PICTURES}.",
    )
    seed: int = option(0, help="Of everything random.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.speedup is not None and self.max_drop is not None:
            raise SettingsError("expected a speed-up or a maximum accuracy drop, but got both; give one of the two")
        if not self._has_target():
            raise SettingsError(
                "expected a speed-up, a size ratio, a budget, an image size, a last layer or a maximum accuracy drop, "
                "but got none; give one"
            )
        limits = (
            ("a finite speed-up above 1", self.speedup is None or 1 < self.speedup < math.inf),
            ("a maximum drop from 0 to 1", self.max_drop is None or 0 <= self.max_drop <= 1),
            ("a finite size ratio above 1", self.size_ratio is None or 1 < self.size_ratio < math.inf),
            (
                f"an image size of at least {MIN_IMAGE_SIZE_PX} px",
                self.image_size_px is None or self.image_size_px >= MIN_IMAGE_SIZE_PX,
            ),
            ("1 picture or more", self.pictures is None or self.pictures >= 1),
        )
        for wanted, holds in limits:
            if not holds:
                raise SettingsError(f"expected {wanted}, but got {self}; change it")
        TrainingSchedule(EPOCHS if self.epochs is None else self.epochs, self.learning_rate, self.seed)

    def limits(self, original: keras.Model, speedup: float) -> Limits:
        """What the result may cost, of an original and at one of the speed-ups that are tried."""
        most = None if self.size_ratio is None else parameters(original) / self.size_ratio
        return Limits(multiply_adds(original) / speedup, most)

    def is_narrower(self) -> bool:
        """Whether more is asked for than another input size or end."""
        return not (self.speedup is self.max_drop is self.size_ratio is None)

    def _has_target(self) -> bool:
        return self.is_narrower() or self.image_size_px is not None or self.last_layer not in (AUTO, NONE)


def default_image_size(original_px: int, speedup: float) -> int:
    """Input size for a target ratio of multiply-adds, a multiple of 32 (five poolings) unless it stays as it is.

    At equal multiply-adds a smaller input with more filters was more accurate than the full input, and 160 instead of
    224 px cost nothing measurable; below 0.7 of the original size accuracy began to fall.
    """
    wanted = original_px * max(_SMALLEST_SHARE, 1.0 / math.sqrt(speedup))
    side = max(MIN_IMAGE_SIZE_PX, _POOLED_BY * math.ceil(round(wanted / _POOLED_BY, 6)))
    return min(side, original_px)


class UnreachableError(SettingsError):
    """A target that no choice of channels meets."""


@dataclass(frozen=True)
class Limits:
    """What the result may cost: multiply-adds for one image, weights and biases, bytes of the int8 file.

    None for no limit.
    """

    multiply_adds: float
    parameters: float | None = None
    file_bytes: float | None = None

    def __str__(self) -> str:
        """As messages name them."""
        weights = "" if self.parameters is None else f" and {self.parameters:,.0f} weights"
        size = "" if self.file_bytes is None else f" and {self.file_bytes:,.0f} bytes of the int8 file"
        return f"{self.multiply_adds:,.0f} multiply-adds{weights}{size}"

    def hold(self, model: keras.Model) -> bool:
        """Whether a flat net meets the limits as it is."""
        return (
            multiply_adds(model) <= self.multiply_adds
            and (self.parameters is None or parameters(model) <= self.parameters)
            and (self.file_bytes is None or file_bytes(model) <= self.file_bytes)
        )


@dataclass(frozen=True)
class Student:
    """A net that meets the limits, refitted layer by layer, before any gradient step.

    `left` says what each layer has left: `filters` by convolution, or `ranks` as [channels in, channels out] of split
    layers. `features` are those of the teacher's features that the student has too, None for all.
    """

    model: keras.Model
    left: Left
    features: NDArray[np.int64] | None


Cheaper: TypeAlias = Callable[[Study, Teacher, Limits, Note, Progress], Student]
"""Makes layers cheaper: from what is known of the teacher, and limits, to a student."""


@dataclass(frozen=True)
class Step:
    """What one step made of the model.

    `what` is `original`, `resized`, `truncated`, `filters`, `reconstructed`, `split` or `distilled`; `speedup` the
    ratio of multiply-adds that was aimed at (1.0 for the original). `val_accuracy` carries its n and 95 % interval.
    """

    what: str
    speedup: float
    image_size_px: ImageSize
    multiply_adds: int
    parameters: int
    val_accuracy: Proportion
    seconds: float


@dataclass(frozen=True)
class Shrunk:
    """The result: an ordinary net, and every step that was tried.

    `result` is the step that made `model`. `left` is that of the `Student`, empty if no layer was made
    cheaper. `distillation` is None if it was left out.
    """

    model: keras.Model
    speedup: float
    steps: tuple[Step, ...]
    result: Step
    left: Left
    distillation: Distillation | None


def shrink(
    study: Study, settings: ShrinkSettings, cheaper: Cheaper, progress: Progress, work: Path | None = None
) -> Shrunk:
    """Make a trained model cheaper without seeing a test image.

    Layers are looked at and weights refitted on training images alone; validation images stop the distillation and
    evaluate the result. Equal inputs and seeds give the same layers; weights agree up to rounding of threaded sums.

    Args:
        study: the original, left as it is, with its training and validation images; it may serve several calls.
        settings: how small or how good.
        cheaper: what makes layers cheaper.
        progress: called with (what is going on, steps done, steps in all).
        work: the folder where distillations keep how far they are; None: nowhere.

    Raises:
        SettingsError: a target that cannot be met, no flat net, an end that it has not, or another input for one with
            branches.
    """
    if settings.last_layer not in (AUTO, NONE):
        require_end(study.model, settings.last_layer)
    log = _Log(study, [])
    log.add("original", 1.0, study.model)
    if settings.max_drop is None:
        return _candidate(study, log, settings, cheaper, settings.speedup or 1.0, progress, work)
    return _search(study, log, settings, cheaper, progress, work)


class _Log:
    """Steps as they happen, each with the seconds since the one before."""

    def __init__(self, study: Study, steps: list[Step]) -> None:
        self._study = study
        self.steps = steps
        self._last = time.perf_counter()

    def add(self, what: str, speedup: float, model: keras.Model) -> None:
        size = input_size(model)
        found = self._study.val_accuracy(model)
        now = time.perf_counter()
        self.steps.append(Step(what, speedup, size, multiply_adds(model), parameters(model), found, now - self._last))
        self._last = now


def _candidate(
    study: Study,
    log: _Log,
    settings: ShrinkSettings,
    cheaper: Cheaper,
    speedup: float,
    progress: Progress,
    work: Path | None,
) -> Shrunk:
    original = study.model
    size = _size(original, settings.image_size_px, speedup)
    epochs = settings.epochs
    if epochs is None:
        epochs = EPOCHS if study.pictures < MANY_PICTURES else EPOCHS_OF_MANY
    limits = settings.limits(original, speedup)
    # An image size alone asks for that and nothing else.
    chooses_end = settings.last_layer == AUTO and settings.is_narrower()
    last_layer = study.early_end(size, limits.hold, progress) if chooses_end else None
    if last_layer is None:
        if settings.is_narrower():
            _foretell(study, limits, size, epochs)
        last_layer = study.last_layer(size, progress) if chooses_end else _asked_end(study, settings)
    whole = study.uncompressed(size, last_layer, progress)
    log.add("truncated" if last_layer != features_layer(original) else "resized", speedup, whole)
    if limits.hold(whole):
        return Shrunk(whole, speedup, tuple(log.steps), log.steps[-1], {}, None)
    teacher = study.teacher(size, last_layer, progress)
    student = cheaper(study, teacher, limits, lambda what, model: log.add(what, speedup, model), progress)
    distillation = None
    if epochs:
        told = study.teacher_outputs(size, last_layer, progress, work)
        train, val = (outputs.of(student.features) for outputs in told)
        distillation = distill(
            student.model,
            train,
            val,
            TrainingSchedule(epochs, settings.learning_rate, settings.seed),
            progress,
            None if work is None else work / f"distilling-{speedup:g}.npz",
        )
        log.add("distilled", speedup, student.model)
    return Shrunk(student.model, speedup, tuple(log.steps), log.steps[-1], student.left, distillation)


def _foretell(study: Study, limits: Limits, size: ImageSize, epochs: int) -> None:
    """Say how long it will take, before anything slow."""
    original = study.model
    smaller = math.prod(height_width(size)) / math.prod(height_width(input_size(original)))
    shares = (
        limits.multiply_adds / (smaller * multiply_adds(original)),
        1.0 if limits.parameters is None else limits.parameters / parameters(original),
        1.0 if limits.file_bytes is None else limits.file_bytes / file_bytes(original),
    )
    work = study.work(epochs, min(1.0, *shares))
    minutes = work.seconds(smaller * study.seconds_per_image) / 60
    say(f"about {max(1, round(minutes))} min here (pictures to learn from: {work.taught:,}, epochs: {epochs})")


def _size(original: keras.Model, wanted: int | None, speedup: float) -> ImageSize:
    """The size of the result's input: that of a net with branches stays, and one that is no square."""
    own = input_size(original)
    if reason := not_a_chain(original):
        if wanted is not None:
            raise SettingsError(f"{reason}, and leave the image size out")
        return own
    if not isinstance(own, int):
        if wanted is not None:
            raise SettingsError(
                f"expected a model of square images with an image size, but this one takes {sides_text(own)}; leave "
                "the image size out, and the input stays as it is"
            )
        return own
    if wanted is not None and wanted > own:
        raise SettingsError(f"expected an image size of at most the original's {own} px, but got {wanted}; lower it")
    return wanted or default_image_size(own, speedup)


def _asked_end(study: Study, settings: ShrinkSettings) -> str:
    return features_layer(study.model) if settings.last_layer in (AUTO, NONE) else settings.last_layer


def _search(
    study: Study, log: _Log, settings: ShrinkSettings, cheaper: Cheaper, progress: Progress, work: Path | None
) -> Shrunk:
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
            candidate = _candidate(study, log, settings, cheaper, RUNGS[middle], progress, work)
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


def shrink_run(
    method: str,
    model: keras.Model,
    settings: ShrinkSettings,
    images: RunImages,
    cheaper: Cheaper,
    progress: Progress,
    work: Path,
) -> Outcome:
    """Shrink a run's model; arguments as of `Method.apply` and `shrink`."""
    shrunk = shrink(images.study(model, settings.seed, settings.pictures), settings, cheaper, progress, work)
    original, result, distillation = shrunk.steps[0], shrunk.result, shrunk.distillation
    record = {
        "method": method,
        "settings": asdict(settings),
        "multiply_add_ratio": round(original.multiply_adds / result.multiply_adds, 3),
        "parameter_ratio": round(original.parameters / result.parameters, 3),
        **shrunk.left,
        "steps": [asdict(step) for step in shrunk.steps],
    }
    return Outcome(
        method=method,
        model=shrunk.model,
        parameters=result.parameters,
        before=original.val_accuracy,
        val_accuracy=result.val_accuracy,
        losses=distillation.losses if distillation else (),
        best=distillation.best if distillation else 0,
        record=record,
        shrunk=shrunk,
    )
