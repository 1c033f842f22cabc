"""Train the small net to answer as the large one does.

VGG16's first two blocks stay as the reconstruction left them: they hold 2 % of the weights and half of the
multiply-adds, so what they compute is kept, and an epoch costs a fraction. Of another net, every layer trains.

Loss: cross-entropy to the teacher's probabilities (G. Hinton et al., "Distilling the Knowledge in a Neural Network",
2015) and squared distance to its features before the head (A. Romero et al., "FitNets: Hints for Thin Deep Nets", 2015;
here without a regressor, since the student's filters are some of the teacher's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.activations import Floats
from tledge.compression.flat import PREDICTION, not_a_chain, weighted_layers
from tledge.compression.truncation import features_layer
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.progress import Progress
from tledge.core.types import LARGEST_SEED, Images, Probabilities
from tledge.model.forward import outputs_of
from tledge.model.preprocessing import PREPROCESSING
from tledge.training.batches import keras_batches, shuffled
from tledge.training.fit import released, rise_then_cosine
from tledge.training.loop import Loop, Plan, variables_of

if TYPE_CHECKING:
    import keras

_CUT = "block2_pool"
_BATCH = 16
_CLIP_NORM = 1.0
_PATIENCE = 10
# Adam's first steps are all of full length, whatever the gradients; without a rise they undo what least squares found.
_WARM_UP = 0.1
_WHAT = "distilling"
_DISTANCE = f"{PREDICTION}_mse"


@dataclass(frozen=True)
class TeacherOutputs:
    """Images and what the teacher says about them.

    `images` (N, S, S, 3) uint8, `features` (N, h, w, C) or (N, C), which the head takes, `answers` (N, classes).
    """

    images: Images
    features: Floats
    answers: Probabilities

    def of(self, filters: NDArray[np.int64] | None) -> TeacherOutputs:
        """The same with the features of these filters alone."""
        return self if filters is None else TeacherOutputs(self.images, self.features[..., filters], self.answers)


@dataclass(frozen=True)
class Distillation:
    """How it went: `losses` on validation images, first before any step; `best` is the index of the one kept.

    `distill` measures mean squared differences of probabilities to the teacher's, `distill_legacy` cross-entropies.
    """

    losses: tuple[float, ...]
    best: int


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


def ask_teacher(teacher: keras.Model, images: Images, folder: Path | None = None) -> TeacherOutputs:
    """Ask the teacher once about every image; features too large for memory are kept in `folder`."""
    _, keras = require_tensorflow()
    both = keras.Model(teacher.input, [_features(teacher), teacher.output])
    features, answers = outputs_of(both, images, folder=folder)
    return TeacherOutputs(images, features, answers)


def distill(
    student: keras.Model,
    train: TeacherOutputs,
    val: TeacherOutputs,
    schedule: TrainingSchedule,
    progress: Progress,
    file: Path | None = None,
) -> Distillation:
    """Train the student's layers in place, VGG16's after its second block; it keeps the weights of the best epoch.

    The learning rate rises over a tenth of the steps, then falls to 0 on a cosine (Loshchilov and Hutter 2017);
    training stops after ten epochs without a better validation loss.

    The best is closest to the teacher's probabilities on images that nothing was fitted to, by mean squared difference:
    cross-entropy is ruled there by the one image that it gets wrong most confidently. The start counts too, so training
    never makes it worse.

    How far it is stays in `file`, from which the next call goes on.
    """
    _, keras = require_tensorflow()
    trainer = _trainer(student, train, schedule)
    folder = None if file is None else file.parent
    validation = _batches(_activations(student, val, folder), val, None)
    first = float(trainer.evaluate(validation, verbose=0, return_dict=True)[_DISTANCE])
    activations = _activations(student, train, folder)
    steps = -(-len(train.images) // _BATCH)
    loop = Loop(
        trainer,
        variables_of(trainer),
        Plan(_WHAT, schedule.epochs, steps, score=0, start=first, eligible_from=0, patience=_PATIENCE),
        file,
        lambda logs: (float(logs.get(f"val_{_DISTANCE}", np.nan)),),
        lambda done, of: progress(_WHAT, done, of),
    )

    def fit(begun: int, end: int, batches: int, watch: Any) -> None:
        trainer.fit(
            _batches(activations, train, schedule.seed, epochs=begun, batches=batches),
            validation_data=validation,
            initial_epoch=begun,
            epochs=end,
            callbacks=[watch, keras.callbacks.TerminateOnNaN()],
            verbose=0,
            shuffle=False,
        )

    with released():
        best = loop.run(fit, keras.callbacks)
    return Distillation((first, *(loss for loss, _ in loop.rows)), best)


def _trainer(student: keras.Model, train: TeacherOutputs, schedule: TrainingSchedule) -> Any:
    _, keras = require_tensorflow()
    for layer in student.layers:
        layer.trainable = layer.name != PREPROCESSING
    trainer = keras.Model(_cut(student), [_features(student), student.output])
    steps = schedule.epochs * -(-len(train.images) // _BATCH)
    rate = rise_then_cosine(schedule.learning_rate, steps, max(int(steps * _WARM_UP), 1))
    trainer.compile(
        keras.optimizers.Adam(rate, clipnorm=_CLIP_NORM),
        loss=["mse", "categorical_crossentropy"],
        # A share of the features' variance, so that both terms are of the order of 1.
        metrics=[[], ["mse"]],
        loss_weights=[1.0 / max(float(train.features.var()), 1e-9), 1.0],
    )
    return trainer


def _features(model: keras.Model) -> Any:
    """The map that the head takes; of a net with branches, what its last layer with weights reads."""
    if not_a_chain(model) is None:
        return model.get_layer(features_layer(model)).output
    return weighted_layers(model)[-1].input


def _cut(student: keras.Model) -> Any:
    """The tensor behind the layers that do not train."""
    is_vgg16 = not_a_chain(student) is None and any(layer.name == _CUT for layer in student.layers)
    is_beyond = is_vgg16 and features_layer(student) != _CUT
    return student.get_layer(_CUT if is_beyond else PREPROCESSING).output


def _activations(student: keras.Model, outputs: TeacherOutputs, folder: Path | None) -> NDArray[np.float16]:
    """Output of the layers that do not train, (N, h, w, C); half precision rounds ten times finer than int8 will."""
    tf, keras = require_tensorflow()
    prefix = keras.Model(student.input, _cut(student))
    found: NDArray[np.float16] = outputs_of(prefix, outputs.images, lambda values: tf.cast(values, tf.float16), folder)
    return found


def _batches(
    values: NDArray[np.float16], outputs: TeacherOutputs, seed: int | None, *, epochs: int = 0, batches: int = 0
) -> Any:
    """Images and teacher outputs, in an order that depends on seed and epoch alone; without a seed, as it is.

    `epochs` and `batches` are those of `keras_batches`.
    """
    return keras_batches(
        lambda rows: (values[rows].astype(np.float32), (outputs.features[rows], outputs.answers[rows])),
        shuffled(len(values), seed),
        _BATCH,
        epochs=epochs,
        batches=batches,
    )
