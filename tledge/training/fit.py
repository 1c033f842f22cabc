"""The training loop that the techniques share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tledge.training.loop import Fit, Loop, Plan, Row, Variables, variables_of
from tledge.training.prefix import Prefix
from tledge.training.random_resizing import RandomResizing
from tledge.training.task import Epoch, Training, TrainingTask

if TYPE_CHECKING:
    import keras

_FLIP = "horizontal"
_ROTATION_TURNS = 0.03
_ZOOM = 0.1
_MEASURED = ("loss", "accuracy", "val_loss", "val_accuracy")
_SCORE = _MEASURED.index("val_loss")


def fit_on_pixels(task: TrainingTask, begin: Callable[[], None] | None = None) -> Training:
    """Train the whole model on decoded images, augmented if the task says so: resized in other ways, then turned.

    `begin` is that of `fit_model`.
    """
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
        history, best = fit_model(trained, task, task.pixels, task.train[0], task.val[0], source, begin)
    return summary(task, history, best)


def fit_model(
    model: keras.Model,
    task: TrainingTask,
    source: PixelStore | NDArray[np.float32],
    train: Labels,
    val: Labels,
    training_source: PixelStore | RandomResizing | None = None,
    begin: Callable[[], None] | None = None,
) -> tuple[tuple[Epoch, ...], int]:
    """Train a model, or the part of one that comes after kept activations, until validation no longer improves.

    It goes on from what an earlier process kept in the task's `work`.

    Args:
        model: what to train; it then holds the weights of its best epoch.
        task: labels and how to train; its own model is not looked at.
        source: pixels, or activations with a row per image.
        train: rows of `source`, (N,), in the order of the task's labels.
        val: likewise.
        training_source: `source` with random changes, for training alone; None for none.
        begin: called before the first step of a training that does not go on from another.

    Returns:
        The epochs, and the number of the best one, counted from 1.

    Raises:
        TledgeError: the loss is no longer finite, or memory is too little.
    """
    _, keras = require_tensorflow()
    steps = -(-len(train) // task.batch_size)
    _compile(model, _learning_rate(task, steps), task.compute)
    together = task.workers
    together.average(model.optimizer)
    loop = Loop(
        model,
        variables_of(model),
        Plan(task.part, task.epochs, steps, score=_SCORE, patience=task.patience),
        None if task.work is None else task.work / f"{task.part}.npz",
        _measured,
        lambda done, of: task.progress("training", done, of),
        together,
    )
    drawn = source if training_source is None else training_source
    # A worker that stops alone would leave the others waiting: together they notice at the end of the epoch.
    stopping = [keras.callbacks.TerminateOnNaN()] if together.size == 1 else []

    def fit(first: int, end: int, batches: int, watch: Any) -> None:
        model.fit(
            _batches(drawn, train, task.train[1], task, epochs=first, batches=batches),
            validation_data=_batches(source, val, task.val[1], task),
            initial_epoch=first,
            epochs=end,
            # Keras does not take it beside what each row counts.
            class_weight=_class_weights(task) if together.size == 1 else None,
            callbacks=[watch, *stopping],
            verbose=0,
            shuffle=False,
        )

    with together.together():
        return _trained(
            loop, fit, task.epochs, task.learning_rate, task.progress, smaller_batch(task.batch_size), begin
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
    callbacks: Sequence[Any] = (),
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
        callbacks: of Keras, called before tledge's own.

    Returns:
        The epochs, and the number of the best one, counted from 1.

    Raises:
        TledgeError: the loss is no longer finite, or memory is too little.
    """
    _, keras = require_tensorflow()
    _compile(model, learning_rate, "float32")
    loop = Loop(
        model,
        Variables(model.weights, (), list),
        Plan("training", epochs, steps=0, score=_SCORE, patience=patience),
        None,
        _measured,
        lambda done, of: progress("training", done, of),
    )

    def fit(first: int, end: int, _: int, watch: Any) -> None:
        model.fit(
            training,
            validation_data=validation,
            initial_epoch=first,
            epochs=end,
            class_weight=class_weight,
            callbacks=[*callbacks, watch, keras.callbacks.TerminateOnNaN()],
            verbose=0,
            shuffle=False,
        )

    return _trained(loop, fit, epochs, learning_rate, progress, "make smaller batches")


def _compile(model: keras.Model, rate: Any, compute: ComputeType) -> None:
    model.compile(optimizer_of(rate, compute), loss="sparse_categorical_crossentropy", metrics=["accuracy"])


def _measured(logs: Mapping[str, Any]) -> Row:
    return tuple(float(logs.get(key, np.nan)) for key in _MEASURED)


def _trained(
    loop: Loop,
    fit: Fit,
    epochs: int,
    learning_rate: float,
    progress: Progress,
    smaller: str,
    begin: Callable[[], None] | None = None,
) -> tuple[tuple[Epoch, ...], int]:
    """Run a loop whose rows are `_MEASURED`."""
    _, keras = require_tensorflow()
    progress("training", 0, epochs)
    with released(), enough_memory("training in batches of this size", smaller):
        best = loop.run(fit, keras.callbacks, begin)
    progress("training", epochs, epochs)  # it may have stopped early
    history = tuple(Epoch(number, *row) for number, row in enumerate(loop.rows, 1))
    if not history or not np.isfinite([history[-1].loss, history[-1].val_loss]).all():
        loop.give_up()
        raise TledgeError(
            f"expected a finite loss, but training diverged with --learning-rate {learning_rate:g}; "
            "choose a smaller one"
        )
    return history, best


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


def _batches(
    source: Any, indices: Labels, labels: Labels, task: TrainingTask, *, epochs: int | None = None, batches: int = 0
) -> Any:
    """Rows of a pixel store or an array with their labels.

    `epochs` and `batches` are those of `keras_batches`; without `epochs`, rows come as they are, all of them to every
    worker.
    """

    order = shuffled(len(indices), None if epochs is None else task.seed)
    shared = epochs is not None and task.workers.size > 1
    weights = np.ones(1 + int(labels.max(initial=0)), np.float32)
    for label, weight in ((_class_weights(task) or {}) if shared else {}).items():
        weights[label] = weight
    if isinstance(source, RandomResizing):
        source.restart()

    def drawn() -> Labels:
        source.draw(len(indices))
        return order()

    def take(chosen: Labels) -> tuple[Any, ...]:
        if shared:
            chosen, counts = task.workers.share(chosen)
        rows = indices[chosen]
        if isinstance(source, RandomResizing):
            values = source.take(rows, chosen)
        else:
            values = source.take(rows) if isinstance(source, PixelStore) else source[rows]
        batch = np.asarray(values, np.float32), labels[chosen]
        return (*batch, counts * weights[labels[chosen]]) if shared else batch

    return keras_batches(
        take,
        drawn if isinstance(source, RandomResizing) else order,
        task.batch_size,
        epochs=epochs or 0,
        batches=batches,
    )


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
