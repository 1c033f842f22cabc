"""The training loop that the techniques share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import TledgeError
from tledge.core.progress import Progress
from tledge.core.types import ComputeType, Labels
from tledge.data.pixels import PixelStore
from tledge.model.compute import computing_in, enough_memory, optimizer_of
from tledge.training.batches import keras_batches, shuffled
from tledge.training.prefix import Prefix
from tledge.training.random_resizing import RandomResizing
from tledge.training.task import Epoch, Training, TrainingTask

if TYPE_CHECKING:
    import keras

_FLIP = "horizontal"
_ROTATION_TURNS = 0.03
_ZOOM = 0.1


def fit_on_pixels(task: TrainingTask) -> Training:
    """Train the whole model on decoded images, augmented if the task says so: resized in other ways, then turned."""
    _, keras = require_tensorflow()
    trained = task.model
    source: PixelStore | RandomResizing = task.pixels
    if task.other_resizers:
        source = RandomResizing(task.pixels, task.other_resizers, task.seed)
    if task.augment:
        # Only the training graph has these layers: the model that is saved stays a plain VGG16.
        pixels = keras.Input(task.model.input_shape[1:], name="augmented")
        x = keras.layers.RandomFlip(_FLIP, seed=task.seed)(pixels)
        x = keras.layers.RandomRotation(_ROTATION_TURNS, fill_mode="reflect", seed=task.seed + 1)(x)
        x = keras.layers.RandomZoom(_ZOOM, fill_mode="reflect", seed=task.seed + 2)(x)
        trained = keras.Model(pixels, task.model(x))
    with computing_in(task.model, task.compute):
        history, best = fit_model(trained, task, task.pixels, task.train[0], task.val[0], source)
    return summary(task, history, best)


def fit_model(
    model: keras.Model,
    task: TrainingTask,
    source: PixelStore | NDArray[np.float32],
    train: Labels,
    val: Labels,
    training_source: PixelStore | RandomResizing | None = None,
) -> tuple[tuple[Epoch, ...], int]:
    """Train a model, or the part of one that comes after kept activations, until validation no longer improves.

    Args:
        model: what to train; it then holds the weights of its best epoch.
        task: labels and how to train; its own model is not looked at.
        source: pixels, or activations with a row per image.
        train: rows of `source`, (N,), in the order of the task's labels.
        val: likewise.
        training_source: `source` with random changes, for training alone; None for none.

    Returns:
        The epochs, and the number of the best one, counted from 1.

    Raises:
        TledgeError: the loss is no longer finite.
    """
    return fit_batches(
        model,
        _batches(source if training_source is None else training_source, train, task.train[1], task, shuffle=True),
        _batches(source, val, task.val[1], task, shuffle=False),
        epochs=task.epochs,
        learning_rate=task.learning_rate,
        schedule=_learning_rate(task, -(-len(train) // task.batch_size)),
        patience=task.patience,
        class_weight=_class_weights(task),
        progress=task.progress,
        compute=task.compute,
        smaller=smaller_batch(task.batch_size),
    )


def smaller_batch(batch_size: int) -> str:
    """What to try where memory is too little for batches of this size."""
    if batch_size == 1:
        return "choose a smaller --image-size, or --technique feature-extraction"
    return f"try --batch-size {batch_size // 2}"


def fit_batches(
    model: keras.Model,
    training: Any,
    validation: Any,
    *,
    epochs: int,
    learning_rate: float,
    patience: int,
    class_weight: Mapping[int, float] | None,
    progress: Progress,
    schedule: Any = None,
    callbacks: Sequence[Any] = (),
    compute: ComputeType = "float32",
    smaller: str = "make smaller batches",
) -> tuple[tuple[Epoch, ...], int]:
    """Train what is trainable in a model with Adam until validation no longer improves.

    Args:
        model: from inputs to probabilities; it then holds the weights of its best epoch.
        training: batches of (inputs, class indices) in whatever Keras takes.
        validation: likewise.
        epochs: at most.
        learning_rate: of Adam.
        patience: epochs without a smaller validation loss before training stops.
        class_weight: by class index; None for all alike.
        progress: called with (what, epochs done, epochs in all).
        schedule: of Keras, in place of the learning rate.
        callbacks: of Keras, called before tledge's own.
        compute: what the layers multiply in; in float16 the loss is scaled.
        smaller: what to do where memory is too little for the batches, as the end of a message.

    Returns:
        The epochs, and the number of the best one, counted from 1.

    Raises:
        TledgeError: the loss is no longer finite, or memory is too little.
    """
    _, keras = require_tensorflow()
    model.compile(
        optimizer_of(learning_rate if schedule is None else schedule, compute),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    recorder = _recorder(epochs, progress)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
    progress("training", 0, epochs)
    with released(), enough_memory("training in batches of this size", smaller):
        model.fit(
            training,
            validation_data=validation,
            epochs=epochs,
            class_weight=class_weight,
            callbacks=[*callbacks, recorder, stopping, keras.callbacks.TerminateOnNaN()],
            verbose=0,
            shuffle=False,
        )
    progress("training", epochs, epochs)  # it may have stopped early
    history: list[Epoch] = recorder.epochs
    if not history or not np.isfinite([history[-1].loss, history[-1].val_loss]).all():
        raise TledgeError(
            f"expected a finite loss, but training diverged with --learning-rate {learning_rate:g}; "
            "choose a smaller one"
        )
    return tuple(history), int(stopping.best_epoch) + 1


def _learning_rate(task: TrainingTask, steps_per_epoch: int) -> Any:
    """The learning rate, or from random weights its schedule."""
    if not task.from_random:
        return task.learning_rate
    rise = min(task.warm_up_epochs, task.epochs) * steps_per_epoch
    return rise_then_cosine(task.learning_rate, task.epochs * steps_per_epoch, rise)


def rise_then_cosine(highest: float, steps: int, rise: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A linear rise from 0 (Goyal et al. 2017), then half a cosine down to 0 (Loshchilov and Hutter 2017).

    Args:
        highest: the learning rate after the rise, above 0.
        steps: batches in all.
        rise: batches of the rise.
    """
    _, keras = require_tensorflow()
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0, decay_steps=max(1, steps - rise), warmup_target=highest, warmup_steps=rise
    )


@contextlib.contextmanager
def released() -> Iterator[None]:
    """When the block ends, give back the memory of the training steps that were traced in it.

    Optimizers sum gradients over replicas, and TensorFlow registers the gradient of that sum under a new name for
    every traced step. It never removes one, and with it live the step's graph, the weights and the optimizer's
    moments, 0.4 GB after each training of the whole VGG16. Only a backward pass through such a step would look the
    name up.
    """
    from tensorflow.python.framework.ops import gradient_registry

    before = set(gradient_registry.list())
    try:
        yield
    finally:
        # There is no public way to take one back; where the attribute is gone, memory is kept as it was.
        registered = getattr(gradient_registry, "_registry", {})
        for name in set(gradient_registry.list()) - before:
            if name.startswith("CustomGradient-"):
                registered.pop(name, None)


def _batches(source: Any, indices: Labels, labels: Labels, task: TrainingTask, *, shuffle: bool) -> Any:
    """Rows of a pixel store or an array with their labels."""

    order = shuffled(len(indices), task.seed if shuffle else None)

    def drawn() -> Labels:
        source.draw(len(indices))
        return order()

    def take(chosen: Labels) -> tuple[Any, Any]:
        rows = indices[chosen]
        if isinstance(source, RandomResizing):
            values = source.take(rows, chosen)
        else:
            values = source.take(rows) if isinstance(source, PixelStore) else source[rows]
        return np.asarray(values, np.float32), labels[chosen]

    return keras_batches(take, drawn if isinstance(source, RandomResizing) else order, task.batch_size)


def _recorder(epochs: int, progress: Progress) -> Any:
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
            progress("training", epoch + 1, epochs)

    return Recorder()


def _class_weights(task: TrainingTask) -> dict[int, float] | None:
    return None if task.class_weighting == "none" else balanced(task.train[1])


def balanced(labels: Labels) -> dict[int, float]:
    """Weights by class index with which rare classes count as much as frequent ones."""
    from sklearn.utils.class_weight import compute_class_weight

    classes = np.unique(labels)
    weights = compute_class_weight("balanced", classes=classes, y=labels)
    return {int(label): float(weight) for label, weight in zip(classes, weights, strict=True)}


def summary(task: TrainingTask, history: tuple[Epoch, ...], best: int, prefix: Prefix | None = None) -> Training:
    """What training came to; `prefix` are the kept activations it began from."""
    parameters = sum(int(np.prod(weight.shape)) for weight in task.model.trainable_weights)
    if prefix is None:
        return Training(history, best, parameters, 0, 0, 0.0)
    images = len(prefix.values)
    return Training(history, best, parameters, images - prefix.cached, prefix.cached, prefix.seconds)
