"""What is found out once about a model and its images, per input size, and serves every candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tledge.compression.chain import narrow, weighted_layers
from tledge.compression.distill import Lecture, Progress, attend
from tledge.compression.evidence import Floats, Sampling, outputs, pre_activations
from tledge.compression.importance import Ranking, rank
from tledge.compression.reconstruct import refit
from tledge.compression.views import views
from tledge.data.pixels import PixelStore
from tledge.data.split import stratified_sample
from tledge.dependencies import require_tensorflow
from tledge.errors import SettingsError
from tledge.metrics import Proportion, accuracy
from tledge.types import Images, Labels, Probabilities

if TYPE_CHECKING:
    import keras

LAST_CONVOLUTION = "block5_conv3"

_CALIBRATION_IMAGES = 128
_TRAINING_IMAGES = 1024
PICTURES = 800
_BATCH = 16


@dataclass(frozen=True)
class ShrinkData:
    """Images by index into `pixels`, at the original's input size; `train` and `val` are (indices, class indices).

    Other input sizes are decoded anew from the files, as a device would. There is no place for test images.
    """

    pixels: PixelStore
    train: tuple[Labels, Labels]
    val: tuple[Labels, Labels]


@dataclass(frozen=True)
class Lesson:
    """The model before pruning at one input size: `rankings` by convolution, `targets` and `sampling` to refit it."""

    teacher: keras.Model
    rankings: dict[str, Ranking]
    targets: dict[str, Floats]
    sampling: Sampling


class Study:
    """A model and its images; what was computed for one input size is kept for the next candidate.

    Training images and random views of them make about `pictures` in all; half as many refit the weights.
    """

    def __init__(self, model: keras.Model, data: ShrinkData, seed: int, pictures: int = PICTURES) -> None:
        if data.pixels.size_px != model.input_shape[1]:
            raise SettingsError(
                f"expected images of {model.input_shape[1]} px, the model's input, but got {data.pixels.size_px}; "
                "load them at that size"
            )
        self.model = model
        self._data = data
        self._seed = seed
        self._count = pictures
        self._stores = {data.pixels.size_px: data.pixels}
        self._lessons: dict[int, Lesson] = {}
        self._lectures: dict[int, tuple[Lecture, Lecture]] = {}

    def val_accuracy(self, model: keras.Model) -> Proportion:
        """Accuracy on all validation images, decoded at the model's input size."""
        tf, _ = require_tensorflow()
        call = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        store = self._store(int(model.input_shape[1]))
        parts = [call(tf.constant(b, tf.float32)).numpy() for b in store.batches(self._data.val[0], _BATCH)]
        answers: Probabilities = np.concatenate(parts)
        return accuracy(answers, self._data.val[1])

    def at(self, side: int, progress: Progress) -> Lesson:
        """Resize the model and rank its filters."""
        if side not in self._lessons:
            self._lessons[side] = self._learn(side, progress)
        return self._lessons[side]

    def lectures(self, side: int, progress: Progress) -> tuple[Lecture, Lecture]:
        """What the resized model says about training images and views of them, and about validation images."""
        if side not in self._lectures:
            teacher, store = self.at(side, progress).teacher, self._store(side)
            progress("asking the original", 0, 2)
            images = store.take(self._chosen(self._data.train, _TRAINING_IMAGES))
            train = attend(teacher, self._pictures(images, self._count))
            progress("asking the original", 1, 2)
            val = attend(teacher, store.take(self._chosen(self._data.val, _TRAINING_IMAGES)))
            progress("asking the original", 2, 2)
            self._lectures[side] = train, val
        return self._lectures[side]

    def _store(self, side: int) -> PixelStore:
        if side not in self._stores:
            source = self._data.pixels
            self._stores[side] = PixelStore(source.paths, side, sha256=source.sha256)
        return self._stores[side]

    def _chosen(self, part: tuple[Labels, Labels], count: int) -> Labels:
        indices, labels = part
        return indices[stratified_sample([str(label) for label in labels], count, self._seed)]

    def _learn(self, side: int, progress: Progress) -> Lesson:
        progress("ranking filters", 0, 3)
        calibration = self._chosen(self._data.train, _CALIBRATION_IMAGES)
        images = self._store(side).take(calibration)
        teacher = self._resized(side, calibration, images)
        progress("ranking filters", 1, 3)
        rankings = rank(teacher, Sampling(images, self._seed))
        progress("ranking filters", 2, 3)
        # Least squares fits a hundred images by heart: on unseen photographs the refitted net was right in 0.58, with
        # views of the same images in 0.91 (n = 33).
        sampling = Sampling(self._pictures(images, self._count // 2), self._seed)
        targets = pre_activations(teacher, sampling)
        progress("ranking filters", 3, 3)
        return Lesson(teacher, rankings, targets, sampling)

    def _pictures(self, images: Images, about: int) -> Images:
        """The images and as many views of each as make about that many pictures, at least one."""
        generator = np.random.default_rng(self._seed)
        rounds = max(1, about // len(images) - 1)
        return np.concatenate([images, *(views(images, generator) for _ in range(rounds))])

    def _resized(self, side: int, calibration: Labels, images: Images) -> keras.Model:
        resized = narrow(self.model, {}, side)
        if side != self.model.input_shape[1] and any(layer.name == "flatten" for layer in resized.layers):
            # The mean of `gap` does not depend on the number of places; `fc1` has a weight for each of them.
            names = [layer.name for layer in weighted_layers(self.model)]
            whole = Sampling(self._data.pixels.take(calibration), self._seed)
            wanted = np.concatenate(list(outputs(self.model, names.index("fc1"), whole)))
            refit(resized, names.index("fc1"), wanted, Sampling(images, self._seed))
        return resized
