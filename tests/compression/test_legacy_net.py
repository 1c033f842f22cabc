"""Adopted models in Keras 2 and back: what TFMOT makes of branches, depthwise convolutions and other layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tledge
from tests.adoption.zoo import images_of
from tledge.compression.flat import WEIGHTED, flat
from tledge.compression.legacy_net import preprocess, to_legacy, weights_of
from tledge.compression.methods import METHODS
from tledge.compression.methods.cluster import distinct
from tledge.compression.methods.prune import pruned_layers, sparsity_of
from tledge.compression.methods.qat import Preserve, measure, rebuild
from tledge.compression.optimize import optimize
from tledge.compression.options import settings_of
from tledge.conversion.calibration import learned_by_call
from tledge.core.dependencies import installed
from tledge.core.errors import RunError, SettingsError
from tledge.core.records import plain
from tledge.core.types import Json
from tledge.model.forward import compiled
from tledge.model.inference import load_graph
from tledge.model.preprocessing import MEAN_BGR, PREPROCESSING
from tledge.model.ranges import ActivationRanges, preprocessed_range, read_ranges, weight_limits
from tledge.runs.rundir import RunDir, open_run
from tledge.runtimes import open_classifier

keras = pytest.importorskip("keras")
if not installed("tensorflow_model_optimization"):
    pytest.skip("needs the optimize extra", allow_module_level=True)

SIDE = 32
CLASSES = ("digit 0", "digit 1", "digit 7")
SPARSITY, CLUSTERS = 0.6, 8
METHODS_OF_TFMOT = ("prune", "cluster", "qat")


def normalized(x: Any, *layers: Any) -> Any:
    """Layers, each with a batch normalization behind it, and a ReLU6 behind all but the last."""
    for number, layer in enumerate(layers, 1):
        x = keras.layers.BatchNormalization(momentum=0.8)(layer(x))
        x = x if number == len(layers) else keras.layers.ReLU(6.0)(x)
    return x


def residual(side: int = SIDE) -> Any:
    """A small net with what MobileNetV2, ResNet and Inception are made of; it takes pixels of 0..1."""
    keras.backend.clear_session()  # names of layers
    keras.utils.set_random_seed(0)
    layers = keras.layers
    pixels = keras.Input((side, side, 3))
    x = keras.layers.ReLU(6.0)(normalized(pixels, layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)))
    inner = layers.DepthwiseConv2D(3, padding="same", use_bias=False)
    y = normalized(x, layers.Conv2D(24, 1, use_bias=False), inner, layers.Conv2D(8, 1, use_bias=False))
    x = layers.Add(name="sum")([x, y])
    y = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(x))
    y = keras.layers.ReLU(name="rectified")(layers.Add()([y, layers.Conv2D(16, 3, strides=2, padding="same")(x)]))
    other = layers.LeakyReLU()(layers.Conv2D(8, 3, padding="same")(y))
    x = layers.Concatenate()([y, other, layers.AveragePooling2D(3, strides=1, padding="same")(y)])
    x = layers.GlobalAveragePooling2D(keepdims=True)(layers.MaxPooling2D()(x))
    x = layers.Dropout(0.1)(layers.Flatten()(x))
    return keras.Model(pixels, layers.Dense(3, activation="softmax")(x))


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def random_images(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def with_statistics(model: Any) -> Any:
    """The model with normalizations that do something, and that keep random weights from giving one answer to all."""
    generator = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if type(layer).__name__ == "BatchNormalization":
            count = layer.moving_mean.shape[0]
            layer.beta.assign(generator.normal(0, 0.2, count))
            if layer.scale:
                layer.gamma.assign(generator.uniform(0.8, 1.2, count))
            layer.momentum = 0.0
    model(random_images(16, model.input_shape[1]).astype(np.float32), training=True)
    return model


def scaled(model: Any) -> Any:
    """A model that takes -1..1 as one that takes pixels."""
    pixels = keras.Input(model.input_shape[1:])
    return keras.Model(pixels, model(keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)))


def sequential(*layers: Any) -> Any:
    return keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Rescaling(1 / 255), *layers])


def application(name: str, **options: Any) -> Any:
    return getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=4, **options)


def separable() -> Any:
    layers = keras.layers
    first = layers.Conv2D(8, 3, strides=2, activation="relu")
    middle = layers.SeparableConv2D(16, 3, depth_multiplier=2, use_bias=False)
    rest = (layers.BatchNormalization(), layers.ReLU(), layers.GlobalMaxPooling2D())
    return sequential(first, middle, *rest, layers.Dense(4, activation="softmax"))


def smooth() -> Any:
    layers = keras.layers
    hard = layers.Conv2D(8, 3, activation="hard_sigmoid", name="hard")
    convolutions = (layers.Conv2D(8, 3, 2, activation="silu"), hard)
    return sequential(*convolutions, layers.Flatten(), layers.Dense(4, activation="softmax"))


def grouped() -> Any:
    layers = keras.layers
    middle = layers.Conv2D(8, 3, groups=4, dilation_rate=2, activation="relu")
    head = (layers.GlobalAveragePooling2D(), layers.Softmax())
    return sequential(layers.Conv2D(8, 3, activation="gelu"), middle, layers.Conv2D(4, 1), *head)


def operations() -> Any:
    pixels = keras.Input((64, 64, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.ops.sigmoid(x + keras.layers.Conv2D(8, 1)(x)) * x
    x = keras.layers.Concatenate()([x, x])
    x = keras.ops.mean(x * x, axis=(1, 2)) * 8.0
    return keras.Model(pixels, keras.layers.Dense(4, activation="softmax")(x))


NETS: dict[str, Callable[[], Any]] = {
    "mobilenet-v2": lambda: scaled(application("MobileNetV2", alpha=0.35)),
    "mobilenet-v3": lambda: application("MobileNetV3Small"),
    "resnet": lambda: scaled(application("ResNet50")),
    "resnet-v2": lambda: scaled(application("ResNet50V2")),
    "efficientnet": lambda: application("EfficientNetB0"),
    "separable": separable,
    "smooth": smooth,
    "grouped": grouped,
    "operations": operations,
}
HEAVY = ("mobilenet-v3", "resnet", "resnet-v2", "efficientnet")
EACH = [pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in NETS]


@pytest.mark.parametrize("name", EACH)
def test_the_net_in_keras_2_answers_the_same(name: str) -> None:
    model = with_statistics(NETS[name]())
    images = random_images(4, 64)
    expected = np.asarray(model(images.astype(np.float32)))
    assert np.ptp(expected, axis=0).max() > 1e-4
    net = flat(model)
    answers = probabilities(compiled(to_legacy(net))(preprocess(net, images)))
    np.testing.assert_allclose(answers, expected, atol=5e-5)


def transposed() -> Any:
    layers = keras.layers
    up = layers.Conv2DTranspose(8, 3, name="up")
    head = (layers.GlobalAveragePooling2D(), layers.Dense(4, activation="softmax"))
    return sequential(layers.Conv2D(8, 3), up, layers.Conv2D(8, 3), *head)


def two_layers() -> Any:
    layers = keras.layers
    return sequential(layers.Conv2D(8, 3), layers.GlobalAveragePooling2D(), layers.Dense(4, activation="softmax"))


@pytest.mark.parametrize(
    ("make", "method", "says"),
    [
        (
            smooth,
            "qat",
            "but hard.hard_sigmoid is of another kind, activation layer of hard_sigmoid; use low-rank, ",
        ),
        (
            operations,
            "qat",
            "is of another kind, Sigmoid; use low-rank, prune or cluster, or export int8 files with --m",
        ),
        (NETS["mobilenet-v3"], "qat", "but activation is of another kind, activation layer of hard_silu"),
        (NETS["efficientnet"], "qat", "but block1a_se_excite is of another kind, Multiply"),
        (NETS["resnet-v2"], "qat", "but conv2_block1_preact_bn is of another kind, Rescaling"),
        *((transposed, method, "but up is a Conv2DTranspose, which Keras 2 does not") for method in METHODS_OF_TFMOT),
        (two_layers, "prune", "between the first and the last"),
    ],
)
def test_other_layers_are_refused_by_name(make: Callable[[], Any], method: str, says: str) -> None:
    keras.backend.clear_session()  # names of layers
    reason = METHODS[method].supports(flat(make()))
    assert reason is not None
    assert says in reason
    assert "\n" not in reason


@pytest.mark.parametrize("name", ["mobilenet-v2", "separable", pytest.param("resnet", marks=pytest.mark.slow)])
def test_what_every_method_takes(name: str) -> None:
    net = flat(NETS[name]())
    assert [METHODS[method].supports(net) for method in METHODS_OF_TFMOT] == [None] * 3


@pytest.fixture(scope="module")
def adopted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the residual net, trained for some seconds."""
    return adopted_run(residual(), digits, tmp_path_factory.mktemp("adopted"))


def adopted_run(model: Any, digits: Path, folder: Path) -> Path:
    pixels, labels = images_of(digits, model.input_shape[1], CLASSES)
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    model.fit(pixels.astype(np.float32) / 255, labels, batch_size=10, epochs=25, verbose=0)
    model.save(folder / "model.keras")
    tledge.adopt(folder / "model.keras", digits, input="0..1", out=folder / "run")
    return folder / "run"


def load(run: RunDir) -> Any:
    return keras.models.load_model(run.model, compile=False)


def expect_integer_files(
    run: RunDir, digits: Path, answers: Callable[[Any, np.ndarray], np.ndarray], slack: int = 1
) -> None:
    """Both int8 files compute in integers and say what they should, as `test_tfmot` has it for chains.

    `slack` is above 1 where the answers are those of a net without rounding.
    """
    recipe = run.path / "onnx-8bit.toml"
    recipe.write_text('format = "onnx"\nprecision = "int8"\n[calibration]\nimages = 1\n')
    made = {a.name: a for a in tledge.export(run.path, recipes=["tflite-int8", "onnx-int8", str(recipe)]).artefacts}
    model = load(run)
    counted = [type(layer).__name__ for layer in model.layers]
    matrix = counted.count("Conv2D") + counted.count("DepthwiseConv2D")
    tflite, onnx = (plain(made[name].sidecar)["ops"] for name in ("tflite-int8", "onnx-8bit"))
    assert tflite["CONV_2D int8"] + tflite["DEPTHWISE_CONV_2D int8"] == onnx["QLinearConv int8"] == matrix
    assert tflite["FULLY_CONNECTED int8"] == onnx["QGemm int8"] == counted.count("Dense")
    pixels, _ = images_of(digits, model.input_shape[1], CLASSES)
    expected = answers(model, pixels)
    for name, tolerance in (("tflite-int8", 0.03), ("onnx-8bit", 0.02)):
        difference = np.abs(open_classifier(made[name].path).predict(pixels) - expected)
        assert np.quantile(difference.max(axis=1), 0.75) < slack * tolerance, name
        assert difference.mean() < slack * 0.02, name


def quantized_answers(run: RunDir) -> Callable[[Any, np.ndarray], np.ndarray]:
    ranges = read_ranges(run.quantization)

    def answers(model: Any, pixels: np.ndarray) -> np.ndarray:
        return probabilities(compiled(rebuild(model, ranges, Preserve()))(preprocess(model, pixels)))

    return answers


def kernels(model: Any) -> dict[str, np.ndarray]:
    names = [layer.name for layer in model.layers if type(layer).__name__ in WEIGHTED]
    return {name: weights_of(model)[name][0] for name in names}


def test_files_of_a_quantized_net_say_what_it_says(adopted: Path, digits: Path, tmp_path: Path) -> None:
    result = tledge.optimize(adopted, method="qat", epochs=1, learning_rate=1e-4, out=tmp_path / "qat")
    assert len(result.outcomes[0].losses) == 2
    assert {"re_lu_1", "re_lu_2", "sum", "rectified"} <= set(read_ranges(result.run.quantization).limits)
    # Rounded behind the ReLU, and not before.
    assert not {"conv2d_1", "depthwise_conv2d", "add"} & set(read_ranges(result.run.quantization).limits)
    expect_integer_files(result.run, digits, quantized_answers(result.run))


@pytest.mark.parametrize("method", ["prune", "cluster"])
def test_kernels_of_an_adopted_net_become_sparse_or_few(
    method: str, adopted: Path, digits: Path, tmp_path: Path
) -> None:
    chosen: Json = {"sparsity": SPARSITY} if method == "prune" else {"clusters": CLUSTERS}
    result = tledge.optimize(adopted, method=method, epochs=1, **chosen, out=tmp_path / method)
    model = load(result.run)
    found = kernels(model)
    if method == "prune":
        assert set(result.outcomes[0].record["sparsity"]) == set(pruned_layers(model))
        assert min(sparsity_of(found[name]) for name in pruned_layers(model)) >= SPARSITY
    else:
        assert result.outcomes[0].record["distinct"].keys() == found.keys()
        assert max(map(distinct, found.values())) <= CLUSTERS
    trained, before = (weights_of(net)["depthwise_conv2d"][0] for net in (model, flat(load(open_run(adopted)))))
    assert distinct(trained) == trained.size
    assert np.array_equal(trained, before) == (result.outcomes[0].best == 0)
    expect_integer_files(result.run, digits, lambda net, pixels: np.asarray(net(pixels.astype(np.float32))), slack=3)


@pytest.mark.slow
def test_what_earlier_methods_made_stays(adopted: Path, digits: Path, tmp_path: Path) -> None:
    wanted = ("prune", "cluster", "qat")
    result = tledge.optimize(adopted, method=wanted, epochs=1, sparsity=SPARSITY, clusters=CLUSTERS, out=tmp_path / "x")
    found = kernels(load(result.run))
    assert min(sparsity_of(found[name]) for name in pruned_layers(load(result.run))) >= SPARSITY
    assert max(map(distinct, found.values())) <= CLUSTERS
    expect_integer_files(result.run, digits, quantized_answers(result.run))


@pytest.mark.slow
def test_activations_that_are_rounded_on_their_own(digits: Path, tmp_path: Path) -> None:
    """Also a sum that is an operation, and what a separable convolution is made of."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(16, 3, strides=2)(layers.Conv2D(8, 3, strides=2, activation="silu")(pixels))
    x = layers.Activation("relu6")(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.Conv2D(16, 1, activation="sigmoid")(layers.SeparableConv2D(16, 3, activation="tanh")(x))
    x = layers.Dense(16, activation="gelu")(layers.GlobalMaxPooling2D()(x))
    x = x + layers.Dense(16)(x)
    run = adopted_run(keras.Model(pixels, layers.Dense(3, activation="softmax")(x)), digits, tmp_path)
    result = tledge.optimize(run, method="qat", epochs=1, out=tmp_path / "qat")
    expect_integer_files(result.run, digits, quantized_answers(result.run))


@pytest.mark.slow
def test_mobilenet_v2_with_rounding(digits: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    pixels = keras.Input((64, 64, 3))
    base = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, include_top=False, weights=None)
    for layer in base.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = 0.8
    x = keras.layers.GlobalAveragePooling2D()(base(keras.layers.Rescaling(2.0, -1.0)(pixels)))
    model = keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(x))
    run = adopted_run(model, digits, tmp_path)
    result = tledge.optimize(run, method="qat", epochs=1, out=tmp_path / "qat")
    expect_integer_files(result.run, digits, quantized_answers(result.run))


def test_a_refusal_comes_before_slow_work(adopted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tledge.compression.images.flat", lambda _: flat(operations()))
    monkeypatch.setattr("tledge.compression.images.RunImages.distillation_data", None)
    with pytest.raises(SettingsError, match="of another kind, Sigmoid"):
        optimize(adopted, settings_of(("prune", "qat"), {}), tmp_path / "no", lambda *_: None)
    assert not (tmp_path / "no").exists()


def test_training_rounds_every_filter_of_a_depthwise_kernel_by_itself() -> None:
    """As int8 files do; also before a ReLU, where TFMOT alone would not round at all."""
    net = flat(scaled(with_statistics(residual())))
    student = rebuild(net, measure(net, random_images(8, SIDE)), Preserve())
    for name in ("depthwise_conv2d", "depthwise_conv2d_1"):
        kernel = weights_of(net)[name][0]
        limit = weight_limits(kernel, is_depthwise=True)
        step = (limit / 127).reshape(kernel.shape[2:])
        wrapped = student.get_layer(f"quant_{name}")
        student(preprocess(net, random_images(1, SIDE)), training=False)
        np.testing.assert_allclose(wrapped.layer.depthwise_kernel, np.round(kernel / step) * step, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "offset", "expected"),
    [(1 / 255, 0.0, (0.0, 1.0)), (2 / 255, -1.0, (-1.0, 1.0)), (1.0, 3.0, (0.0, 258.0))],
)
def test_the_range_of_pixels_follows_from_the_preprocessing(
    scale: float, offset: float, expected: tuple[float, float]
) -> None:
    found = preprocessed_range(np.eye(3, dtype=np.float32) * np.float32(scale), np.full(3, offset, np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_range_of_pixels_of_vgg16_is_what_it_was() -> None:
    means = np.asarray(MEAN_BGR, np.float32)
    found = preprocessed_range(np.eye(3, dtype=np.float32)[::-1], -means)
    assert np.float32(found).tolist() == np.float32([-max(MEAN_BGR), 255.0 - min(MEAN_BGR)]).tolist()


def test_pixels_of_an_adopted_chain_keep_their_levels(tmp_path: Path) -> None:
    layers = keras.layers
    middle = (layers.Conv2D(8, 3, activation="relu", name=name) for name in ("first", "second"))
    chain = flat(sequential(*middle, layers.Flatten(), layers.Dense(4, activation="softmax")))
    images = random_images(8, 64)
    ranges = measure(chain, images)
    assert ranges.of(PREPROCESSING) == pytest.approx((0.0, 1.0))
    student = rebuild(chain, ranges, Preserve())
    rounded = student.layers[1](preprocess(chain, images))
    np.testing.assert_allclose(rounded, images / 255, atol=1e-6)
    chain.save(tmp_path / "model.keras")
    graph = load_graph(tmp_path / "model.keras")
    limits = {name: limit for name, limit in ranges.limits.items() if name in ("first", "second", "prediction")}
    found = learned_by_call(graph, ActivationRanges(limits))
    assert found[graph.calls[0].name] == limits["first"]
    assert found["flatten"] == limits["second"]
    assert found["prediction"] == limits["prediction"]
    assert found["prediction.softmax"] == (0.0, 1.0)
    with pytest.raises(RunError, match="range for second"):
        learned_by_call(graph, ActivationRanges({"first": (0.0, 1.0)}))
