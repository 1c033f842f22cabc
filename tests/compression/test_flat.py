"""Any classifier as a flat net: the same function, and layers that low-rank makes thinner whatever leads to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.small_nets import digits_at_32px, silent
from tledge.compression import LowRankSettings, ShrinkData, multiply_adds
from tledge.compression.flat import (
    bridges,
    duplicate,
    flat,
    input_size,
    not_a_chain,
    not_flat,
    parameters,
    weighted_layers,
)
from tledge.compression.methods.filters import METHOD as FILTERS
from tledge.compression.methods.low_rank import fit_parts, spectra, thin_layers
from tledge.compression.shrinking import shrink
from tledge.compression.splitting import Ranks, split, splittable
from tledge.compression.study import Study
from tledge.compression.truncation import cut, ends, features_layer
from tledge.core.errors import SettingsError
from tledge.data.pixels import PixelStore
from tledge.model.preprocessing import PREPROCESSING

keras = pytest.importorskip("keras")
layers, applications = keras.layers, keras.applications

SIDE = 64


def lively(model: Any) -> Any:
    """The model with weights and statistics as training leaves them: not 0 and 1."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            shapes = [weight.shape for weight in layer.get_weights()]
            layer.set_weights(
                [rng.uniform(low, 1.2, shape) for low, shape in zip((0.8, -0.2, -0.2, 0.8), shapes, strict=True)]
            )
    return model


def on_top(trunk: Any, before: Any = None) -> Any:
    """Transfer learning as tutorials do it, with a trunk as a model inside the model."""
    pixels = keras.Input((SIDE, SIDE, 3))
    x = trunk(pixels if before is None else before(pixels))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, layers.Dense(3, activation="softmax", name="scores")(x))


def chain_of(*middle: Any) -> Any:
    pool, scores = layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Rescaling(1 / 255), *middle, pool, scores])


def without_dense_layers() -> Any:
    pixels = keras.Input((SIDE, SIDE, 3), name="input")
    x = layers.Conv2D(32, 3, strides=2, activation="elu", name="preprocessing")(pixels)
    x = layers.Conv2D(3, 1, name="prediction")(layers.Conv2D(64, 2, dilation_rate=2, name="middle")(x))
    return keras.Model(pixels, layers.Softmax()(layers.GlobalAveragePooling2D()(x)))


def _trunk(make: Any, **settings: Any) -> Any:
    return make(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3), **settings)


def shortcuts() -> Any:
    """A residual block that halves the map: 3x3 and 1x1, both with strides."""
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu")(pixels)
    left = layers.Conv2D(16, 3, strides=2, padding="same", name="left")(x)
    x = layers.Add()([left, layers.Conv2D(16, 1, strides=2, name="shortcut")(x)])
    x = layers.Conv2D(16, 2, name="even")(layers.ReLU()(x))
    x = layers.Flatten()(layers.GlobalAveragePooling2D()(x))
    hidden = layers.Dense(12, activation="relu", name="hidden")(x)
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(layers.Concatenate()([x, hidden])))


def attention() -> Any:
    """A softmax over places, a dense layer on a map, two flattened maps, and names that tledge uses itself."""
    pixels = keras.Input((SIDE, SIDE, 3), name="gap")
    x = layers.Conv2D(12, 4, strides=4, name="preprocessing")(layers.Rescaling(1 / 255, name="prediction")(pixels))
    x = layers.Multiply()([x, layers.Softmax(axis=[1, 2])(layers.Conv2D(1, 1, name="flatten")(x))])
    x = layers.Dense(16, activation="relu", name="on_a_map")(layers.Rescaling(50.0)(x))
    x = layers.Dense(8, name="prediction.own")(layers.Flatten(name="preprocessing.own")(x))
    x = layers.Dense(16, activation="relu")(layers.Flatten(name="again")(layers.Reshape((2, 4))(x)))
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(x))


def of_operations() -> Any:
    """Kinds of layers as in a chain, with operations between them that are no layers, and two that read the pixels."""
    pixels = keras.Input((SIDE, SIDE, 3))
    scaled = layers.Rescaling(1 / 255)(pixels)
    x = layers.Conv2D(32, 3, padding="same")(scaled) + layers.Conv2D(32, 3, padding="same")(scaled)
    x = keras.ops.relu(layers.Conv2D(32, 3, padding="same")(x) * 0.5 + x)
    x = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, keras.ops.softmax(x))


NETS: dict[str, Callable[[], Any]] = {
    "MobileNetV2": lambda: on_top(_trunk(applications.MobileNetV2, alpha=0.35), layers.Rescaling(1 / 127.5, -1)),
    "MobileNetV3Small": lambda: on_top(_trunk(applications.MobileNetV3Small)),
    "ResNet50V2": lambda: on_top(_trunk(applications.ResNet50V2), layers.Rescaling(1 / 127.5, -1)),
    "separable": lambda: chain_of(
        layers.Conv2D(8, 3),
        layers.SeparableConv2D(16, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
    ),
    "groups": lambda: chain_of(
        layers.Conv2D(32, 3), layers.Conv2D(64, 3, groups=4), layers.Conv2D(64, 3, strides=2, activation="silu")
    ),
    "without dense layers": without_dense_layers,
    "operations": of_operations,
    "shortcuts": shortcuts,
    "attention": attention,
}
SLOW = {
    "EfficientNetB0": lambda: on_top(_trunk(applications.EfficientNetB0)),
    "DenseNet121": lambda: on_top(_trunk(applications.DenseNet121)),
    "MobileNet": lambda: applications.MobileNet(weights=None, input_shape=(SIDE, SIDE, 3), classes=3),
}
ALL = [*NETS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShrinkData:
    found = digits_at_32px(tmp_path_factory.mktemp("digits"))
    return replace(found, pixels=PixelStore(found.pixels.paths, SIDE))


@pytest.mark.parametrize("name", ALL)
def test_the_same_function_of_layers_that_are_called_once(name: str) -> None:
    keras.utils.set_random_seed(1)
    model = lively((NETS | SLOW)[name]())
    net = flat(model)
    assert not_flat(net) is None
    image = np.random.default_rng(1).uniform(0, 255, (2, SIDE, SIDE, 3)).astype(np.float32)
    answers = np.asarray(model(image))
    assert np.ptp(answers, axis=1).max() > 1e-3, "answers that are all alike would prove nothing"
    np.testing.assert_allclose(net(image), answers, atol=2e-5)
    assert net.layers[1].name == PREPROCESSING
    kinds = {type(layer).__name__ for layer in net.layers}
    assert not {"BatchNormalization", "Dropout", "Functional", "SeparableConv2D"} & kinds
    assert all(layer.use_bias for layer in weighted_layers(net))
    again = flat(net)
    assert [layer.name for layer in again.layers] == [layer.name for layer in net.layers]
    np.testing.assert_allclose(again(image), answers, atol=2e-5)
    np.testing.assert_array_equal(duplicate(net)(image), net(image))


@pytest.mark.parametrize("name", ALL)
def test_what_is_split_costs_what_was_counted(name: str) -> None:
    net = flat((NETS | SLOW)[name]())
    parts = splittable(net)
    assert parts.keys() == {layer.name for layer in weighted_layers(net)[1:-1]}
    ranks = {each: Ranks(8, 8 if part.has_core else None) for each, part in parts.items()}
    small = split(net, ranks)
    saved = sum(
        part.places * part.taps * part.inputs * part.outputs - part.multiply_adds(ranks[each])
        for each, part in parts.items()
    )
    assert multiply_adds(small) == multiply_adds(net) - saved
    assert [tensor.shape for tensor in small.outputs] == [tensor.shape for tensor in net.outputs]
    first = weighted_layers(net)[0].name
    assert not splittable(small).keys() - {first, *(f"{each}_core" for each in parts)}, "parts are no layers to split"


def test_all_paths_lead_over_a_bridge() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    first = layers.Conv2D(4, 3, padding="same")(pixels)
    left, right = layers.Conv2D(4, 3, padding="same")(first), keras.ops.multiply(first, 2.0)
    joined = layers.Add()([left, right])
    model = keras.Model(pixels, layers.Flatten()(joined))
    found = bridges(model)
    assert {id(first), id(joined)} <= found
    assert not {id(left), id(right)} & found


@pytest.mark.parametrize("name", ["MobileNetV2", "without dense layers", "groups", "operations"])
def test_thinner_layers_in_any_net(name: str, data: ShrinkData) -> None:
    keras.utils.set_random_seed(1)
    net = flat(lively(NETS[name]()))
    settings = LowRankSettings(speedup=1.3, epochs=1, last_layer="none")
    result = shrink(Study(net, data, 0, pictures=24), settings, thin_layers, silent)
    assert multiply_adds(net) / multiply_adds(result.model) >= 1.3
    assert input_size(result.model) == SIDE
    assert [step.what for step in result.steps] == ["original", "resized", "split", "distilled"]
    assert result.left["ranks"]
    images = data.pixels.take(data.train[0]).astype(np.float32)
    told = float(np.mean(np.square(np.asarray(result.model(images)) - np.asarray(net(images)))))
    assert told < float(np.var(np.asarray(net(images)), axis=0).mean() + 1e-3)


@pytest.mark.parametrize("name", ["shortcuts", "without dense layers", "operations"])
def test_with_all_directions_nothing_is_lost(name: str, data: ShrinkData) -> None:
    keras.utils.set_random_seed(1)
    net = flat(NETS[name]())
    teacher = Study(net, data, 0, pictures=48).teacher(SIDE, features_layer(net), silent)
    ranks = {each: part.whole for each, part in splittable(net).items()}
    student = split(net, ranks)
    fit_parts(student, net, ranks, teacher.targets, teacher.sampling, silent)
    images = data.pixels.take(data.val[0]).astype(np.float32)
    head = weighted_layers(net)[-1].name
    expected, found = (
        np.asarray(keras.Model(model.input, model.get_layer(head).input)(images)) for model in (net, student)
    )
    assert np.var(expected - found) < 1e-3 * np.var(expected)


def test_thin_layers_can_be_split_once_more(data: ShrinkData) -> None:
    keras.utils.set_random_seed(1)
    wide = [layers.Conv2D(width, 3, padding="same", activation="relu") for width in (16, 32, 32, 32)]
    net = flat(chain_of(*wide))
    for _ in range(2):
        settings = LowRankSettings(speedup=1.2, epochs=0)
        smaller = shrink(Study(net, data, 0, pictures=24), settings, thin_layers, silent).model
        assert multiply_adds(net) / multiply_adds(smaller) >= 1.2
        net = flat(smaller)


def test_what_layers_vary_in_is_known_whatever_they_see(data: ShrinkData) -> None:
    net = flat(NETS["attention"]())
    teacher = Study(net, data, 0, pictures=24).teacher(SIDE, features_layer(net), silent)
    found = spectra(net, teacher.targets, teacher.sampling)
    assert found.keys() == splittable(net).keys()
    assert found["flatten"].outputs.shape == (1,)
    assert "on_a_map" not in found


def test_a_net_with_nothing_to_split_is_told(data: ShrinkData) -> None:
    net = flat(chain_of(layers.DepthwiseConv2D(3)))
    with pytest.raises(SettingsError, match="there is none to split"):
        shrink(Study(net, data, 0, pictures=24), LowRankSettings(speedup=1.2), thin_layers, silent)


def test_what_chains_alone_can_is_refused_by_the_layer_in_the_way(data: ShrinkData) -> None:
    net = flat(NETS["MobileNetV2"]())
    assert "Conv1_relu is a ReLU" in str(FILTERS.supports(net))
    with pytest.raises(SettingsError, match="Conv1_relu is a ReLU"):
        shrink(Study(net, data, 0, 48), LowRankSettings(speedup=1.3, image_size_px=32), thin_layers, silent)


def test_a_net_with_branches_ends_where_all_paths_meet(data: ShrinkData) -> None:
    net = flat(NETS["MobileNetV2"]())
    possible = ends(net)
    assert {"block_2_add", "block_3_depthwise_relu", "block_15_add"} <= {*possible}
    assert not {"block_2_expand", "block_2_project", features_layer(net)} & {*possible}
    settings = LowRankSettings(last_layer="block_12_add")
    result = shrink(Study(net, data, 0, pictures=48), settings, thin_layers, silent)
    assert [step.what for step in result.steps] == ["original", "truncated"]
    assert parameters(result.model) < parameters(net) / 3
    images = data.pixels.take(data.val[0]).astype(np.float32)
    maps = [np.asarray(keras.Model(m.input, m.get_layer("block_12_add").output)(images)) for m in (net, result.model)]
    assert np.array_equal(*maps)
    refused = LowRankSettings(last_layer="block_2_expand")
    with pytest.raises(SettingsError, match=r"got 'block_2_expand'; choose one of them, such as .*, block_16_project"):
        shrink(Study(net, data, 0, pictures=48), refused, thin_layers, silent)


def test_the_latest_end_that_holds_the_limits_is_taken_if_it_loses_nothing(
    data: ShrinkData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keras.utils.set_random_seed(1)
    net = flat(lively(NETS["MobileNetV2"]()))
    study = Study(net, data, 0, pictures=48)
    limits = LowRankSettings(size_ratio=4).limits(net, 1.0)
    found = study.early_end(SIDE, limits.hold, silent)
    assert found is not None
    possible = ends(net)
    later = possible[possible.index(found) + 1]
    assert limits.hold(cut(net, found))
    assert not limits.hold(cut(net, later))
    result = shrink(study, LowRankSettings(size_ratio=4), thin_layers, silent)
    assert [step.what for step in result.steps] == ["original", "truncated"]
    assert "min here" not in capsys.readouterr().err
    hits = {features_layer(net): 10}
    for cut_hits, expected in ((9, found), (8, None)):
        monkeypatch.setattr(Study, "_val_hits", lambda _, model, n=cut_hits: hits.get(features_layer(model), n))
        assert study.early_end(SIDE, limits.hold, silent) == expected
        assert study.last_layer(SIDE, silent) == features_layer(net)
    assert study.early_end(SIDE, lambda _: True, silent) is None


def test_operations_between_the_layers_of_a_chain_make_it_none() -> None:
    net = flat(of_operations())
    assert not_flat(net) is None
    assert "is a Add" in str(not_a_chain(net))


def test_preprocessing_that_mixes_places_is_refused() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3)(layers.Resizing(32, 32)(pixels))
    net = flat(keras.Model(pixels, layers.Dense(3, activation="softmax")(layers.Flatten()(x))))
    assert "one factor and offset by channel" in str(not_flat(net))
    assert not_a_chain(net) == not_flat(net)
