"""The techniques over a model of Keras and data sets of TensorFlow: what `tledge train` does, in one's own script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tledge
from tests.training.test_head import training_task
from tledge.core.errors import DataError, SettingsError
from tledge.data.pixels import PixelStore
from tledge.data.tf_datasets import stratified
from tledge.training import techniques

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")


def small(head: Any = None) -> Any:
    """A net of one convolution with a head of two layers."""
    x = pixels = keras.Input((8, 8, 3))
    for layer in (
        keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
        keras.layers.GlobalAveragePooling2D(name="pool"),
        *(head or (keras.layers.Dense(5, activation="relu"), keras.layers.Dense(2, activation="softmax"))),
    ):
        x = layer(x)
    return keras.Model(pixels, x)


def coloured(count: int, batch: int = 8, seed: int = 0) -> Any:
    """Red and blue noise, which anything that learns tells apart."""
    labels = np.arange(count) % 2
    images = np.random.default_rng(seed).uniform(0, 120, (count, 8, 8, 3)).astype(np.float32)
    images[labels == 0, ..., 0] += 100
    images[labels == 1, ..., 2] += 100
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch)


def test_feature_extraction_is_that_of_tledge_train(digits: Path, tmp_path: Path) -> None:
    files = sorted(digits.rglob("*.png"))
    labels = np.unique([path.parent.name for path in files], return_inverse=True)[1]
    ours, own = (tledge.training.vgg16_classifier(3, 32, head="gap", weights="random") for _ in "ab")
    task = training_task(ours, PixelStore(files, 32), labels, tmp_path, epochs=4)
    techniques.feature_extraction(task)
    part = {
        name: tf.data.Dataset.from_tensor_slices((task.pixels.take(rows), found)).batch(8)
        for name, (rows, found) in (("train", task.train), ("val", task.val))
    }
    weights = {index: len(task.train[1]) / (3 * count) for index, count in enumerate(np.bincount(task.train[1]))}
    history = tledge.training.feature_extraction(own, part["train"], part["val"], epochs=4, class_weight=weights)
    assert len(history.history["val_loss"]) == 4
    for mine, theirs in zip(own.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)
    assert [layer.name for layer in own.layers if layer.trainable and layer.weights] == ["prediction"]


def test_fine_tuning_trains_what_is_not_frozen() -> None:
    keras.utils.set_random_seed(0)
    model = small()
    training, validation = coloured(16), coloured(8, seed=1)
    tledge.training.feature_extraction(model, training, validation, epochs=20)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    tledge.training.freeze(model, until="pool")
    seen = []
    watching = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    history = tledge.training.fine_tune(model, training, validation, epochs=2, callbacks=[watching])
    assert seen == [0, 1]
    assert history.history["val_accuracy"][-1] == 1.0
    assert all(map(np.array_equal, model.get_layer("conv").get_weights(), before["conv"]))
    tledge.training.freeze(model, until=None)
    tledge.training.fine_tune(model, training, validation, epochs=1, learning_rate=1e-3)
    assert not all(map(np.array_equal, model.get_layer("conv").get_weights(), before["conv"]))


def test_layers_freeze_up_to_a_name() -> None:
    vgg = tledge.training.vgg16_classifier(2, 32, weights="random")
    tledge.training.freeze(vgg)
    trains = [layer.name for layer in vgg.layers if layer.trainable and layer.weights]
    assert trains == ["block5_conv1", "block5_conv2", "block5_conv3", "fc1", "prediction"]
    inner = small()
    outer = keras.Sequential([keras.Input((8, 8, 3)), inner])
    tledge.training.freeze(outer, until=inner.name)
    assert not outer.trainable_weights
    # To cut inside a model, it is passed itself: that it was frozen as a whole before is undone.
    tledge.training.freeze(inner, until="pool")
    assert [weight.path.split("/")[-2] for weight in inner.trainable_weights].count("conv") == 0
    assert len(inner.trainable_weights) == 4
    with pytest.raises(SettingsError, match=r"expected a layer of .*conv, pool.*, but got 'block4_pool'"):
        tledge.training.freeze(inner)


def test_settings_of_keras_are_given_back() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tledge.training.vgg16_classifier(2, 32, weights="random")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.repeat(), "repeats for ever"),
        (lambda data: data.unbatch(), r"batches of images \(N, H, W, 3\)"),
        (lambda data: data.map(lambda image, label: (image, tf.one_hot(label, 2))), "class indices"),
        (lambda data: data.map(lambda image, label: image), "of \\(images, labels\\)"),
        (lambda data: data.map(lambda image, label: (image, label + 1)), "0 to 1, .* but got 1 to 2"),
        (lambda data: data.take(0), "it is empty"),
    ],
)
def test_data_sets_of_another_form_are_refused(change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tledge.training.feature_extraction(small(), change(coloured(8)), coloured(8), epochs=1)


@pytest.mark.parametrize(
    "head",
    [
        (keras.layers.Dense(2),),
        (keras.layers.Dense(2, activation="softmax", use_bias=False),),
        (keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Activation("softmax")),
    ],
)
def test_a_model_without_such_a_head_is_refused(head: Any) -> None:
    with pytest.raises(SettingsError, match="to end with Dense layers"):
        tledge.training.feature_extraction(small(head), coloured(8), coloured(8))


def test_samples_hold_all_classes_even_of_sorted_images() -> None:
    labels = np.repeat([0, 1, 2], [40, 3, 20])
    images = np.broadcast_to(labels[:, None, None, None], (63, 2, 2, 3)).astype(np.float32)
    taken, found = stratified(tf.data.Dataset.from_tensor_slices((images, labels)).batch(7), 30, 3)
    assert np.bincount(found).tolist() == [17, 3, 10]  # the rare class has too few: others fill up
    assert (taken[:, 0, 0, 0] == found).all()
