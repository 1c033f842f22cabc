"""Weights in whole models: normalization behind a convolution is folded into it exactly, nothing else is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tledge.core.errors import WeightsError
from tledge.model import weight_files
from tledge.model.weight_files import TrunkFile, read_trunk
from tledge.model.weights import add_trunk, digest_of, resolve

keras = pytest.importorskip("keras")
tf_keras = pytest.importorskip("tf_keras")
h5py = pytest.importorskip("h5py")
onnx = pytest.importorskip("onnx")

SIDE = 12
SHAPES = {f"block{i + 1}_conv1": (3, 3, 3 + i, 4 + i) for i in range(3)}
KINDS = ["keras 3 .keras", "keras 3 .h5", "keras 2 .keras", "keras 2 .h5"]


@pytest.fixture(autouse=True)
def three_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds for three thin layers holds for VGG16's thirteen."""
    monkeypatch.setattr(weight_files, "KERNEL_SHAPES", SHAPES)


def library(kind: str) -> Any:
    return keras if kind.startswith("keras 3") else tf_keras


def saved(model: Any, folder: Path, kind: str) -> Path:
    path = folder / f"m{kind.split()[-1]}"
    model.save(path)
    return path


def spread(model: Any) -> Any:
    """Weights of all layers that are far from where a network starts."""
    rng = np.random.default_rng(4)
    for layer in model.layers:
        if getattr(layer, "layers", None):
            spread(layer)
        elif layer.get_weights():
            layer.set_weights([rng.uniform(0.3, 1.2, w.shape).astype(w.dtype) for w in layer.get_weights()])
    return model


Between = Callable[[Any, Any, int], Any]


def normalised(k: Any, x: Any, place: int) -> Any:
    """Batch normalization of every kind, right behind the convolution."""
    options: list[dict[str, Any]] = [{"epsilon": 1e-5}, {"scale": False}, {"center": False, "epsilon": 0.1}]
    return k.layers.ReLU()(k.layers.BatchNormalization(**options[place])(x))


def network(k: Any, between: Between, use_bias: bool = True, before: Any = None, **options: Any) -> Any:
    """Three convolutions, pooling between them, a head with normalization of its own."""
    pixels = k.layers.Input((SIDE, SIDE, 3))
    x = pixels if before is None else before(pixels)
    for place, (_, _, _, filters) in enumerate(SHAPES.values()):
        x = between(k, k.layers.Conv2D(filters, 3, padding="same", use_bias=use_bias, **options)(x), place)
        x = k.layers.MaxPooling2D(2, 1)(x)
    features = x
    x = k.layers.BatchNormalization()(k.layers.Dropout(0.5)(k.layers.GlobalAveragePooling2D()(x)))
    model = spread(k.Model(pixels, k.layers.Dense(2, activation="softmax")(x)))
    # Not as an attribute that Keras would save.
    object.__setattr__(model, "features", k.Model(pixels, features))
    return model


def features_of(found: TrunkFile, pixels: np.ndarray) -> np.ndarray:
    """What plain convolutions with these weights make of pixels."""
    x = inputs = keras.layers.Input((SIDE, SIDE, 3))
    for (kernel, bias), filters in zip(found.tensors.values(), (4, 5, 6), strict=True):
        layer = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")
        x = keras.layers.MaxPooling2D(2, 1)(layer(x))
        layer.set_weights([kernel, bias])
    return np.asarray(keras.Model(inputs, x)(pixels))


PIXELS = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)


def require_equal(found: TrunkFile, model: Any) -> None:
    expected = np.asarray(model.features(PIXELS, training=False))
    assert expected.std() > 0.1
    np.testing.assert_allclose(features_of(found, PIXELS), expected, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_normalization_is_folded_exactly(tmp_path: Path, kind: str, use_bias: bool) -> None:
    model = network(library(kind), normalised, use_bias)
    found = read_trunk(saved(model, tmp_path, kind))
    require_equal(found, model)
    assert len(found.notes) == 1
    assert "3 normalizations folded into the convolutions before them" in found.notes[0]


def plain(k: Any, x: Any, place: int) -> Any:
    return k.layers.Dropout(0.1)(k.layers.Activation("relu")(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trunk_inside_a_model_is_found(tmp_path: Path, kind: str) -> None:
    k = library(kind)
    model = network(k, normalised)
    pixels = k.layers.Input((SIDE, SIDE, 3))
    augmented = k.Sequential([k.layers.Input((SIDE, SIDE, 3)), k.layers.RandomFlip()])
    x = k.layers.GlobalAveragePooling2D()(model.features(augmented(pixels)))
    whole = k.Model(pixels, k.layers.Dense(2)(k.layers.BatchNormalization()(k.layers.Dense(4)(x))))
    require_equal(read_trunk(saved(whole, tmp_path, kind)), model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_of_layers(tmp_path: Path, kind: str) -> None:
    k = library(kind)
    model = network(k, normalised)
    whole = k.Sequential([k.layers.Input((SIDE, SIDE, 3)), *model.features.layers[1:], k.layers.Flatten()])
    whole.build((None, SIDE, SIDE, 3))
    require_equal(read_trunk(saved(whole, tmp_path, kind)), model)


def behind_the_activation(k: Any, x: Any, place: int) -> Any:
    return k.layers.BatchNormalization(name=f"norm{place}")(k.layers.Activation("relu")(x))


def one_by_one(k: Any, x: Any, place: int) -> Any:
    return k.layers.Conv2D(x.shape[-1], 1, name=f"pointwise{place}")(x)


def attention(k: Any, x: Any, place: int) -> Any:
    weights = k.layers.Dense(x.shape[-1], activation="sigmoid")(k.layers.GlobalAveragePooling2D(keepdims=True)(x))
    return k.layers.Multiply(name=f"attention{place}")([x, weights])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": behind_the_activation}, r"norm0 \(BatchNormalization\) does not follow a convolution at once"),
        (
            {"between": normalised, "activation": "relu"},
            r"\(BatchNormalization\) does not follow a convolution at once",
        ),
        ({"between": one_by_one}, r"pointwise0 \(Conv2D\) has no place in a VGG16 and would be left out"),
        ({"between": attention}, "attention1 joins 2 branches"),
    ],
    ids=["behind an activation", "behind a built-in activation", "other convolution", "branches"],
)
def test_what_would_be_left_out_is_refused(tmp_path: Path, kind: str, options: dict[str, Any], message: str) -> None:
    path = saved(network(library(kind), **options), tmp_path, kind)
    with pytest.raises(WeightsError, match=message) as caught:
        read_trunk(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_model_does_to_pixels(tmp_path: Path, kind: str) -> None:
    k = library(kind)
    model = network(k, plain, before=k.layers.Rescaling(1 / 255))
    found = read_trunk(saved(model, tmp_path, kind))
    assert len(found.notes) == 1
    assert "changes pixels before the first convolution (Rescaling); tledge feeds BGR" in found.notes[0]
    layer = k.layers.Normalization(mean=[1, 2, 3], variance=[1, 2, 3], name="own")
    assert "(Normalization)" in read_trunk(saved(network(k, plain, before=layer), tmp_path, kind)).notes[0]
    adapted = k.layers.BatchNormalization(name="own")
    with pytest.raises(WeightsError, match=r"own \(BatchNormalization\) does not follow a convolution"):
        read_trunk(saved(network(k, plain, before=adapted), tmp_path, kind))


@pytest.mark.parametrize("kind", ["keras 3 .weights.h5", "keras 2 .h5", "keras 2 .weights.h5"])
def test_weights_alone_must_be_plain(tmp_path: Path, kind: str) -> None:
    k, path = library(kind), tmp_path / f"m{kind.split()[-1]}"
    for between in (normalised, behind_the_activation, one_by_one):
        network(k, between).save_weights(path)
        with pytest.raises(WeightsError, match=r"dense layers alone in .*, but it also holds .*; pass the whole model"):
            read_trunk(path)
    model = network(k, plain)
    k.Model(
        model.input, k.layers.Dense(2)(k.layers.Dropout(0.2)(k.layers.Flatten()(model.features.output)))
    ).save_weights(path)
    require_equal(read_trunk(path), model)


def test_layers_of_keras_2_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Not in that of their names; where shapes are the same, nothing else would tell."""
    layers = tf_keras.layers
    names = dict(zip(("z", "m", "a"), SHAPES.values(), strict=True))
    convolutions = [layers.Conv2D(shape[-1], 3, padding="same", name=name) for name, shape in names.items()]
    model = spread(tf_keras.Sequential([layers.InputLayer((SIDE, SIDE, 3)), *convolutions]))
    model.save_weights(tmp_path / "m.h5")
    found = read_trunk(tmp_path / "m.h5")
    for layer, (kernel, bias) in zip(convolutions, found.tensors.values(), strict=True):
        np.testing.assert_array_equal(kernel, layer.get_weights()[0])
        np.testing.assert_array_equal(bias, layer.get_weights()[1])


@pytest.mark.parametrize("config", [[], {}, {"class_name": "Sequential", "config": {"layers": [3]}}, "no JSON"])
def test_a_damaged_configuration_is_one_line(tmp_path: Path, config: Any) -> None:
    path = saved(network(keras, plain), tmp_path, "keras 3 .h5")
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
    with pytest.raises(WeightsError, match=r"m\.h5") as caught:
        read_trunk(path)
    assert "\n" not in str(caught.value)


def test_names_and_layout_of_torch(tmp_path: Path) -> None:
    model = network(keras, plain)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    path = tmp_path / "torch.h5"
    with h5py.File(path, "w") as file:
        for place, layer in zip((0, 2, 10), convolutions, strict=True):
            kernel, bias = layer.get_weights()
            file[f"features.{place}.weight"], file[f"features.{place}.bias"] = kernel.transpose(3, 2, 0, 1), bias
        file["classifier.0.weight"], file["classifier.0.bias"] = np.zeros((2, 6), np.float32), np.zeros(2, np.float32)
    found = read_trunk(path)
    require_equal(found, model)
    assert len(found.notes) == 1
    assert "weights in PyTorch's convention, which mostly expect RGB pixels of 0..1" in found.notes[0]
    with h5py.File(path, "r+") as file:
        file["features.1.running_mean"] = np.zeros(4, np.float32)
    with pytest.raises(WeightsError, match=r"also holds features\.1"):
        read_trunk(path)


Node = tuple[str, tuple[np.ndarray, ...], dict[str, Any]]


def onnx_file(path: Path, model: Any, behind: Callable[[int], list[Node]], **options: Any) -> Path:
    """The network's convolutions, each followed by nodes of `behind`, as other exporters write them."""
    helper, weights, nodes = onnx.helper, [], []
    last = "input"

    def add(kind: str, *constants: np.ndarray, **attributes: Any) -> None:
        nonlocal last
        names = [f"{kind}{len(nodes)}.{i}" for i in range(len(constants))]
        weights.extend(onnx.numpy_helper.from_array(c, n) for c, n in zip(constants, names, strict=True))
        nodes.append(
            helper.make_node(kind, [last, *names], [f"x{len(nodes)}"], name=f"{kind}{len(nodes)}", **attributes)
        )
        last = nodes[-1].output[0]

    for kind, constants, attributes in options.get("before", ()):
        add(kind, *constants, **attributes)
    convolutions = [layer for layer in model.layers if "conv" in layer.name]
    for place, layer in enumerate(convolutions):
        kernel, *bias = layer.get_weights()
        add("Conv", np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), *bias, pads=[1] * 4)
        for kind, constants, attributes in behind(place):
            add(kind, *constants, **attributes)
        add("Relu")
        add("MaxPool", kernel_shape=[2, 2])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("input", 1, ["n", 3, SIDE, SIDE])],
        [value(last, 1, None)],
        weights,
    )
    proto = helper.make_model(graph, producer_name=options.get("producer", ""))
    for key, text in options.get("metadata", {}).items():
        proto.metadata_props.add(key=key, value=text)
    onnx.save(proto, path)
    return path


def norms(model: Any) -> list[Any]:
    return [layer for layer in model.layers if "batch" in layer.name]


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("as_arithmetic", [False, True])
def test_normalization_in_onnx(tmp_path: Path, use_bias: bool, as_arithmetic: bool) -> None:
    model = network(keras, normalised, use_bias)

    def behind(place: int) -> list[Node]:
        layer = norms(model)[place]
        mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        gamma = layer.gamma.numpy() if layer.scale else np.ones_like(mean)
        beta = layer.beta.numpy() if layer.center else np.zeros_like(mean)
        if not as_arithmetic:
            return [("BatchNormalization", (gamma, beta, mean, variance), {"epsilon": layer.epsilon})]
        scale = (gamma / np.sqrt(variance + layer.epsilon)).reshape(1, -1, 1, 1)
        return [
            ("Sub", (mean.reshape(-1, 1, 1),), {}),
            ("Mul", (scale,), {}),
            ("Add", (beta.reshape(1, -1, 1, 1),), {}),
        ]

    found = read_trunk(onnx_file(tmp_path / "m.onnx", model, behind))
    require_equal(found, model)
    assert f"{9 if as_arithmetic else 3} normalizations folded" in found.notes[0]


def test_what_onnx_would_leave_out_is_refused(tmp_path: Path) -> None:
    model, path = network(keras, plain), tmp_path / "m.onnx"
    late: list[Node] = [("Relu", (), {}), ("Mul", (np.full((1, 4, 1, 1), 2, np.float32),), {})]
    with pytest.raises(WeightsError, match=r"Mul2 \(Mul\) does not follow a convolution at once"):
        read_trunk(onnx_file(path, model, lambda place: late if place == 0 else []))
    square: list[Node] = [("Conv", (np.ones((4, 4, 1, 1), np.float32),), {})]
    with pytest.raises(WeightsError, match=r"Conv1 \(Conv\) has no place in a VGG16"):
        read_trunk(onnx_file(path, model, lambda place: square if place == 0 else []))


def test_conventions_of_onnx_files_are_noted(tmp_path: Path) -> None:
    model, path = network(keras, plain), tmp_path / "m.onnx"
    found = read_trunk(onnx_file(path, model, lambda _: []))
    require_equal(found, model)
    assert found.notes == ()
    found = read_trunk(onnx_file(path, model, lambda _: [], producer="pytorch"))
    assert "PyTorch's convention" in found.notes[0]
    means = np.array([103.939, 116.779, 123.68], np.float32).reshape(3, 1, 1)
    assert read_trunk(onnx_file(path, model, lambda _: [], before=[("Sub", (means,), {})])).notes == ()
    fractions: list[Node] = [("Div", (np.float32([255]),), {})]
    assert "(Div)" in read_trunk(onnx_file(path, model, lambda _: [], before=fractions)).notes[0]
    with pytest.raises(WeightsError, match=r"is an export of tledge.*pass the model.keras of its run"):
        read_trunk(onnx_file(path, model, lambda _: [], metadata={"tledge": "{}"}))


def test_notes_stay_with_a_trunk_that_was_added(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "m.onnx", network(keras, plain), lambda _: [], producer="pytorch")
    own = add_trunk("mine", path)
    found = resolve("mine")
    assert found is not None
    assert found.notes == own.notes == resolve(str(path)).notes
    assert found.digest == own.digest == digest_of(found.tensors)
