"""The form that is exported: the same answers, nothing that training alone needs, arithmetic folded into weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tledge.model.graph import Graph
from tledge.model.inference import PIXEL_OFFSET, inference_graph

keras = pytest.importorskip("keras")
layers = keras.layers

SIDE = 16
IMAGES = np.random.default_rng(2).integers(0, 256, (4, SIDE, SIDE, 3)).astype(np.float32)
FRACTIONS = IMAGES / 255


def settled(model: Any) -> Any:
    """Normalization as after a training: averages far from where they start, some channels with a negative gamma."""
    rng = np.random.default_rng(3)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.5, shape))
            layer.moving_variance.assign(rng.uniform(0.2, 2, shape))
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape))
            if layer.center:
                layer.beta.assign(rng.normal(0, 0.5, shape))
    return model


def model_of(*between: Any, side: int = SIDE) -> Any:
    return settled(keras.Sequential([keras.Input((side, side, 3)), *between]))


def kinds(graph: Graph) -> list[str]:
    return [call.kind for call in graph.calls]


def require_equal(model: Any, graph: Graph, images: np.ndarray = FRACTIONS, tolerance: float = 1e-5) -> None:
    expected = model.predict(images, verbose=0)
    assert np.ptp(expected, axis=0).max() > 1e-3, "images are not told apart, so equality would prove nothing"
    atol = tolerance * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(np.asarray(graph.run(images)), expected, atol=atol)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}, {"epsilon": 0.1}])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: layers.Conv2D(5, 3, padding="same", **options),
        lambda **options: layers.Conv2D(5, 3, strides=2, activation="linear", **options),
        lambda **options: layers.DepthwiseConv2D(3, depth_multiplier=2, **options),
        lambda **options: layers.SeparableConv2D(5, 3, strides=2, depth_multiplier=2, **options),
        lambda **options: layers.Dense(5, **options),
    ],
    ids=["conv", "strided", "depthwise", "separable", "dense"],
)
def test_normalization_behind_a_layer_is_folded(make: Any, use_bias: bool, options: dict[str, Any]) -> None:
    layer = make(use_bias=use_bias, bias_initializer="random_normal")
    flat = [layers.Flatten()] if isinstance(layer, layers.Dense) else []
    model = model_of(*flat, layer, layers.BatchNormalization(**options), layers.ReLU(), layers.Flatten())
    before = [weights.copy() for weights in model.get_weights()]
    graph = inference_graph(model)
    assert "BatchNormalization" not in kinds(graph)
    assert "Rescaling" not in kinds(graph)
    require_equal(model, graph)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then, err_msg="the model's own weights changed")


def test_normalization_elsewhere_becomes_one_multiplication_and_addition() -> None:
    in_front = [layers.MaxPooling2D(), layers.BatchNormalization(name="normalized"), layers.Conv2D(4, 3)]
    activated = [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(name="normalized")]
    for between in (in_front, activated):
        model = model_of(layers.Conv2D(3, 3), *between, layers.GlobalAveragePooling2D())
        graph = inference_graph(model)
        assert graph.call("normalized").kind == "Rescaling"
        assert "BatchNormalization" not in kinds(graph)
        require_equal(model, graph)


def test_normalization_of_what_others_read_as_well_is_not_folded() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, name="read_twice")(pixels)
    x = layers.Add()([x, layers.BatchNormalization(name="normalized")(x)])
    model = settled(keras.Model(pixels, layers.GlobalAveragePooling2D()(x)))
    graph = inference_graph(model)
    assert graph.call("normalized").kind == "Rescaling"
    require_equal(model, graph)


def test_normalization_behind_a_shared_layer_is_not_folded_into_it() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    again = layers.Conv2D(3, 3, padding="same", name="again")
    x = layers.BatchNormalization()(again(pixels))
    x = layers.BatchNormalization()(again(x))
    model = settled(keras.Model(pixels, layers.GlobalAveragePooling2D()(x)))
    graph = inference_graph(model)
    require_equal(model, graph)
    first, second = (graph.call(name) for name in ("again", "again.2"))
    assert first.layer is second.layer


def test_two_normalizations_in_a_row_are_both_folded() -> None:
    between = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.BatchNormalization()]
    model = model_of(*between, layers.GlobalAveragePooling2D())
    graph = inference_graph(model)
    assert kinds(graph) == ["Conv2D", "GlobalAveragePooling2D"]
    require_equal(model, graph)


@pytest.mark.parametrize(
    "after",
    [
        lambda x: x + 3.0,
        lambda x: 3 + x,
        lambda x: x - 0.5,
        lambda x: x * -2,
        lambda x: x / 6,
        lambda x: (x * 2 + 1) / 4 - 3,
        layers.Rescaling(0.5, offset=3.0),
    ],
)
@pytest.mark.parametrize("use_bias", [True, False])
def test_numbers_behind_a_layer_are_folded(after: Any, use_bias: bool) -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=use_bias, name="deep")(pixels)
    x = layers.BatchNormalization()(after(layers.Conv2D(4, 3, use_bias=use_bias, name="conv")(layers.ReLU()(after(x)))))
    model = settled(keras.Model(pixels, after(layers.Dense(3, use_bias=use_bias)(layers.GlobalMaxPooling2D()(x)))))
    graph = inference_graph(model)
    require_equal(model, graph, IMAGES)
    assert set(kinds(graph)) <= {"DepthwiseConv2D", "ReLU", "Conv2D", "MaxPooling2D", "Flatten", "Dense", "Rescaling"}
    assert kinds(graph).count("Rescaling") <= 1, "of the normalization alone"


def test_a_number_in_front_of_a_sign_stays() -> None:
    """What is subtracted from a number, and numbers behind an activation, are no factors of the layer."""
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, activation="relu")(pixels) * 2 - 1
    x = 1.0 - layers.Conv2D(4, 3)(x)
    model = keras.Model(pixels, layers.GlobalAveragePooling2D()(x))
    graph = inference_graph(model)
    assert kinds(graph).count("Subtract") == 2
    require_equal(model, graph)


def test_normalization_of_another_axis_stays_exact() -> None:
    model = model_of(layers.Conv2D(4, 3), layers.BatchNormalization(axis=1), layers.GlobalAveragePooling2D())
    require_equal(model, inference_graph(model))


def caffe(pixels: Any) -> Any:
    return keras.applications.vgg16.preprocess_input(pixels)


def one_matrix(pixels: Any) -> Any:
    """As tledge's own models have it: channels swapped, scaled, and an offset."""
    swapped = np.eye(3)[::-1] / [58.4, 57.1, 57.4]
    return layers.EinsumDense(
        "nhwc,cd->nhwd",
        output_shape=tuple(pixels.shape[1:]),
        bias_axes="d",
        kernel_initializer=keras.initializers.Constant(swapped.tolist()),
        bias_initializer=keras.initializers.Constant([-2.1, -2.0, -1.8]),
    )(pixels)


PREPROCESSINGS: dict[str, Callable[[Any], Any]] = {
    "fractions": layers.Rescaling(1 / 255),
    "rescaling to -1..1": layers.Rescaling(1 / 127.5, offset=-1),
    "rescaling by channel": layers.Rescaling([0.1, 0.2, 0.3], offset=[1.0, -2.0, 3.0]),
    "caffe": caffe,
    "torch": lambda pixels: keras.applications.imagenet_utils.preprocess_input(pixels, mode="torch"),
    "mobilenet": keras.applications.mobilenet_v2.preprocess_input,
    "one matrix": one_matrix,
    "operations": lambda pixels: pixels / 127.5 - 1,
    "channels turned around": lambda pixels: pixels[..., ::-1] * 0.5,
    "normalization layer": lambda pixels: layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[9.0, 16.0, 25.0])(
        pixels
    ),
    "batch normalization": layers.BatchNormalization(),
}
WITHOUT_OFFSET = ("fractions", "channels turned around")


@pytest.mark.parametrize("padded", [False, True], ids=["same", "zero padding"])
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_preprocessing_is_folded_into_the_first_convolution(name: str, padded: bool) -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = PREPROCESSINGS[name](pixels)
    # Padding adds zeros behind the preprocessing: where it is folded wrongly, the border is off.
    x = layers.ZeroPadding2D(((0, 1), (2, 1)))(x) if padded else x
    x = layers.Conv2D(4, 3, strides=2, padding="valid" if padded else "same", name="first")(x)
    model = settled(keras.Model(pixels, layers.Dense(3)(layers.Flatten()(x))))
    graph = inference_graph(model)
    expected = [] if name in WITHOUT_OFFSET else ["Rescaling"]
    assert kinds(graph) == [*expected, *(["ZeroPadding2D"] if padded else []), "Conv2D", "Flatten", "Dense"]
    if expected:
        offset = graph.call(PIXEL_OFFSET)
        assert offset.layer.scale == 1.0
        assert graph.calls[0] is offset
    require_equal(model, graph, IMAGES)


def test_nothing_is_folded_into_filters_that_see_some_channels() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(6, 3, groups=3, name="first")(layers.Rescaling(1 / 127.5, -1.0)(pixels))
    model = settled(keras.Model(pixels, layers.Dense(3)(layers.Flatten()(x))))
    graph = inference_graph(model)
    assert kinds(graph) == ["Rescaling", "Conv2D", "Flatten", "Dense"]
    require_equal(model, graph, IMAGES)


def over_the_image(pixels: Any) -> Any:
    return pixels - keras.ops.mean(pixels, axis=(1, 2), keepdims=True)


def grey(pixels: Any) -> Any:
    return keras.ops.repeat(keras.ops.mean(pixels, axis=-1, keepdims=True), 3, axis=-1)


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (layers.Resizing(8, 8), "Resizing"),
        (layers.CenterCrop(8, 8), "CenterCrop"),
        (over_the_image, "Mean"),
        (grey, "Repeat"),
        (lambda pixels: pixels**2.2, "Power"),
        (layers.MaxPooling2D(), "MaxPooling2D"),
    ],
)
def test_what_is_no_affine_map_of_each_pixel_stays(before: Any, kind: str) -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, name="first")(before(layers.Rescaling(1 / 255)(pixels)))
    model = keras.Model(pixels, layers.GlobalAveragePooling2D()(x))
    graph = inference_graph(model)
    assert kind in kinds(graph)
    assert "Rescaling" in kinds(graph)
    require_equal(model, graph, IMAGES)


def test_small_values_are_told_from_an_affine_map_as_well() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    small = (pixels / 25500) ** 3
    x = layers.Conv2D(4, 3, kernel_initializer=keras.initializers.RandomNormal(0, 1e6, seed=1))(small)
    model = keras.Model(pixels, layers.GlobalAveragePooling2D()(x))
    graph = inference_graph(model)
    assert "Power" in kinds(graph)
    require_equal(model, graph, IMAGES)


def test_pixels_that_a_second_branch_reads_are_left_alone() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255, offset=-0.5)(pixels)
    x = layers.Concatenate()([layers.Conv2D(4, 3, padding="same")(x), x])
    model = keras.Model(pixels, layers.GlobalAveragePooling2D()(x))
    graph = inference_graph(model)
    assert "Rescaling" in kinds(graph)
    require_equal(model, graph, IMAGES)


def test_a_first_layer_that_is_no_convolution_keeps_its_preprocessing() -> None:
    for first in (layers.DepthwiseConv2D(3), layers.Flatten()):
        model = model_of(layers.Rescaling(1 / 255, offset=-0.5), first, layers.Flatten(), layers.Dense(3))
        graph = inference_graph(model)
        assert kinds(graph)[0] == "Rescaling"
        require_equal(model, graph, IMAGES)


def test_what_training_alone_needs_is_gone() -> None:
    model = model_of(
        layers.RandomFlip(),
        layers.RandomRotation(0.2),
        layers.GaussianNoise(1.0),
        layers.Conv2D(4, 3),
        layers.SpatialDropout2D(0.3),
        layers.Activation("linear"),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(3),
        layers.Identity(),
    )
    graph = inference_graph(model)
    assert kinds(graph) == ["Conv2D", "Flatten", "Dense"]
    require_equal(model, graph)


def test_activations_get_a_call_of_their_own_but_a_relu() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="kept")(pixels)
    x = layers.Conv2D(4, 3, activation="hard_swish", name="split")(x)
    x = layers.Flatten(name="flat")(x)
    model = keras.Model(pixels, layers.Dense(3, activation="softmax", name="scores")(x))
    graph = inference_graph(model)
    names = [call.name for call in graph.calls]
    assert names == ["kept", "split", "split.hard_silu", "flat", "scores", "scores.softmax"]
    assert graph.logits == graph.call("scores").output
    assert [call.layer.activation.__name__ for call in graph.calls if call.kind in ("Conv2D", "Dense")] == [
        "relu",
        "linear",
        "linear",
    ]
    require_equal(model, graph)


@pytest.mark.parametrize("keepdims", [False, True])
def test_a_global_maximum_becomes_a_pooling(keepdims: bool) -> None:
    between = [layers.Conv2D(4, 3, strides=(2, 1)), layers.GlobalMaxPooling2D(keepdims=keepdims, name="largest")]
    model = model_of(*between, layers.Flatten(), layers.Dense(3))
    graph = inference_graph(model)
    assert graph.call("largest").kind == "MaxPooling2D"
    assert "GlobalMaxPooling2D" not in kinds(graph)
    require_equal(model, graph)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_model_of_mixed_precision_computes_in_float32(policy: str) -> None:

    def classifier() -> Any:
        first = [layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization()]
        return model_of(*first, layers.Flatten(), layers.Dense(3, activation="softmax"))

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        mixed = classifier()
    finally:
        keras.config.set_dtype_policy(before)
    plain = classifier()
    plain.set_weights(mixed.get_weights())
    answers = np.asarray(inference_graph(mixed).run(IMAGES))
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, plain.predict(IMAGES, verbose=0), atol=1e-5)


def test_a_whole_net_of_tutorials() -> None:
    """Augmentation, preprocessing by operations, inverted residuals inside a model inside, dropout, logits."""
    base = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, include_top=False, weights=None)
    pixels = keras.Input((64, 64, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(layers.RandomFlip("horizontal")(pixels))
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(base(x)))
    model = keras.Model(pixels, layers.Dense(3)(x))
    images = np.random.default_rng(4).integers(0, 256, (8, 64, 64, 3)).astype(np.float32)
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # one step settles what a training would
    model(images, training=True)
    graph = inference_graph(model)
    # Keras's own answers in a compiled and an eager run differ by 3e-5 here.
    require_equal(model, graph, images, 1e-4)
    assert set(kinds(graph)) == {
        *("Rescaling", "Conv2D", "DepthwiseConv2D", "ZeroPadding2D"),
        *("ReLU", "Add", "GlobalAveragePooling2D", "Dense"),
    }
    assert kinds(graph).count("Rescaling") == 1
