"""What is found out once about a model and its images, per input size, and serves every candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tledge.compression.activations import Floats, Sampling, outputs, pre_activations
from tledge.compression.augmentation import augmented
from tledge.compression.chain import narrow
from tledge.compression.distill import TeacherOutputs, ask_teacher
from tledge.compression.flat import duplicate, input_size, parameters, weighted_layers
from tledge.compression.forecast import Work, seconds_per_image
from tledge.compression.least_squares import refit
from tledge.compression.truncation import AUTO_LAYERS, cut, ends, features_layer, truncated
from tledge.core.errors import SettingsError
from tledge.core.image_size import ImageSize, short_text
from tledge.core.progress import Progress
from tledge.core.types import Images, Labels, Probabilities
from tledge.data.pixels import PixelStore
from tledge.data.split import stratified_sample
from tledge.model.forward import BATCH, compiled
from tledge.stats.metrics import Proportion, accuracy

if TYPE_CHECKING:
    import keras

_CALIBRATION_IMAGES = 128
_TRAINING_IMAGES = 1024
PICTURES = 800
MOST_PICTURES = 12_000
Found = TypeVar("Found")


@dataclass(frozen=True)
class ShrinkData:
    """Images by index into `pixels`, at the original's input size; `train` and `val` are (indices, class indices).

    `unlabelled` are further pictures to learn from, None for none. Other input sizes are decoded anew from the files,
    as a device would. There is no place for test images.
    """

    pixels: PixelStore
    train: tuple[Labels, Labels]
    val: tuple[Labels, Labels]
    unlabelled: PixelStore | None = None


@dataclass(frozen=True)
class Teacher:
    """The model before compression at one input size and depth; `targets` and `sampling` serve to refit students."""

    size: ImageSize
    last_layer: str
    model: keras.Model
    targets: dict[str, Floats]
    sampling: Sampling


class Study:
    """A model and its images; what was computed for one input size is kept for the next candidate.

    `pictures` are learned from: up to 1,024 training images, each with at least one augmented copy; of more images, as
    many as are asked for, and copies where that is more than there are. None: 800, or, where there are more than 1,024
    images, all of them up to 12,000. Pictures without labels are learned from beside them. At most 128 of the images
    with augmented copies refit the weights: half as many pictures, from None 400, at most 1,024. The head of a net cut
    short, but VGG16, is fitted to twice as many, at most 1,600.
    """

    def __init__(self, model: keras.Model, data: ShrinkData, seed: int, pictures: int | None = None) -> None:
        if data.pixels.size_px != input_size(model):
            raise SettingsError(
                f"expected images of {short_text(input_size(model))} px, the model's input, but got "
                f"{short_text(data.pixels.size_px)} px; load them at that size"
            )
        self.model = model
        self._data = data
        self._seed = seed
        images = len(data.train[0])
        by_default = min(images, MOST_PICTURES) if images > _TRAINING_IMAGES else PICTURES
        self._count = by_default if pictures is None else pictures
        self._refitting = min((PICTURES if pictures is None else pictures) // 2, _TRAINING_IMAGES)
        self._stores = {data.pixels.size_px: data.pixels}
        self._whole: dict[ImageSize, keras.Model] = {}
        self._cut: dict[tuple[ImageSize, str], keras.Model] = {}
        self._teachers: dict[tuple[ImageSize, str], Teacher] = {}
        self._once: dict[tuple[str, ImageSize, str], Any] = {}
        self._outputs: dict[tuple[ImageSize, str], tuple[TeacherOutputs, TeacherOutputs]] = {}

    def val_accuracy(self, model: keras.Model) -> Proportion:
        """Accuracy on all validation images, decoded at the model's input size."""
        call = compiled(model)
        store = self._store(input_size(model))
        answers: Probabilities = np.concatenate([call(b) for b in store.batches(self._data.val[0], BATCH)])
        return accuracy(answers, self._data.val[1])

    def early_end(self, size: ImageSize, holds: Callable[[keras.Model], bool], progress: Progress) -> str | None:
        """The latest end at which limits hold with nothing made thinner, if it costs at most one validation image.

        Args:
            size: of the input.
            holds: whether a flat net meets the limits.
            progress: called with (what is going on, steps done, steps in all).

        Returns:
            The layer's name. None too where the whole model holds them, and in a net with `AUTO_LAYERS`: VGG16's layers
            are better made thin than left out.
        """
        if holds(self.model) or self._usual_ends:
            return None
        latest = next((name for name in reversed(ends(self.model)) if holds(cut(self.model, name))), None)
        return latest if latest is not None and self._bears(size, latest, progress) else None

    def last_layer(self, size: ImageSize, progress: Progress) -> str:
        """Where the net may end at this input size: the first of `AUTO_LAYERS` that costs at most one validation image.

        Returns:
            Its name, or that of the layer where the model ends anyway.
        """
        usual = (name for name in self._usual_ends if self._bears(size, name, progress))
        return next(usual, features_layer(self.model))

    def uncompressed(self, size: ImageSize, last_layer: str, progress: Progress) -> keras.Model:
        """The model resized and ended at a layer where it may end, no filter left out."""
        return self._truncated(size, last_layer, progress)

    def teacher(self, size: ImageSize, last_layer: str, progress: Progress) -> Teacher:
        """Resize the model, end it at a layer where it may end, and look at what its layers compute."""
        if (size, last_layer) not in self._teachers:
            self._teachers[size, last_layer] = self._learn(size, last_layer, progress)
        return self._teachers[size, last_layer]

    def once(self, what: str, teacher: Teacher, compute: Callable[[], Found]) -> Found:
        """What a method finds out about a teacher, computed once for every candidate of this study.

        Args:
            what: names it, unique among methods.
            teacher: from `teacher`.
            compute: finds it out.
        """
        key = what, teacher.size, teacher.last_layer
        if key not in self._once:
            self._once[key] = compute()
        found: Found = self._once[key]
        return found

    @property
    def pictures(self) -> int:
        """About how many are learned from."""
        return self._count + (0 if self._data.unlabelled is None else len(self._data.unlabelled))

    @cached_property
    def seconds_per_image(self) -> float:
        """Of a pass of the model at its own input size, timed once."""
        return seconds_per_image(self.model)

    def work(self, epochs: int, share: float) -> Work:
        """What there is to do for a candidate that learns in epochs and keeps a share of the multiply-adds."""
        given = len(self._data.train[0])
        fitted = max(2 * min(given, _CALIBRATION_IMAGES), self._refitting)
        taught = 0 if epochs == 0 else max(self.pictures, 2 * given if given <= _TRAINING_IMAGES else 0)
        validated = min(len(self._data.val[0]), _TRAINING_IMAGES)
        return Work(fitted, taught, validated, epochs, share, parameters(self.model) / 1e6)

    def calibration(self, size: ImageSize) -> Sampling:
        """At most 128 training images as they are, at an input size."""
        return Sampling(self._calibration(size), self._seed)

    def teacher_outputs(
        self, size: ImageSize, last_layer: str, progress: Progress, folder: Path | None = None
    ) -> tuple[TeacherOutputs, TeacherOutputs]:
        """What the model before compression says about training images, plain and augmented, and validation images.

        What is too large for memory is kept in `folder`.
        """
        if (size, last_layer) not in self._outputs:
            teacher, store = self.teacher(size, last_layer, progress).model, self._store(size)
            progress("asking the original", 0, 2)
            images = store.take(self._chosen(self._data.train, max(self._count, _TRAINING_IMAGES)))
            pictures = self._pictures(images, self._count)
            if (unlabelled := self._data.unlabelled) is not None:
                further = unlabelled.at_size(size)
                pictures = np.concatenate([pictures, further.take(range(len(further)))])
            train = ask_teacher(teacher, pictures, folder)
            progress("asking the original", 1, 2)
            val = ask_teacher(teacher, store.take(self._chosen(self._data.val, _TRAINING_IMAGES)), folder)
            progress("asking the original", 2, 2)
            self._outputs[size, last_layer] = train, val
        return self._outputs[size, last_layer]

    @cached_property
    def _usual_ends(self) -> tuple[str, ...]:
        names = {layer.name for layer in self.model.layers}
        return tuple(name for name in AUTO_LAYERS if name in names)

    def _store(self, size: ImageSize) -> PixelStore:
        if size not in self._stores:
            self._stores[size] = self._data.pixels.at_size(size)
        return self._stores[size]

    def _chosen(self, part: tuple[Labels, Labels], count: int) -> Labels:
        indices, labels = part
        return indices[stratified_sample([str(label) for label in labels], count, self._seed)]

    def _val_hits(self, model: keras.Model) -> int:
        found = self.val_accuracy(model)
        return round(found.value * found.n)

    def _bears(self, size: ImageSize, last_layer: str, progress: Progress) -> bool:
        """Whether an end costs at most one validation image."""
        whole = self._resized(size, progress)
        return self._val_hits(self._truncated(size, last_layer, progress)) >= self._val_hits(whole) - 1

    def _calibration(self, size: ImageSize) -> Images:
        return self._store(size).take(self._chosen(self._data.train, _CALIBRATION_IMAGES))

    def _to_refit(self, size: ImageSize) -> Images:
        return self._pictures(self._calibration(size), self._refitting)

    def _to_fit_a_head(self, size: ImageSize) -> Images:
        """More than refit layers, since nothing behind the head mends it: twice the pictures of a distillation."""
        about = 2 * min(self._count, PICTURES)
        return self._pictures(self._store(size).take(self._chosen(self._data.train, about)), about)

    def _learn(self, size: ImageSize, last_layer: str, progress: Progress) -> Teacher:
        teacher = self._truncated(size, last_layer, progress)
        progress("looking at layers", 0, 1)
        # Least squares fits a hundred images by heart: on unseen photographs the refitted net was right in 0.58, with
        # augmented ones in 0.91 (n = 33).
        sampling = Sampling(self._to_refit(size), self._seed).for_model(teacher)
        targets = pre_activations(teacher, sampling)
        progress("looking at layers", 1, 1)
        return Teacher(size, last_layer, teacher, targets, sampling)

    def _truncated(self, size: ImageSize, last_layer: str, progress: Progress) -> keras.Model:
        whole = self._resized(size, progress)
        if last_layer == features_layer(whole):
            return whole
        if (size, last_layer) not in self._cut:
            progress("fitting a head", 0, 1)
            pictures = self._to_refit(size) if self._usual_ends else self._to_fit_a_head(size)
            self._cut[size, last_layer] = truncated(whole, last_layer, pictures, ask_teacher(whole, pictures).answers)
            progress("fitting a head", 1, 1)
        return self._cut[size, last_layer]

    def _pictures(self, images: Images, about: int) -> Images:
        """The images and as many augmented copies of each as make about that many pictures; of few, at least one."""
        generator = np.random.default_rng(self._seed)
        rounds = max(1 if len(images) <= _TRAINING_IMAGES else 0, about // len(images) - 1)
        return np.concatenate([images, *(augmented(images, generator) for _ in range(rounds))]) if rounds else images

    def _resized(self, size: ImageSize, progress: Progress) -> keras.Model:
        if size in self._whole:
            return self._whole[size]
        progress("resizing", 0, 1)
        resized = duplicate(self.model) if size == input_size(self.model) else narrow(self.model, {}, size)
        if size != input_size(self.model) and any(layer.name == "flatten" for layer in resized.layers):
            # The mean of `gap` does not depend on the number of places; the layer behind `flatten` weighs each of them.
            number = next(i for i, layer in enumerate(weighted_layers(resized)) if type(layer).__name__ == "Dense")
            original = self.calibration(self._data.pixels.size_px)
            wanted = np.concatenate(list(outputs(self.model, number, original)))
            refit(resized, number, wanted, self.calibration(size))
        self._whole[size] = resized
        progress("resizing", 1, 1)
        return resized
