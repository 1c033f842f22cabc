"""Train the small net to answer as the large one does.

The first two blocks stay as the reconstruction left them: they hold 2 % of the weights and half of the multiply-adds,
so what they compute is kept, and an epoch costs a fraction.

Loss: cross-entropy to the teacher's probabilities (G. Hinton et al., "Distilling the Knowledge in a Neural Network",
2015) and squared distance to its features before the head (A. Romero et al., "FitNets: Hints for Thin Deep Nets", 2015;
here without a regressor, since the student's filters are some of the teacher's).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.chain import PREDICTION
from tledge.compression.evidence import Floats
from tledge.compression.truncation import features_layer
from tledge.core.dependencies import require_tensorflow
from tledge.core.progress import Progress
from tledge.core.types import Images, Probabilities
from tledge.model.vgg16 import PREPROCESSING
from tledge.training.learning_rate import rise_then_cosine
from tledge.training.training_steps import released

if TYPE_CHECKING:
    import keras

CUT = "block2_pool"
_BATCH = 16
_CLIP_NORM = 1.0
_PATIENCE = 10
# Adam's first steps are all of full length, whatever the gradients; without a rise they undo what least squares found.
_WARM_UP = 0.1
_DISTANCE = f"{PREDICTION}_mse"


@dataclass(frozen=True)
class TeacherOutputs:
    """Images and what the teacher says about them.

    `images` (N, S, S, 3) uint8, `features` (N, h, w, C), the map that the head takes, `answers` (N, classes).
    """

    images: Images
    features: Floats
    answers: Probabilities

    def of(self, filters: NDArray[np.int64] | None) -> TeacherOutputs:
        """The same with the features of these filters alone."""
        return self if filters is None else TeacherOutputs(self.images, self.features[..., filters], self.answers)


@dataclass(frozen=True)
class Distillation:
    """How it went.

    `losses` are mean squared differences of probabilities to the teacher's on validation images, first before any step,
    then after each epoch; `best` is an index.
    """

    losses: tuple[float, ...]
    best: int


@dataclass(frozen=True)
class DistillSettings:
    """`epochs` at most; stops after ten of them without a better validation loss.

    `learning_rate` is Adam's highest: it rises to that over a tenth of the steps, then falls to 0 on a cosine
    (Loshchilov and Hutter 2017).
    """

    epochs: int
    learning_rate: float
    seed: int


def ask_teacher(teacher: keras.Model, images: Images) -> TeacherOutputs:
    """Ask the teacher once about every image."""
    tf, keras = require_tensorflow()
    both = keras.Model(teacher.input, [teacher.get_layer(features_layer(teacher)).output, teacher.output])
    call = tf.function(lambda x: both(x, training=False), reduce_retracing=True)
    parts = [call(tf.constant(images[i : i + _BATCH], tf.float32)) for i in range(0, len(images), _BATCH)]
    features, answers = (np.concatenate([part[i].numpy() for part in parts]) for i in (0, 1))
    return TeacherOutputs(images, features, answers)


def distill(
    student: keras.Model, train: TeacherOutputs, val: TeacherOutputs, settings: DistillSettings, progress: Progress
) -> Distillation:
    """Train the student's layers after `CUT` in place; it keeps the weights of the best epoch.

    The best is closest to the teacher's probabilities on images that nothing was fitted to, by mean squared difference:
    cross-entropy is ruled there by the one image that it gets wrong most confidently. The start counts too, so training
    never makes it worse.
    """
    _, keras = require_tensorflow()
    trainer = _trainer(student, train, settings)
    validation = _batches(_activations(student, val), val, None)
    first = trainer.evaluate(validation, verbose=0, return_dict=True)[_DISTANCE]
    start = student.get_weights()
    watch = _watch(settings, progress)
    stopping = keras.callbacks.EarlyStopping(
        f"val_{_DISTANCE}", mode="min", patience=_PATIENCE, restore_best_weights=True
    )
    with released():
        trainer.fit(
            _batches(_activations(student, train), train, settings.seed),
            validation_data=validation,
            epochs=settings.epochs,
            callbacks=[stopping, watch, keras.callbacks.TerminateOnNaN()],
            verbose=0,
            shuffle=False,
        )
    losses = (float(first), *watch.losses)
    best = int(np.nanargmin(losses))
    if best == 0:
        student.set_weights(start)
    return Distillation(losses, best)


def _trainer(student: keras.Model, train: TeacherOutputs, settings: DistillSettings) -> Any:
    _, keras = require_tensorflow()
    for layer in student.layers:
        layer.trainable = layer.name != PREPROCESSING
    trainer = keras.Model(
        student.get_layer(CUT).output, [student.get_layer(features_layer(student)).output, student.output]
    )
    steps = settings.epochs * -(-len(train.images) // _BATCH)
    schedule = rise_then_cosine(settings.learning_rate, steps, max(int(steps * _WARM_UP), 1))
    trainer.compile(
        keras.optimizers.Adam(schedule, clipnorm=_CLIP_NORM),
        loss=["mse", "categorical_crossentropy"],
        # A share of the features' variance, so that both terms are of the order of 1.
        metrics=[[], ["mse"]],
        loss_weights=[1.0 / max(float(train.features.var()), 1e-9), 1.0],
    )
    return trainer


def _activations(student: keras.Model, outputs: TeacherOutputs) -> NDArray[np.float16]:
    """Output of the layers that do not train, (N, h, w, C); half precision rounds ten times finer than int8 will."""
    tf, keras = require_tensorflow()
    prefix = keras.Model(student.input, student.get_layer(CUT).output)
    call = tf.function(lambda x: tf.cast(prefix(x, training=False), tf.float16), reduce_retracing=True)
    starts = range(0, len(outputs.images), _BATCH)
    return np.concatenate([call(tf.constant(outputs.images[i : i + _BATCH], tf.float32)).numpy() for i in starts])


def _batches(values: NDArray[np.float16], outputs: TeacherOutputs, seed: int | None) -> Any:
    _, keras = require_tensorflow()

    class Batches(keras.utils.PyDataset):  # type: ignore[misc, name-defined]
        """Images and teacher outputs, in an order that depends on seed and epoch alone; without a seed, as it is."""

        def __init__(self) -> None:
            super().__init__()
            self._rng = None if seed is None else np.random.default_rng(seed)
            self._order = np.arange(len(values))
            self.on_epoch_end()

        def __len__(self) -> int:
            return -(-len(values) // _BATCH)

        def __getitem__(self, batch: int) -> tuple[Any, Any]:
            rows = self._order[batch * _BATCH : (batch + 1) * _BATCH]
            return values[rows].astype(np.float32), (outputs.features[rows], outputs.answers[rows])

        def on_epoch_end(self) -> None:
            if self._rng is not None:
                self._rng.shuffle(self._order)

    return Batches()


def _watch(settings: DistillSettings, progress: Progress) -> Any:
    _, keras = require_tensorflow()

    class Watch(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        """Keeps the validation losses and reports progress."""

        def __init__(self) -> None:
            super().__init__()
            self.losses: list[float] = []

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.losses.append(float(logs.get(f"val_{_DISTANCE}", np.nan)))
            progress("distilling", epoch + 1, settings.epochs)

    return Watch()
