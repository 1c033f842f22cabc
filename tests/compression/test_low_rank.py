"""Method `low-rank`: layers split into thin ones, fitted to what the whole net computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.conftest import converted
from tests.small_nets import IMAGENET, digits_at_32px, needs_imagenet, silent, trained
from tledge.compression import (
    LowRankSettings,
    QatSettings,
    ShrinkSettings,
    Shrunk,
    Study,
    multiply_adds,
    parameters,
    shrink,
)
from tledge.compression.activations import Sampling, pre_activations
from tledge.compression.flat import flat, not_a_chain
from tledge.compression.methods.filters import fewer_filters
from tledge.compression.methods.low_rank import Spectra, choose, fit_parts, spectra, thin_layers
from tledge.compression.options import require_order, settings_of
from tledge.compression.shrinking import Cheaper, Limits
from tledge.compression.splitting import Ranks, split, splittable
from tledge.compression.study import ShrinkData
from tledge.core.errors import SettingsError
from tledge.core.types import HeadName
from tledge.data.pixels import PixelStore
from tledge.model.preprocessing import preprocessing_layer
from tledge.model.vgg16 import build
from tledge.runtimes import open_classifier

HEADS: tuple[HeadName, ...] = ("gap", "flatten")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShrinkData:
    return digits_at_32px(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def model_with(data: ShrinkData) -> Callable[[HeadName], keras.Model]:
    """A trained model by its head, each trained when it is first asked for."""
    if IMAGENET is None:
        pytest.skip("the weights extra is not installed")
    return cache(lambda head: trained(head, data))


def sampling_of(data: ShrinkData) -> Sampling:
    return Sampling(data.pixels.take(data.train[0]), seed=0)


@pytest.mark.parametrize("head", HEADS)
def test_costs_of_a_split_chain_are_those_that_were_counted(head: HeadName) -> None:
    model = build(3, 64, head, None, seed=1)
    layers = splittable(model)
    assert ("fc1" in layers) == (head == "flatten")
    assert "block1_conv1" not in layers
    assert "prediction" not in layers
    ranks = {name: Ranks(16, 24 if layer.has_core else None) for name, layer in layers.items()}
    small = split(model, ranks)
    first, last = (model.get_layer(name) for name in ("block1_conv1", "prediction"))
    others = np.prod(first.kernel.shape) * 64 * 64 + np.prod(last.kernel.shape)
    counted = sum(layer.multiply_adds(ranks[name]) for name, layer in layers.items())
    assert multiply_adds(small) == counted + int(others)
    pixels = np.zeros((2, 64, 64, 3), np.float32)
    assert small(pixels).shape == (2, 3)
    assert small.get_layer("block3_conv2").filters == 256


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_nothing_is_lost_with_all_directions(
    head: HeadName, model_with: Callable[[HeadName], keras.Model], data: ShrinkData
) -> None:
    model = model_with(head)
    sampling = sampling_of(data)
    chosen = ("block1_conv2", "block3_conv1", *(["fc1"] if head == "flatten" else []))
    ranks = {name: splittable(model)[name].whole for name in chosen}
    student = split(model, ranks)
    fit_parts(student, model, ranks, pre_activations(model, sampling), sampling, silent)
    student.get_layer("prediction").set_weights(model.get_layer("prediction").get_weights())
    pixels = data.pixels.take(data.val[0]).astype(np.float32)
    for name in ("block1_conv2", "block3_conv1"):
        one, other = (keras.Model(m.input, m.get_layer(name).output)(pixels).numpy() for m in (model, student))
        assert np.abs(one - other).max() < 2e-2 * np.abs(one).max(), name


@needs_imagenet
@pytest.mark.slow
def test_most_of_what_the_original_sees_is_kept_on_other_images(
    model_with: Callable[[HeadName], keras.Model], data: ShrinkData
) -> None:
    model = model_with("gap")
    sampling = sampling_of(data)
    targets = pre_activations(model, sampling)
    ranks = choose(model, spectra(model, targets, sampling), Limits(multiply_adds(model) / 8, parameters(model) / 8))
    thin = split(model, ranks)
    fit_parts(thin, model, ranks, targets, sampling, silent)
    pixels = data.pixels.take(data.val[0]).astype(np.float32)
    wanted, found = (keras.Model(m.input, m.get_layer("block4_pool").output)(pixels).numpy() for m in (model, thin))
    missing = np.square(found - wanted).sum() / np.square(wanted - wanted.mean(axis=(0, 1, 2))).sum()
    assert missing < 0.12


def test_channels_go_where_they_hold_no_energy() -> None:
    model = build(3, 32, "gap", None, seed=1)
    energies = {}
    for name, layer in splittable(model).items():
        few, many = (0.01 ** np.arange(layer.inputs), np.ones(layer.inputs))
        outputs = 0.01 ** np.arange(layer.outputs) if name == "block4_conv1" else np.ones(layer.outputs)
        energies[name] = Spectra(few if name == "block4_conv1" else many, outputs)
    limits = Limits(multiply_adds(model) * 0.95)
    ranks = choose(model, energies, limits)
    assert set(ranks) == {"block4_conv1"}
    assert multiply_adds(split(model, ranks)) <= limits.multiply_adds
    both = Limits(multiply_adds(model) / 10, parameters(model) / 12)
    small = split(model, choose(model, energies, both))
    assert multiply_adds(small) <= both.multiply_adds
    assert both.parameters is not None
    assert parameters(small) <= both.parameters
    with pytest.raises(SettingsError, match="8 channels"):
        choose(model, energies, Limits(multiply_adds(model) / 1e6))


@pytest.mark.parametrize("head", HEADS)
def test_a_split_chain_can_be_split_again(head: HeadName) -> None:
    model = build(3, 32, head, None, seed=1)
    for size in (64, 16):
        layers = splittable(model)
        model = split(model, {name: Ranks(size, size if one.has_core else None) for name, one in layers.items()})
    assert "fc1" not in layers
    assert model(np.zeros((2, 32, 32, 3), np.float32)).shape == (2, 3)
    assert model.get_layer("block3_conv2_core_core").filters == 16
    assert head == "gap" or model.get_layer("fc1_into").filters == 64


@pytest.fixture(scope="module", params=["gap", pytest.param("flatten", marks=pytest.mark.slow)])
def shrunk(request: pytest.FixtureRequest, model_with: Callable[[HeadName], keras.Model], data: ShrinkData) -> Shrunk:
    settings = LowRankSettings(speedup=8, size_ratio=6, last_layer="none", epochs=1)
    return shrink(Study(model_with(request.param), data, 0, pictures=48), settings, thin_layers, silent)


def test_targets_are_met_and_every_step_is_told(shrunk: Shrunk) -> None:
    assert [step.what for step in shrunk.steps] == ["original", "resized", "split", "distilled"]
    first, last = shrunk.steps[0], shrunk.steps[-1]
    assert first.multiply_adds / last.multiply_adds >= 8
    assert first.parameters / last.parameters >= 6
    assert last.val_accuracy.n == 12
    for name, (into, out) in shrunk.left["ranks"].items():
        assert shrunk.model.get_layer(f"{name}_into").filters == into
        assert out is None or shrunk.model.get_layer(f"{name}_core").filters == out
    assert {type(layer).__name__ for layer in shrunk.model.layers[2:]} <= {
        "Conv2D",
        "MaxPooling2D",
        "GlobalAveragePooling2D",
        "Flatten",
        "Dense",
    }


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_split_models_export(form: str, shrunk: Shrunk, data: ShrinkData, tmp_path: Path) -> None:
    images = data.pixels.take(data.val[0])
    for precision, tolerance in (("float32", 1e-4), ("int8", 0.15)):
        calibration = data.pixels.take(data.train[0]) if precision == "int8" else None
        path = tmp_path / f"{precision}.{form}"
        reduced = precision == "int8" and form == "onnx"
        path.write_bytes(converted(form, precision, shrunk.model, ("0", "1", "7"), calibration, reduce_range=reduced))
        expected = np.asarray(shrunk.model(images.astype(np.float32)))
        np.testing.assert_allclose(open_classifier(path).predict(images), expected, atol=tolerance)


def test_options_belong_to_both_ways_of_shrinking() -> None:
    (settings,) = settings_of(["low-rank"], {"speedup": 4.0, "image_size": 96, "pictures": 100, "epochs": 2})
    assert settings == LowRankSettings(speedup=4.0, image_size_px=96, pictures=100, epochs=2)
    with pytest.raises(SettingsError, match="--speedup only with --method filters or low-rank"):
        settings_of(["qat"], {"speedup": 4.0})
    require_order(["filters"], [LowRankSettings(speedup=2), QatSettings()])
    with pytest.raises(SettingsError, match="filters after low-rank"):
        require_order(["low-rank"], [ShrinkSettings(speedup=2)])


@pytest.mark.parametrize("middle", ["gap", "flatten"])
@pytest.mark.parametrize(
    ("settings", "cheaper"),
    [
        (LowRankSettings(speedup=2, size_ratio=1.5, last_layer="none", epochs=1), thin_layers),
        (ShrinkSettings(speedup=2, size_ratio=1.5, last_layer="none", epochs=1), fewer_filters),
    ],
    ids=["low-rank", "filters"],
)
def test_chains_that_are_not_vgg16(settings: ShrinkSettings, cheaper: Cheaper, middle: str, data: ShrinkData) -> None:
    """Layers of other names and kernels, a dense layer that sees a vector, no second block to keep."""
    from keras import layers

    keras.utils.set_random_seed(1)
    between = layers.GlobalAveragePooling2D() if middle == "gap" else layers.Flatten(name="as_vector")
    own = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 5, strides=2, padding="same", activation="relu", name="first"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            between,
            layers.Dense(24, activation="relu", name="hidden"),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    chain = flat(flat(own))
    study_data = replace(data, pixels=PixelStore(data.pixels.paths, 64))
    result = shrink(Study(chain, study_data, 0, pictures=24), settings, cheaper, silent)
    assert multiply_adds(chain) / multiply_adds(result.model) >= 2
    assert result.steps[-1].what == "distilled"
    assert np.isfinite(result.model(np.zeros((1, *result.model.input_shape[1:]), np.float32))).all()


def as_adopted(*between: Any) -> Any:
    """A model whose first and last layers are called like those of tledge's own."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((32, 32, 3))
    x = preprocessing_layer((32, 32, 3), np.eye(3), np.zeros(3))(pixels)
    for layer in between:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, keras.layers.Dense(3, activation="softmax", name="prediction")(x))


def test_a_layer_called_twice_and_one_without_bias_become_a_chain() -> None:
    pool = keras.layers.MaxPooling2D()
    model = as_adopted(keras.layers.Conv2D(8, 3, use_bias=False, activation="relu"), pool, pool)
    chain = flat(model)
    assert not_a_chain(chain) is None
    assert sum(isinstance(layer, keras.layers.MaxPooling2D) for layer in chain.layers) == 2
    image = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_allclose(chain(image), model(image), atol=1e-6)


@pytest.mark.parametrize("unusual", [{"activation": "silu"}, {"groups": 3}, {"dilation_rate": 2}])
def test_chains_alone_lose_filters_and_others_are_refused_by_name(unusual: dict[str, Any]) -> None:
    model = as_adopted(keras.layers.Conv2D(6, 3, name="middle", **unusual))
    assert "but middle" in str(not_a_chain(flat(model)))
