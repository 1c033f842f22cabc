"""Models of Keras in memory: exported without a run, and checked while they train."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tledge
from tledge.core.errors import ArtefactError, DataError, RunError, SettingsError
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

SIDE = 12
NAMES = ("red", "green", "blue")


def net(*ending: Any, rate: float = 0.3) -> Any:
    """A small net with layers that draw random numbers in training."""
    layers = keras.layers
    ending = ending or (layers.Dense(3, activation="softmax"),)
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.RandomFlip(),
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(rate),
            *ending,
        ]
    )


def noise(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise of three colours, in whole pixels."""
    labels = np.arange(count) % 3
    pixels = np.random.default_rng(seed).integers(0, 156, (count, SIDE, SIDE, 3))
    for channel in range(3):
        pixels[labels == channel, ..., channel] += 60
    return pixels.astype(np.uint8), labels


def dataset(count: int, scale: float = 255.0, seed: int = 0) -> Any:
    pixels, labels = noise(count, seed)
    return tf.data.Dataset.from_tensor_slices((pixels.astype(np.float32) / scale, labels)).batch(10)


def trained(epochs: int = 4, check: Any = (), **options: Any) -> tuple[Any, Any]:
    keras.utils.set_random_seed(5)
    model = net(**options)
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    training = dataset(60).unbatch().shuffle(60, seed=3).batch(10)
    return model, model.fit(training, validation_data=dataset(30, seed=1), epochs=epochs, callbacks=check, verbose=0)


def test_training_goes_on_as_without_the_check_which_says_what_the_file_is_right_in(tmp_path: Path) -> None:
    plain, before = trained()
    plainly_next = random.random(), np.random.random_sample()
    check = tledge.quantized_check(dataset(60), dataset(30, seed=1), every=2, input="0..1")
    checked, history = trained(check=[check])
    assert (random.random(), np.random.random_sample()) == plainly_next
    for mine, theirs in zip(checked.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(checked.optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert history.history["val_loss"] == before.history["val_loss"]
    assert history.history["val_int8_images"] == [30, 30]  # after epochs 2 and 4
    assert len(history.history["val_int8_accuracy"]) == 2
    exported = tledge.export_model(checked, dataset(60), NAMES, tmp_path / "out", ["tflite-int8"], input="0..1")
    pixels, labels = noise(30, seed=1)
    answers = open_classifier(exported.artefacts[0].path).predict(pixels)
    assert history.history["val_int8_accuracy"][-1] == pytest.approx(np.mean(answers.argmax(axis=1) == labels))


def test_what_a_recipe_names_is_checked() -> None:
    check = tledge.quantized_check(dataset(60), dataset(30, seed=1), recipe="onnx-float32", input="0..1")
    _, history = trained(1, [check])
    assert history.history["val_float32_accuracy"] == pytest.approx(history.history["val_accuracy"])


@pytest.mark.parametrize(("policy", "form"), [("mixed_bfloat16", "0..255"), ("float32", "caffe")])
def test_a_model_in_memory_is_exported(policy: str, form: str, tmp_path: Path) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(1)
        model = net(keras.layers.Dense(3, dtype="float32"))
    finally:
        keras.config.set_dtype_policy("float32")
    pixels, labels = noise(60)
    mean, std = {"0..255": (0.0, 1.0), "caffe": (np.array([103.939, 116.779, 123.68]), 1.0)}[form]
    values = (pixels[..., ::-1] if form == "caffe" else pixels).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices(((values - mean) / std, labels)).batch(7)
    before = model.get_weights()
    recipes = ["tflite-float32", "tflite-int8", "onnx-float32"]
    made = tledge.export_model(
        model, data, NAMES, tmp_path / "out", recipes, input=form, output="logits", resize="crop"
    )
    assert (tmp_path / "out" / "labels.txt").read_text() == "red\ngreen\nblue\n"
    assert [file.path.relative_to(tmp_path / "out").as_posix() for file in made.artefacts] == [
        "export/tflite-float32.tflite",
        "export/tflite-int8.tflite",
        "export/onnx-float32.onnx",
    ]
    reference = open_classifier(tmp_path / "out" / "model.keras", MODEL_OF_A_RUN).predict(pixels)
    for file in made.artefacts:
        classifier = open_classifier(file.path)
        assert classifier.labels == NAMES
        assert (classifier.lineage() or {})["source_sha256"] == file.sidecar.source_sha256
        assert (classifier.lineage() or {})["resize"] == "crop"
        answers = classifier.predict(pixels)
        if "int8" in file.name:
            assert np.mean(answers.argmax(axis=1) == reference.argmax(axis=1)) >= 0.9
        else:
            np.testing.assert_allclose(answers, reference, atol=1e-4)
    assert made.artefacts[1].sidecar.calibration is not None
    assert made.artefacts[1].sidecar.calibration.images == 60
    # The answers are the model's own, through everything that was put in front of it and behind it.
    if policy == "float32":
        logits = model.predict((values - mean) / std, verbose=0)
        np.testing.assert_allclose(reference, tf.nn.softmax(logits), atol=1e-4)
    assert all(map(np.array_equal, model.get_weights(), before))
    assert model.layers[1].dtype_policy.name == policy


def test_one_sigmoid_becomes_two_classes(tmp_path: Path) -> None:
    model = net(keras.layers.Dense(1, activation="sigmoid"))
    pixels, labels = noise(40)
    data = tf.data.Dataset.from_tensor_slices((pixels, labels % 2)).batch(8)
    made = tledge.export_model(model, data, ["no", "yes"], tmp_path / "out", ["tflite-float32"])
    found = open_classifier(made.artefacts[0].path).predict(pixels)
    np.testing.assert_allclose(found[:, 1:], model.predict(pixels.astype(np.float32), verbose=0), atol=1e-5)


class Own(keras.Model):  # type: ignore[misc, name-defined]
    """A model with a `call` of its own, which nobody can look into."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def call(self, x: Any) -> Any:
        return self.inner(x)


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out, good = tmp_path / "out", dataset(30, 1.0)
    model = net()
    with pytest.raises(SettingsError, match=r"expected pixels of 0\.\.255, but no value of 30 images is above 0\.8"):
        tledge.export_model(model, dataset(30), NAMES, out)
    with pytest.raises(SettingsError, match=r"as 0\.\.1 says, but the data set has 0 to 215"):
        tledge.export_model(model, good, NAMES, out, input="0..1")
    with pytest.raises(ArtefactError, match=r"a name for each of the 3 classes of .*, but got 2"):
        tledge.export_model(model, good, NAMES[:2], out)
    with pytest.raises(DataError, match="each class once in `classes`"):
        tledge.export_model(model, good, ("a", "a", "b"), out)
    with pytest.raises(ArtefactError, match="expected a functional or sequential model"):
        tledge.export_model(Own(), good, NAMES, out)
    assert not list(tmp_path.iterdir())
    out.mkdir()
    (out / "something").touch()
    with pytest.raises(RunError, match="exists"):
        tledge.export_model(model, good, NAMES, out)


def test_a_check_that_cannot_be_made_stops_before_the_first_epoch() -> None:
    with pytest.raises(SettingsError, match="every as a number of epochs of at least 1, but got 0"):
        tledge.quantized_check(dataset(9), dataset(9), every=0)
    model = net()
    model.compile("adam", loss="sparse_categorical_crossentropy")
    before = model.get_weights()
    with pytest.raises(SettingsError, match=r"say with `input='0\.\.1'`"):
        model.fit(dataset(9), callbacks=[tledge.quantized_check(dataset(9), dataset(9))], verbose=0)
    assert all(map(np.array_equal, model.get_weights(), before))
