"""A callback of Keras that looks, while a model trains, what its quantized file would be right in."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.conversion.calibration import calibrate
from tledge.conversion.keras_models import DatasetImages, ReadModel
from tledge.conversion.recipe import Recipe, load_recipes
from tledge.conversion.registry import FORMATS
from tledge.conversion.verification import verify_precision
from tledge.core.dependencies import require_tensorflow
from tledge.core.environment import versions
from tledge.core.errors import SettingsError
from tledge.core.files import write_bytes
from tledge.core.surroundings import give_back
from tledge.data.tf_datasets import labelled_batches, require_labelled
from tledge.model.inference import inference_graph
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def quantized_check(
    training: tf.data.Dataset,
    validation: tf.data.Dataset,
    *,
    every: int = 1,
    recipe: str = "tflite-int8",
    input: str = "0..255",
    output: str | None = None,
) -> keras.callbacks.Callback:
    """A callback for `model.fit` that converts a copy of the model and asks the file about validation images.

    The copy goes the whole way of `tledge.export`: folded, calibrated, quantized, and opened in its own runtime. Logs
    and history of Keras then have `val_int8_accuracy` (or that of another precision) and `val_int8_images`, the number
    of images behind it, in the epochs that were checked; a callback after this one can monitor the former. Training
    goes on as it would without: weights, optimizer and random numbers are left alone. Only a data set that is shuffled
    anew in every pass notices that it was read once more.

    Args:
        training: batches of (images as the model takes them, class indices). Ranges are taken from as many as the
            recipe says, read once when training begins.
        validation: the images that are asked about, all of them at every check.
        every: epochs from one check to the next.
        recipe: a built-in name or a TOML file.
        input: what the model takes for a pixel, as for `tledge.export_model`.
        output: logits for scores before the softmax, as for `tledge.export_model`.

    Raises:
        RecipeError: unknown, malformed or impossible recipe.
        SettingsError: `every` is below 1.
        DataError: a data set is not of that form.
    """
    if every < 1:
        raise SettingsError(f"expected every as a number of epochs of at least 1, but got {every}; choose a larger one")
    (chosen,) = load_recipes((recipe,))
    require_labelled(training, "training images")
    require_labelled(validation, "validation images")
    _, keras = require_tensorflow()

    class QuantizedCheck(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        """Checks a quantized copy of the model each few epochs."""

        def on_train_begin(self, logs: Any = None) -> None:
            # What cannot be converted is refused before the first epoch.
            with _unnoticed():
                read = ReadModel(self.model, input, output)
                inference_graph(read.reference)
                self._images = DatasetImages(training, chosen.calibration_images or 1, read)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if (epoch + 1) % every:
                return
            with _unnoticed():
                right, images = _hits(ReadModel(self.model, input, output), chosen, self._images, validation)
            if logs is not None:
                logs[f"val_{chosen.precision}_accuracy"] = right / images
                logs[f"val_{chosen.precision}_images"] = images

    return QuantizedCheck()


@contextmanager
def _unnoticed() -> Iterator[None]:
    """Leave the user's random numbers and settings of Keras as they were: layers that are copied draw seeds."""
    python, array = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        give_back()


def _hits(read: ReadModel, recipe: Recipe, shown: DatasetImages, validation: tf.data.Dataset) -> tuple[int, int]:
    """In how many of the validation images the file of a model is right, and how many there are."""
    fmt, graph = FORMATS[recipe.format], inference_graph(read.reference)
    calibration = None
    if recipe.is_integer:
        calibration = calibrate(graph, shown.take(recipe.calibration_images)[0], recipe.calibration_method)
    layers = tuple(name for name in graph.matrix_layers if name in recipe.float_layers)
    labels = tuple(str(index) for index in range(read.classes))
    request = recipe.request(
        graph, fmt.float_model(graph), labels, {"tledge": versions()["tledge"]}, calibration, layers
    )
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder:
        path = Path(folder) / f"model{fmt.suffix}"
        write_bytes(path, fmt.convert(request))
        verify_precision(recipe, fmt.count_ops(path), layers)
        classifier = open_classifier(path, MODEL_OF_A_RUN)
        right = images = 0
        for values, classes in labelled_batches(validation):
            answers = classifier.predict(read.pixels(values))
            # NaN is no answer, although argmax makes a class of it.
            right += int(np.count_nonzero((answers.argmax(axis=1) == classes) & np.isfinite(answers).all(axis=1)))
            images += len(classes)
    if not images:
        raise SettingsError("expected validation images, but the data set is empty; check how it was made")
    return right, images
