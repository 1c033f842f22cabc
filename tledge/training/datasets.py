"""The techniques as functions over a model of Keras and a `tf.data.Dataset`, for people with a script of their own.

Architecture, freezing, the head on centred features and the loop are those that `tledge train` uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import DataError, SettingsError
from tledge.core.progress import Progress, say, silent
from tledge.core.types import HeadName, Labels
from tledge.data.tf_datasets import labelled_batches, require_labelled
from tledge.model import weights as weight_sources
from tledge.model.forward import compiled
from tledge.model.vgg16 import build
from tledge.training.batches import Order, keras_batches, shuffled
from tledge.training.fit import fit_batches
from tledge.training.head import centred
from tledge.training.layers import freeze
from tledge.training.settings import DEFAULTS

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

_HEAD, _REST = DEFAULTS["feature-extraction"], DEFAULTS["freeze"]


def vgg16_classifier(
    classes: int,
    image_size: int = 224,
    *,
    head: HeadName = "flatten",
    weights: str = weight_sources.IMAGENET,
    seed: int = 0,
) -> keras.Model:
    """VGG16 with its preprocessing inside and a new head, as `tledge train` begins with.

    Args:
        classes: number of classes, at least 2.
        image_size: side of the input in pixels, at least 32.
        head: `flatten` (Dense 100 `fc1`, then softmax `prediction`) or `gap` (mean of block 5, then softmax).
        weights: of the trunk: `imagenet`, `random`, a name of `tledge weights list`, or a file.
        seed: of random initial values.

    Returns:
        A functional model from (N, S, S, 3) RGB pixels of 0..255 to (N, classes) probabilities. Its layers have the
        names of `keras.applications.VGG16`.

    Raises:
        SettingsError: fewer than two classes, or too small an input.
        WeightsError: the weights cannot be had.
    """
    found = weight_sources.resolve(weights)
    for note in () if found is None else found.notes:
        say(f"note: {note}")
    return build(classes, image_size, head, found, seed)


def feature_extraction(
    model: keras.Model,
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    epochs: int = _HEAD.epochs,
    learning_rate: float = _HEAD.learning_rate,
    patience: int = _HEAD.patience,
    batch_size: int = 16,
    class_weight: Mapping[int, float] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> keras.callbacks.History:
    """Freeze all but the head, run everything before the head once over all images, and train the head on that.

    J. Donahue et al., "DeCAF: A Deep Convolutional Activation Feature for Generic Visual Recognition", 2014. Also what
    comes before fine-tuning: a random head would spoil pre-trained layers. The head begins anew whatever it held.
    What comes before it puts out is kept in memory: 2 kB an image behind VGG16's `gap`, 100 kB behind `flatten` at
    224 px.

    Args:
        model: its head is the Dense (and Dropout) layers at its end, the last with a softmax; only they train.
        training: batches of (images as the model takes them, class indices); read once.
        validation: likewise.
        epochs: at most.
        learning_rate: of Adam.
        patience: epochs without a smaller validation loss before training stops.
        batch_size: images per training step.
        class_weight: by class index, as Keras has it; None for all images alike.
        seed: of the order of the images.
        progress: called with (what, epochs done, epochs in all).

    Returns:
        Keras's history of the head's training. The model holds the weights of the best epoch.

    Raises:
        SettingsError: the model has no such head.
        DataError: a data set is not of that form, is empty, or has classes that the model does not have.
        TledgeError: the loss is no longer finite.
    """
    require_labelled(training, "training images")
    require_labelled(validation, "validation images")
    features, head = _at_the_head(model)
    freeze(model, until=features.name)
    _, keras = require_tensorflow()
    before = keras.Model(model.inputs, features.output)
    (train_values, train_labels), (values, labels) = (
        _kept(before, dataset, head.output_shape[-1], progress) for dataset in (training, validation)
    )
    every = np.arange(len(train_values))
    with centred(head, train_values, every) as scaled:
        fit_batches(
            scaled,
            _batches(train_values, train_labels, shuffled(len(every), seed), batch_size),
            _batches(values, labels, shuffled(len(values), None), batch_size),
            epochs=epochs,
            learning_rate=learning_rate,
            patience=patience,
            class_weight=class_weight,
            progress=progress,
        )
    return scaled.history


def fine_tune(
    model: keras.Model,
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    epochs: int = _REST.epochs,
    learning_rate: float = _REST.learning_rate,
    patience: int = _REST.patience,
    class_weight: Mapping[int, float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: Progress = silent,
) -> keras.callbacks.History:
    """Train every layer that is not frozen, until validation no longer improves.

    Call `feature_extraction` before, then `freeze(model, until="block4_pool")` or `freeze(model, until=None)`: these
    are the techniques `freeze` and `architecture`.

    Args:
        model: it ends with a softmax.
        training: batches of (images as the model takes them, class indices), shuffled and augmented as you like;
            read once for every epoch.
        validation: likewise, neither shuffled nor augmented.
        epochs: at most.
        learning_rate: of Adam. Trained layers of VGG16 take small ones: 2e-4 diverges.
        patience: epochs without a smaller validation loss before training stops.
        class_weight: by class index, as Keras has it; None for all images alike.
        callbacks: of Keras, such as `tledge.quantized_check`.
        progress: called with (what, epochs done, epochs in all).

    Returns:
        Keras's history. The model holds the weights of the best epoch.

    Raises:
        DataError: a data set is not of that form.
        TledgeError: the loss is no longer finite.
    """
    require_labelled(training, "training images")
    require_labelled(validation, "validation images")
    fit_batches(
        model,
        training,
        validation,
        epochs=epochs,
        learning_rate=learning_rate,
        patience=patience,
        class_weight=class_weight,
        progress=progress,
        callbacks=callbacks,
    )
    return model.history


def _at_the_head(model: keras.Model) -> tuple[Any, keras.Model]:
    """The layer before the head, and the head as a model of its own.

    Raises:
        SettingsError: the model does not end with Dense layers in a row, the last with a softmax.
    """
    _, keras = require_tensorflow()
    layers = list(model.layers)
    first = len(layers)
    while first and isinstance(layers[first - 1], keras.layers.Dense | keras.layers.Dropout):
        first -= 1
    dense = [layer for layer in layers[first:] if isinstance(layer, keras.layers.Dense)]
    is_head = first and dense and dense[-1] is layers[-1] and dense[-1].activation.__name__ == "softmax"
    # Centre and scale of the features go into the first kernel and its bias.
    if not is_head or not dense[0].use_bias or len(layers[first - 1].output.shape) != 2:
        raise SettingsError(
            f"expected {model.name} to end with Dense layers on pooled or flattened features, the first with a bias "
            f"and the last with a softmax, but its last layers are {', '.join(layer.name for layer in layers[-3:])}; "
            "put such a head on it, or train it with `fine_tune` alone"
        )
    return layers[first - 1], keras.Model(layers[first - 1].output, model.output)


def _batches(values: NDArray[np.float32], labels: Labels, order: Order, batch_size: int) -> Any:
    return keras_batches(lambda rows: (values[rows], labels[rows]), order, batch_size)


def _kept(
    before: keras.Model, dataset: tf.data.Dataset, classes: int, progress: Progress
) -> tuple[NDArray[np.float32], Labels]:
    """What the layers before the head put out for all images of a data set, and their labels."""
    tf, _ = require_tensorflow()
    call = compiled(before, lambda outputs: tf.cast(outputs, tf.float32))
    parts, all_labels, total = [], [], max(0, int(dataset.cardinality()))
    for images, labels in labelled_batches(dataset):
        parts.append(call(images))
        all_labels.append(labels)
        progress("frozen layers", len(parts), max(total, len(parts)))
    if not parts:
        raise DataError("expected images in the data set, but it is empty; check how it was made")
    found = np.concatenate(all_labels)
    if found.min() < 0 or found.max() >= classes:
        raise DataError(
            f"expected class indices of 0 to {classes - 1}, as the model has {classes} classes, but got "
            f"{found.min()} to {found.max()}; correct the model or the labels"
        )
    return np.concatenate(parts), found
