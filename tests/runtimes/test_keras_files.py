"""Whole models of Keras 2 and of the older HDF5 format answer as they did where they were saved, or are refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtimes.foreign_models import SIDE, pictures, small
from tledge.core.errors import ArtefactError, MissingDependencyError
from tledge.runtimes import keras_files, open_classifier
from tledge.runtimes.declared import Declaration, parse_input
from tledge.runtimes.registry import open_adapter

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
tf_keras = pytest.importorskip("tf_keras")
h5py = pytest.importorskip("h5py")

FRACTIONS = Declaration(parse_input("0..1"))
TOLERANCE = 1e-5


def classifier(between: Callable[[Any], Any] = lambda x: x, units: int = 2, activation: Any = "softmax") -> Any:
    """A model of Keras 2 with a layer of every kind that holds weights in a VGG16."""
    tf_keras.utils.set_random_seed(3)
    layers = tf_keras.layers
    pixels = layers.Input((SIDE, SIDE, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(between(pixels)))
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(x))
    model = tf_keras.Model(pixels, layers.Dense(units, activation=activation)(layers.Dropout(0.5)(x)))
    # Fresh statistics would hide that they are read.
    norm = next(layer for layer in model.layers if "batch" in layer.name)
    norm.set_weights([np.linspace(0.5, 2, 4), np.linspace(-1, 1, 4), np.full(4, 0.2), np.full(4, 0.3)])
    return model


def sequential() -> Any:
    layers = tf_keras.layers
    inner = tf_keras.Sequential([layers.Conv2D(4, 3, input_shape=(SIDE, SIDE, 3)), layers.Flatten()])
    return tf_keras.Sequential([inner, layers.Dense(3), layers.Activation("softmax")])


def normalising(pixels: Any) -> Any:
    """What the plain arithmetic of a tutorial becomes: calls of functions by name."""
    return tf.nn.bias_add(pixels * 2.0, [-1.0, -0.5, 0.0])


MODELS: dict[str, Callable[[], Any]] = {
    "functional": classifier,
    "sequential": sequential,
    "arithmetic": lambda: classifier(normalising),
}


def renamed(path: Path, *pairs: tuple[bytes, bytes]) -> Path:
    """The archive as another release of Keras 2 names its modules."""
    content = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content[name] = archive.read(name)
    for old, new in pairs:
        content["config.json"] = content["config.json"].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    return path


def save(model: Any, path: Path, name: str) -> Path:
    path = path / ("m.h5" if "h5" in name else "m.keras")
    if name == "hdf5 named .keras":
        model.save(path.with_suffix(".h5"))
        return path.with_suffix(".h5").rename(path.with_suffix(".keras"))
    model.save(path)
    if name == "2.15":
        renamed(path, (b"tf_keras", b"keras"))
    if name == "2.15 h5":
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = file.attrs["model_config"].replace("tf_keras", "keras")
    return renamed(path, (b"tf_keras.src.engine", b"keras.engine")) if name == "2.12" else path


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("name", ["tf_keras", "2.15", "2.12", "h5", "2.15 h5", "hdf5 named .keras"])
def test_models_of_keras_2_answer_as_they_did(tmp_path: Path, name: str, kind: str) -> None:
    model = MODELS[kind]()
    path = save(model, tmp_path, name)
    expected = model(pictures() / np.float32(255), training=False)
    found = open_classifier(path, FRACTIONS)
    assert found.runtime == "keras"
    np.testing.assert_allclose(found.predict(pictures()), expected, atol=TOLERANCE)


def test_slices_in_hdf5(tmp_path: Path) -> None:
    model = classifier(lambda pixels: pixels[..., ::-1])
    model.save(tmp_path / "m.h5")
    expected = model(pictures() / np.float32(255), training=False)
    np.testing.assert_allclose(
        open_classifier(tmp_path / "m.h5", FRACTIONS).predict(pictures()), expected, atol=TOLERANCE
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_hdf5_of_keras_3(tmp_path: Path, compiled: bool) -> None:
    model = small(between=keras.layers.Conv2D(4, 3, activation="relu"))
    if compiled:
        model.compile("adam", "categorical_crossentropy")
    model.save(tmp_path / "m.h5")
    found = open_classifier(tmp_path / "m.h5", FRACTIONS)
    np.testing.assert_allclose(found.predict(pictures()), model(pictures() / np.float32(255)), atol=TOLERANCE)


def test_compiled_with_code_of_its_own(tmp_path: Path) -> None:
    """Losses and metrics are not needed to ask a model."""

    def loss(truth: Any, found: Any) -> Any:
        return truth - found

    model = classifier()
    model.compile("adam", loss)
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        assert open_classifier(tmp_path / name, FRACTIONS).classes == 2


def test_one_sigmoid_of_keras_2(tmp_path: Path) -> None:
    for activation, ending in (("sigmoid", "sigmoid"), ("softmax", "softmax"), (None, None)):
        classifier(activation=activation).save(tmp_path / "m.h5")
        assert open_adapter(tmp_path / "m.h5").ending() == ending


class Square(tf_keras.layers.Layer):
    """A layer that is code of its own."""

    def call(self, x: Any) -> Any:
        return x * x


def calling_a_file(model: Any, path: Path) -> Path:
    """The call of a function that computes becomes one that reads a file."""
    model.save(path)
    if path.suffix == ".keras":
        return renamed(path, (b"math.multiply", b"io.read_file"))
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace("math.multiply", "io.read_file")
    return path


def edited(model: Any, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The archive with another configuration."""
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        before = archive.read("config.json")
    config = json.loads(before)
    change(config)
    return renamed(path, (before, json.dumps(config).encode()))


def with_activation(function: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["config"]["layers"][-1]["config"]["activation"] = function

    return change


def other_module(config: dict[str, Any]) -> None:
    config["config"]["layers"][1]["module"] = "tf_keras.src.utils.data_utils"


REFUSALS: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "lambda": (
        lambda save, d: save(classifier(tf_keras.layers.Lambda(lambda x: x * 2, name="twice")), d),
        "'twice' is a Lambda layer, which is code; replace it",
    ),
    "custom class": (
        lambda save, d: save(classifier(Square(name="sq")), d),
        "'sq' is of the custom class Square; replace it",
    ),
    "reads a file": (
        lambda save, d: calling_a_file(classifier(normalising), save(classifier(), d)),
        r"calls tf\.io\.read_file; replace it",
    ),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("case", list(REFUSALS))
def test_code_is_refused_by_name(tmp_path: Path, case: str, suffix: str) -> None:
    make, message = REFUSALS[case]

    def save(model: Any, folder: Path) -> Path:
        path = folder / f"m{suffix}"
        model.save(path)
        return path

    path = make(save, tmp_path) or tmp_path / f"m{suffix}"
    with pytest.raises(ArtefactError, match=message) as caught:
        open_classifier(path, FRACTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_activation({"class_name": "__lambda__", "config": {"value": "code"}}), "a Lambda layer, which is code"),
        (
            with_activation({"class_name": "function", "module": "builtins", "config": "breakpoint"}),
            "custom class function",
        ),
        (other_module, "custom class Conv2D"),
    ],
)
def test_names_of_functions_and_modules_are_no_way_out(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = edited(classifier(), tmp_path / "m.keras", change)
    with pytest.raises(ArtefactError, match=message):
        open_classifier(path, FRACTIONS)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        (tf_keras.layers.Lambda(lambda x: x * 2, name="twice"), "'twice' is a Lambda layer, which is code"),
        (Square(name="sq"), "'sq' is of the custom class Square"),
    ],
)
def test_code_in_a_saved_model_is_refused_by_name(tmp_path: Path, between: Any, message: str) -> None:
    classifier(between).save(tmp_path / "saved")
    with pytest.raises(ArtefactError, match=message):
        keras_files.load_model(tmp_path / "saved")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras-2") / "saved"
    classifier().save(path)
    return path


@pytest.mark.parametrize("damage", ["no variables", "other variables", "cut", "no text"])
def test_a_damaged_saved_model_is_one_line(saved_model: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(saved_model, tmp_path / "saved")
    metadata = tmp_path / "saved" / "keras_metadata.pb"
    if damage == "cut":
        metadata.write_bytes(metadata.read_bytes()[:-40])
    elif damage == "no text":
        metadata.write_bytes(b"\xff" * 40)
    else:
        shutil.rmtree(tmp_path / "saved" / "variables")
    if damage == "other variables":
        sequential().save(tmp_path / "other")
        shutil.copytree(tmp_path / "other" / "variables", tmp_path / "saved" / "variables")
    with pytest.raises(ArtefactError, match="saved") as caught:
        keras_files.load_model(tmp_path / "saved")
    assert "\n" not in str(caught.value)


def test_lambda_in_hdf5_of_keras_3(tmp_path: Path) -> None:
    small(between=keras.layers.Lambda(lambda x: x * 2, name="twice")).save(tmp_path / "m.h5")
    with pytest.raises(ArtefactError, match="'twice' is a Lambda layer, which is code"):
        open_classifier(tmp_path / "m.h5", FRACTIONS)


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    for model, name in ((classifier(), "old.h5"), (small(), "new.weights.h5")):
        model.save_weights(tmp_path / name)
        with pytest.raises(ArtefactError, match=r"holds weights alone; save it with model\.save\(\)"):
            open_classifier(tmp_path / name, FRACTIONS)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_truncated(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"m{suffix}"
    classifier().save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ArtefactError, match=r"m\.(keras|h5)") as caught:
        open_classifier(path, FRACTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
@pytest.mark.parametrize("config", [[], {}, {"class_name": "Sequential", "config": {"layers": [3]}}])
def test_a_damaged_configuration_is_one_line(tmp_path: Path, config: Any, version: str) -> None:
    path = edited(classifier(), tmp_path / "m.keras", lambda _: None)
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("model.weights.h5", weights)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), version
    for name in ("m.keras", "m.h5"):
        with pytest.raises(ArtefactError, match=name.replace(".", r"\.")) as caught:
            open_classifier(tmp_path / name, FRACTIONS)
        assert "\n" not in str(caught.value)


def test_other_weights_than_the_configuration_asks_for(tmp_path: Path) -> None:
    classifier().save(tmp_path / "m.h5")
    classifier(units=5).save(tmp_path / "other.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file, h5py.File(tmp_path / "other.h5") as other:
        file.attrs["model_config"] = other.attrs["model_config"]
    with pytest.raises(ArtefactError, match="Keras 2 refuses it"):
        open_classifier(tmp_path / "m.h5", FRACTIONS)


def test_without_tf_keras_the_file_is_named_for_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.keras"
    classifier().save(path)
    monkeypatch.setattr(keras_files, "installed", lambda _: False)
    with pytest.raises(MissingDependencyError, match=r"tf_keras for m.keras, which Keras 2\.\S+ wrote"):
        open_classifier(path, FRACTIONS)
    small().save(tmp_path / "three.keras")
    assert open_classifier(Path(shutil.copy(tmp_path / "three.keras", tmp_path / "copy.keras")), FRACTIONS).classes == 3
