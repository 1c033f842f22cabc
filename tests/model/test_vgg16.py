"""The reference model: VGG16 as published, preprocessing inside, a file that plain Keras opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tledge.core.errors import ArtefactError, SettingsError
from tledge.model.inference import inference_graph
from tledge.model.vgg16 import CONV_LAYERS, TRUNK_LAYERS, build, frozen_layer_count
from tledge.runtimes import open_classifier

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module", params=["gap", "flatten"])
def model(request: pytest.FixtureRequest) -> keras.Model:
    return build(4, 32, request.param, None, seed=3)


def test_trunk_is_keras_applications_vgg16() -> None:
    published = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    ours = build(2, 32, "flatten")
    assert TRUNK_LAYERS[1:] == tuple(layer.name for layer in published.layers[1:])
    assert TRUNK_LAYERS[14] == "block4_pool"
    for name in CONV_LAYERS:
        theirs, mine = published.get_layer(name), ours.get_layer(name)
        assert mine.kernel.shape == theirs.kernel.shape
        assert (mine.padding, mine.strides, mine.activation) == (theirs.padding, theirs.strides, theirs.activation)
    assert len([layer for layer in ours.layers if isinstance(layer, keras.layers.Conv2D)]) == 13


def test_heads() -> None:
    flatten, gap = build(7, 64, "flatten"), build(7, 64, "gap")
    assert [layer.name for layer in flatten.layers[-4:]] == ["block5_pool", "flatten", "fc1", "prediction"]
    assert flatten.get_layer("fc1").units == 100
    assert [layer.name for layer in gap.layers[-2:]] == ["gap", "prediction"]
    assert flatten.output_shape == gap.output_shape == (None, 7)


def test_preprocessing_equals_keras_applications_exactly(images: np.ndarray) -> None:
    pixels = images.astype(np.float32)
    layer = build(2, 32, "gap").get_layer("preprocessing")
    expected = keras.applications.vgg16.preprocess_input(pixels.copy())
    np.testing.assert_array_equal(np.asarray(layer(pixels)), expected)


def test_whole_network_equals_keras_applications(images: np.ndarray) -> None:
    ours = build(3, 32, "gap", None, seed=1)
    published = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    for name in CONV_LAYERS:
        published.get_layer(name).set_weights(ours.get_layer(name).get_weights())
    features = keras.Model(ours.input, ours.get_layer("gap").output)
    expected = published(keras.applications.vgg16.preprocess_input(images.astype(np.float32)))
    np.testing.assert_allclose(features(images.astype(np.float32)), expected, rtol=1e-5, atol=1e-4)


def test_saved_file_opens_in_plain_keras_safe_mode(model: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    model.save(path)
    reopened = keras.models.load_model(path, safe_mode=True)
    pixels = images.astype(np.float32)
    np.testing.assert_array_equal(np.asarray(reopened(pixels)), np.asarray(model(pixels)))
    assert all(type(layer).__module__.startswith("keras.") for layer in reopened.layers)
    assert not any("Lambda" in type(layer).__name__ for layer in reopened.layers)


def test_inference_form_is_the_same_function(model: keras.Model, images: np.ndarray) -> None:
    exported = inference_graph(model)
    assert exported.input_shape == (32, 32, 3)
    pixels = images.astype(np.float32)
    np.testing.assert_allclose(exported.run(pixels), model(pixels), atol=1e-5)


def test_inference_form_sees_red_and_blue_apart(model: keras.Model, images: np.ndarray) -> None:
    # Before the softmax, which random heads saturate.
    seen: list[np.ndarray] = []
    for pixels in (images[:1], images[:1, ..., ::-1]):
        inference_graph(model).run(pixels.astype(np.float32), lambda call, value: _note(seen, call.name, value))
    straight, swapped = seen
    assert np.abs(straight - swapped).max() > 0.01 * np.abs(straight).max()


def _note(seen: list[np.ndarray], name: str, value: Any) -> Any:
    if name == "block5_pool":
        seen.append(np.asarray(value))
    return value


@pytest.mark.parametrize(
    ("cut", "count"), [("input", 1), ("block4_pool", 15), ("block5_pool", 19), ("0", 0), ("19", 19), ("7", 7)]
)
def test_cut_points(cut: str, count: int) -> None:
    assert frozen_layer_count(cut) == count


@pytest.mark.parametrize("cut", ["20", "-1", "block6_pool", "fc1", "", "1.5"])
def test_impossible_cut_points(cut: str) -> None:
    with pytest.raises(SettingsError, match="block4_pool"):
        frozen_layer_count(cut)


def test_impossible_models() -> None:
    with pytest.raises(SettingsError, match="at least 2 classes"):
        build(1, 32, "gap")
    with pytest.raises(SettingsError, match="32 px"):
        build(2, 31, "gap")


def test_keras_file_with_lambda_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    pixels = keras.Input((32, 32, 3))
    features = keras.layers.GlobalAveragePooling2D()(pixels)
    keras.Model(pixels, keras.layers.Lambda(lambda x: x * 2)(features)).save(path)
    with pytest.raises(ArtefactError, match="is a Lambda layer, which is code"):
        open_classifier(path)
