"""The head on a trunk that stays as it is: all that feature extraction trains, and what the others begin with.

VGG16's features are far from zero mean and unit variance (their standard deviation is about 10), and a random kernel
begins with large arbitrary scores for them, in more directions than a few hundred images can correct. So a head is
trained on centred and scaled features, its last layer from zero; its first kernel takes in centre and scale afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require, require_tensorflow
from tledge.core.types import Labels
from tledge.data.split import stratified_sample
from tledge.training.fit import fit_model
from tledge.training.prefix import Prefix, compute_prefix
from tledge.training.task import Epoch, TrainingTask

if TYPE_CHECKING:
    import keras

_FEATURE_LAYERS = ("gap", "flatten")
_ROWS_AT_ONCE = 1024
# A start needs no more; measured on photos and digits, more epochs hardly change the validation loss.
_START_EPOCHS, _START_LEARNING_RATE, _START_PATIENCE = 30, 1e-3, 5
_START_IMAGES = {"train": 2048, "val": 1024}


def fit_head(
    head: keras.Model, task: TrainingTask, features: NDArray[np.float32], train: Labels, val: Labels
) -> tuple[tuple[Epoch, ...], int]:
    """Train a head of Dense layers on features.

    Args:
        head: from (N, D) to probabilities; it then holds the weights of its best epoch, for features as they came.
        task: labels and how to train; its own model is not looked at.
        features: (N, D), a row per image; may be memory-mapped.
        train: rows of `features` in the order of the task's labels.
        val: likewise.

    Returns:
        The epochs, and the number of the best one, counted from 1.

    Raises:
        TledgeError: the loss is no longer finite.
    """
    with centred(head, features, train) as scaled:
        return fit_model(scaled, task, features, train, val)


@contextmanager
def centred(head: keras.Model, features: NDArray[np.float32], rows: Labels) -> Iterator[keras.Model]:
    """Let a head train on centred and scaled features in the block; after it, the head takes them as they came.

    Args:
        head: from (N, D) through Dense layers to probabilities; its last layer starts from zero.
        features: (N, D), a row per image; may be memory-mapped.
        rows: those of the training images.

    Yields:
        The model to train: it has the head's weights, and takes features as they came too.
    """
    _, keras = require_tensorflow()
    dense = [layer for layer in head.layers if isinstance(layer, keras.layers.Dense)]
    kernel, *bias = dense[-1].get_weights()
    dense[-1].set_weights([np.zeros_like(kernel), *bias])
    mean, deviation = _spread(features, rows)
    inputs = keras.Input(head.input_shape[1:])
    # One deviation for all: dividing each feature by its own would raise the noise of those that hardly ever answer.
    scaled = keras.layers.Normalization(mean=mean, variance=np.full_like(mean, deviation**2))(inputs)
    yield keras.Model(inputs, head(scaled))
    kernel, bias = dense[0].get_weights()
    kernel = kernel / deviation
    dense[0].set_weights([kernel, bias - mean @ kernel])


def start_head(task: TrainingTask, kept: Prefix | None = None, cut: Any = None) -> None:
    """Train the head alone, before layers of the trunk train with it.

    A random head sends large gradients that mean nothing into pre-trained layers: A. Kumar et al., "Fine-Tuning can
    Distort Pretrained Features and Underperform Out-of-Distribution", 2022. It looks at 2,048 training images at most.

    Args:
        task: the model, in which only the head changes, images and labels, batch size, seed.
        kept: activations to begin from; None: the pixels.
        cut: the tensor of the model that `kept` holds.

    Raises:
        TledgeError: the loss is no longer finite.
    """
    _, keras = require_tensorflow()
    model = task.model
    features = next(layer for layer in model.layers if layer.name in _FEATURE_LAYERS).output
    train_rows, val_rows = (task.train[0], task.val[0]) if kept is None else kept.rows(task)
    train = stratified_sample([str(label) for label in task.train[1]], _START_IMAGES["train"], task.seed)
    val = stratified_sample([str(label) for label in task.val[1]], _START_IMAGES["val"], task.seed)
    start = replace(
        task,
        train=(train_rows[train], task.train[1][train]),
        val=(val_rows[val], task.val[1][val]),
        epochs=_START_EPOCHS,
        learning_rate=_START_LEARNING_RATE,
        patience=_START_PATIENCE,
        progress=lambda _, done, of: task.progress("the head first", done, of),
        part="head",
    )
    begin, source = (model.input, None) if kept is None else (cut, kept.values)
    found = compute_prefix(start, keras.Model(begin, features), source)
    fit_head(keras.Model(features, model.output), start, found.values, *found.rows(start))


def _spread(features: NDArray[np.float32], rows: Labels) -> tuple[NDArray[np.float32], float]:
    """Mean of each feature, (D,), and one standard deviation for all of them."""
    scaler = require("sklearn.preprocessing").StandardScaler()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        scaler.partial_fit(features[rows[start : start + _ROWS_AT_ONCE]].astype(np.float64))
    # Features that are all alike have no spread to divide by.
    return scaler.mean_.astype(np.float32), float(np.sqrt(scaler.var_.mean())) or 1.0
