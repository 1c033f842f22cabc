"""Train a net in Keras 2 to answer as the original model does.

Loss: cross-entropy to the original's probabilities (G. Hinton et al., "Distilling the Knowledge in a Neural Network",
2015). Images of the test subset have no place here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.activations import Floats
from tledge.compression.augmentation import mirrored
from tledge.compression.distill import Distillation, TrainingSchedule
from tledge.compression.legacy_net import preprocess, toolkit
from tledge.compression.study import ShrinkData
from tledge.core.progress import Progress
from tledge.core.types import Images, Json, Labels, Probabilities
from tledge.data.pixels import PixelStore
from tledge.data.split import stratified_sample
from tledge.model.forward import compiled, outputs_of
from tledge.model.ranges import ActivationRanges
from tledge.stats.metrics import Proportion, accuracy
from tledge.training.batches import keras_batches, permuted
from tledge.training.fit import released
from tledge.training.loop import Loop, Plan, Variables

if TYPE_CHECKING:
    import keras

BATCH = 16
_IMAGES = 1024
_CLIP_NORM = 1.0


@dataclass(frozen=True)
class Examples:
    """Images (N, S, S, 3) uint8 at the student's input size, the original's probabilities (N, C)."""

    images: Images
    answers: Probabilities


@dataclass(frozen=True)
class LabelledExamples(Examples):
    """The same with their classes (N,)."""

    labels: Labels


@dataclass(frozen=True)
class DistillationData:
    """What a net is trained on, and what validates it."""

    train: Examples
    val: LabelledExamples


@dataclass(frozen=True)
class Tuned:
    """What a method made: an ordinary Keras 3 net.

    `before` and `after` are validation accuracies, of a quantized model with its rounding. `details` is JSON for the
    manifest. `ranges` comes from quantization-aware training, else None.
    """

    model: keras.Model
    before: Proportion
    after: Proportion
    distillation: Distillation
    details: Json
    ranges: ActivationRanges | None = None


def examples(original: keras.Model, originals: PixelStore, data: ShrinkData, seed: int) -> DistillationData:
    """Ask the original about training and validation images, each model seeing them at its own input size.

    Args:
        original: the model that the result is compared with.
        originals: the files of `data.pixels`, in the same order, at the original's input size.
        data: at the student's input size; of pictures without labels at most 1,024 are taken too.
        seed: chooses at most 1,024 images of each subset, stratified. Training images are taken mirrored as well.
    """

    def chosen(subset: tuple[Labels, Labels]) -> NDArray[np.int64]:
        return stratified_sample([str(label) for label in subset[1]], _IMAGES, seed)

    def asked(seen_by_original: Images) -> Probabilities:
        return np.asarray(outputs_of(original, seen_by_original), np.float32)

    def training_images(store: PixelStore) -> Images:
        parts = [store.take(train_rows)]
        if data.unlabelled is not None:
            parts.append(data.unlabelled.at_size(store.size_px).take(range(len(data.unlabelled))[:_IMAGES]))
        return mirrored(np.concatenate(parts))

    train_rows, kept = data.train[0][chosen(data.train)], chosen(data.val)
    indices, labels = data.val[0][kept], data.val[1][kept]
    return DistillationData(
        Examples(training_images(data.pixels), asked(training_images(originals))),
        LabelledExamples(data.pixels.take(indices), asked(originals.take(indices)), labels),
    )


def preprocessed(model: keras.Model, images: Images) -> Iterator[Floats]:
    """Images in batches as the legacy net of a model takes them."""
    for start in range(0, len(images), BATCH):
        yield preprocess(model, images[start : start + BATCH])


@dataclass(frozen=True)
class Evaluation:
    """Cross-entropy to the original's probabilities in nats, and accuracy against the classes."""

    loss: float
    accuracy: Proportion


class Evaluator:
    """Evaluates a legacy net on validation images, as its weights are at the moment.

    Args:
        model: the flat net that it was built from: its preprocessing is used.
        legacy: a `tf_keras` net from preprocessed images to logits.
        val: images, the original's answers and the classes.
    """

    def __init__(self, model: keras.Model, legacy: Any, val: LabelledExamples) -> None:
        self.model = model
        self.legacy = legacy
        self._call = compiled(legacy)
        self._val = val

    def __call__(self) -> Evaluation:
        """Evaluate now."""
        parts = [self._call(batch) for batch in preprocessed(self.model, self._val.images)]
        found = np.concatenate(parts).astype(np.float64)
        shifted = found - found.max(axis=1, keepdims=True)
        logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = float(-(self._val.answers * logarithms).sum(axis=1).mean())
        return Evaluation(loss, accuracy(np.asarray(found, np.float32), self._val.labels))


def distill_legacy(
    evaluator: Evaluator,
    train: Examples,
    schedule: TrainingSchedule,
    progress: Progress,
    what: str,
    *,
    callbacks: Sequence[Any] = (),
    eligible_from: int = 0,
    file: Path | None = None,
) -> Distillation:
    """Train a legacy net in place; it keeps the weights of the best validation loss.

    Args:
        evaluator: of the net that is to be trained, with or without TFMOT's wrappers.
        train: images and the original's answers.
        schedule: how long and how fast.
        progress: called with (`what`, epochs done, epochs in all).
        what: names the work.
        callbacks: TFMOT's own.
        eligible_from: number of epochs before which nothing may be kept; 0: the start counts too.
        file: where to keep how far it is, and from where to go on; None: nowhere.
    """
    tf_keras, _ = toolkit()
    student = evaluator.legacy
    first = evaluator().loss
    if not schedule.epochs:
        return Distillation((first,), 0)
    steps = -(-len(train.images) // BATCH)
    decay = tf_keras.optimizers.schedules.CosineDecay(schedule.learning_rate, schedule.epochs * steps)
    optimizer = tf_keras.optimizers.Adam(decay, clipnorm=_CLIP_NORM)
    student.compile(optimizer, loss=tf_keras.losses.CategoricalCrossentropy(from_logits=True))
    optimizer.build(student.trainable_variables)
    loop = Loop(
        student,
        # Wrappers keep masks, ranges and counters in weights that do not train.
        Variables(student.weights, optimizer.variables, list),
        Plan(what, schedule.epochs, steps, score=0, start=first, eligible_from=eligible_from),
        file,
        lambda _: (evaluator().loss,),
        lambda done, of: progress(what, done, of),
    )

    def fit(begun: int, end: int, batches: int, watch: Any) -> None:
        rows = keras_batches(
            lambda rows: (preprocess(evaluator.model, train.images[rows]), train.answers[rows]),
            permuted(len(train.images), schedule.seed),
            BATCH,
            tf_keras.utils.Sequence,
            epochs=begun,
            batches=batches,
        )
        watchers = [*callbacks, watch, tf_keras.callbacks.TerminateOnNaN()]
        student.fit(rows, initial_epoch=begun, epochs=end, callbacks=watchers, verbose=0, shuffle=False)

    with released():
        best = loop.run(fit, tf_keras.callbacks)
    return Distillation((first, *(loss for loss, _ in loop.rows)), best)
