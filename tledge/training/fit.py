"""The training loop that the techniques share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import TledgeError
from tledge.core.types import Labels
from tledge.data.pixels import PixelStore
from tledge.model.compute import computing_in
from tledge.model.vgg16 import PREPROCESSING, TRUNK_LAYERS
from tledge.training.learning_rate import rise_then_cosine
from tledge.training.prefix import Prefix
from tledge.training.task import Epoch, Training, TrainingTask
from tledge.training.training_steps import released

if TYPE_CHECKING:
    import keras

_FLIP = "horizontal"
_ROTATION_TURNS = 0.03
_ZOOM = 0.1


def set_trainable(model: keras.Model, frozen_layers: int) -> None:
    """Freeze the first layers, counted as `keras.applications.VGG16` counts them, and unfreeze the rest."""
    frozen = {PREPROCESSING, *TRUNK_LAYERS[:frozen_layers]}
    for layer in model.layers:
        layer.trainable = layer.name not in frozen


def fit_on_pixels(task: TrainingTask) -> Training:
    """Train the whole model on decoded images, augmented if the task says so."""
    _, keras = require_tensorflow()
    trained = task.model
    if task.augment:
        # Only the training graph has these layers: the model that is saved stays a plain VGG16.
        pixels = keras.Input(task.model.input_shape[1:], name="augmented")
        x = keras.layers.RandomFlip(_FLIP, seed=task.seed)(pixels)
        x = keras.layers.RandomRotation(_ROTATION_TURNS, fill_mode="reflect", seed=task.seed + 1)(x)
        x = keras.layers.RandomZoom(_ZOOM, fill_mode="reflect", seed=task.seed + 2)(x)
        trained = keras.Model(pixels, task.model(x))
    with computing_in(task.model, task.compute):
        history, best = fit_model(trained, task, task.pixels, task.train[0], task.val[0])
    return summary(task, history, best)


def fit_model(
    model: keras.Model, task: TrainingTask, source: PixelStore | NDArray[np.float32], train: Labels, val: Labels
) -> tuple[tuple[Epoch, ...], int]:
    """Train a model, or the part of one that comes after kept activations, until validation no longer improves.

    Args:
        model: what to train; it then holds the weights of its best epoch.
        task: labels and how to train; its own model is not looked at.
        source: pixels, or activations with a row per image.
        train: rows of `source`, (N,), in the order of the task's labels.
        val: likewise.

    Returns:
        The epochs, and the number of the best one, counted from 1.

    Raises:
        TledgeError: the loss is no longer finite.
    """
    _, keras = require_tensorflow()
    model.compile(
        keras.optimizers.Adam(_learning_rate(task, -(-len(train) // task.batch_size))),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    recorder = _recorder(task)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=task.patience, restore_best_weights=True)
    task.progress("training", 0, task.epochs)
    with released():
        model.fit(
            _batches(source, train, task.train[1], task, shuffle=True),
            validation_data=_batches(source, val, task.val[1], task, shuffle=False),
            epochs=task.epochs,
            class_weight=_class_weights(task),
            callbacks=[recorder, stopping, keras.callbacks.TerminateOnNaN()],
            verbose=0,
            shuffle=False,
        )
    task.progress("training", task.epochs, task.epochs)  # it may have stopped early
    history: list[Epoch] = recorder.epochs
    if not history or not np.isfinite([history[-1].loss, history[-1].val_loss]).all():
        raise TledgeError(
            f"expected a finite loss, but training diverged with --learning-rate {task.learning_rate:g}; "
            "choose a smaller one"
        )
    return tuple(history), int(stopping.best_epoch) + 1


def _learning_rate(task: TrainingTask, steps_per_epoch: int) -> Any:
    """The learning rate, or from random weights its schedule."""
    if not task.from_random:
        return task.learning_rate
    rise = min(task.warm_up_epochs, task.epochs) * steps_per_epoch
    return rise_then_cosine(task.learning_rate, task.epochs * steps_per_epoch, rise)


def _batches(source: Any, indices: Any, labels: Any, task: TrainingTask, *, shuffle: bool) -> Any:
    _, keras = require_tensorflow()

    class Batches(keras.utils.PyDataset):  # type: ignore[misc, name-defined]
        """Rows of a pixel store or an array, in an order that depends on the seed and the epoch alone."""

        def __init__(self) -> None:
            super().__init__()
            self._rng = np.random.default_rng(task.seed)
            self._order = np.arange(len(indices))
            self.on_epoch_end()

        def __len__(self) -> int:
            return -(-len(indices) // task.batch_size)

        def __getitem__(self, batch: int) -> tuple[Any, Any]:
            chosen = self._order[batch * task.batch_size : (batch + 1) * task.batch_size]
            rows = indices[chosen]
            values = source.take(rows) if isinstance(source, PixelStore) else source[rows]
            return np.asarray(values, np.float32), labels[chosen]

        def on_epoch_end(self) -> None:
            if shuffle:
                self._rng.shuffle(self._order)

    return Batches()


def _recorder(task: TrainingTask) -> Any:
    _, keras = require_tensorflow()

    class Recorder(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        """Keeps the history and reports progress."""

        def __init__(self) -> None:
            super().__init__()
            self.epochs: list[Epoch] = []
            self._started = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            loss, accuracy, val_loss, val_accuracy = (
                float(logs.get(key, np.nan)) for key in ("loss", "accuracy", "val_loss", "val_accuracy")
            )
            seconds = time.perf_counter() - self._started
            self.epochs.append(Epoch(epoch + 1, loss, accuracy, val_loss, val_accuracy, seconds))
            task.progress("training", epoch + 1, task.epochs)

    return Recorder()


def _class_weights(task: TrainingTask) -> dict[int, float] | None:
    if task.class_weighting == "none":
        return None
    from sklearn.utils.class_weight import compute_class_weight

    classes = np.unique(task.train[1])
    weights = compute_class_weight("balanced", classes=classes, y=task.train[1])
    return {int(label): float(weight) for label, weight in zip(classes, weights, strict=True)}


def summary(task: TrainingTask, history: tuple[Epoch, ...], best: int, prefix: Prefix | None = None) -> Training:
    """What training came to; `prefix` are the kept activations it began from."""
    parameters = sum(int(np.prod(weight.shape)) for weight in task.model.trainable_weights)
    if prefix is None:
        return Training(history, best, parameters, 0, 0, 0.0)
    images = len(prefix.values)
    return Training(history, best, parameters, images - prefix.cached, prefix.cached, prefix.seconds)
