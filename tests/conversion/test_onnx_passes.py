"""ONNX passes: a graph as short as it can be, named after the layers, for any batch, with the same answers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.conversion.small_graphs import MAKERS, SIDE, images_of
from tledge.conversion.onnx import OnnxModel, float_model
from tledge.model.graph import Graph
from tledge.model.inference import inference_graph

keras = pytest.importorskip("keras")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
layers = keras.layers

IMAGES = images_of(5).astype(np.float32)


def no_offset(seed: int = 0) -> Any:
    """Nothing in front of the first convolution."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.MaxPooling2D()(layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1")(x))
    return keras.Model(pixels, layers.Dense(3, activation="softmax", name="prediction")(layers.Flatten()(x)))


def dense_without_bias(seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, strides=4, name="conv1")(layers.Rescaling(1 / 255)(pixels))
    x = layers.Dense(6, use_bias=False, activation="tanh", name="hidden")(layers.Flatten()(x))
    return keras.Model(pixels, layers.Dense(3, use_bias=False, name="scores")(x))


def flattened_twice(seed: int = 0) -> Any:
    """Two dense layers read the same flattened tensor."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Flatten()(layers.Conv2D(4, 3, strides=4, name="conv1")(layers.Rescaling(1 / 255)(pixels)))
    both = layers.Multiply()([layers.Dense(3, name="left")(x), layers.Dense(3, activation="sigmoid", name="right")(x)])
    return keras.Model(pixels, layers.Softmax()(both))


def dense_first(seed: int = 0) -> Any:
    """No convolution, so nothing to transpose."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Dense(4, activation="relu", name="hidden")(layers.Flatten()(layers.Rescaling(1 / 255)(pixels)))
    return keras.Model(pixels, layers.Dense(3, activation="softmax", name="prediction")(x))


ALL = {
    **MAKERS,
    "no-offset": no_offset,
    "dense-without-bias": dense_without_bias,
    "flattened-twice": flattened_twice,
    "dense-first": dense_first,
}
CONVERTED: dict[str, tuple[Any, Graph, OnnxModel]] = {}


@pytest.fixture
def converted(request: pytest.FixtureRequest) -> tuple[Any, Graph, Any]:
    """Keras's model, its graph, and the ONNX graph that was made of it, once for all tests."""
    name = request.param
    if name not in CONVERTED:
        model = ALL[name]()
        graph = inference_graph(model)
        CONVERTED[name] = (model, graph, float_model(graph))
    model, graph, made = CONVERTED[name]
    return model, graph, made.proto


def ops(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def answers(proto: Any, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


each = pytest.mark.parametrize("converted", ALL, indirect=True)


@each
def test_answers_equal_those_of_keras(converted: tuple[Any, Graph, Any]) -> None:
    model, _, proto = converted
    expected = model.predict(IMAGES, verbose=0)
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(answers(proto, IMAGES), expected, atol=1e-5)


@each
def test_any_batch_gives_the_same_answers(converted: tuple[Any, Graph, Any]) -> None:
    _, _, proto = converted
    one_by_one = np.concatenate([answers(proto, image[None]) for image in IMAGES])
    np.testing.assert_allclose(answers(proto, IMAGES), one_by_one, atol=1e-6)
    dims = [value.type.tensor_type.shape.dim[0].dim_param for value in (*proto.graph.input, *proto.graph.output)]
    assert dims == ["N", "N"]
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["image", "probability"]


@each
def test_nothing_of_the_way_is_left(converted: tuple[Any, Graph, Any]) -> None:
    _, graph, proto = converted
    onnx.checker.check_model(proto, full_check=True)
    found = ops(proto)
    convolutions = [call for call in graph.calls if call.kind in ("Conv2D", "DepthwiseConv2D")]
    dense = [call for call in graph.calls if call.kind == "Dense"]
    assert found.count("Transpose") == bool(convolutions)
    assert not {"Shape", "Gather", "MatMul", "Squeeze", "Unsqueeze", "Identity", "Cast", "Slice"} & set(found)
    assert found.count("Conv") == len(convolutions)
    assert found.count("Gemm") == len(dense)
    read = {name for node in proto.graph.node for name in node.input}
    assert {tensor.name for tensor in proto.graph.initializer} <= read
    # What scales in front of a depthwise convolution stays there, on pixels as they come.
    if convolutions and [call.kind for call in graph.calls[:2]] != ["Rescaling", "DepthwiseConv2D"]:
        assert found[0] == "Transpose", "the pixels are transposed before anything is added to them"


@each
def test_a_reshape_is_only_where_the_model_has_one(converted: tuple[Any, Graph, Any]) -> None:
    _, graph, proto = converted
    reshapes = [call for call in graph.calls if call.kind == "Reshape"]
    assert ops(proto).count("Reshape") <= len(reshapes)


@each
def test_nodes_and_weights_have_the_names_of_the_layers(converted: tuple[Any, Graph, Any]) -> None:
    _, graph, proto = converted
    calls = {call.name for call in graph.calls} | {"image"}
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    for name in (*names, *(tensor.name for tensor in proto.graph.initializer)):
        assert name.partition("/")[0] in calls, name
    weights = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    by_name = {node.name: node for node in proto.graph.node}
    for call in graph.calls:
        if call.name in graph.matrix_layers:
            assert by_name[call.name].op_type in ("Conv", "Gemm")
            name = by_name[call.name].input[1]
            # Both calls of a layer that is called twice, `again` and `again.2`, read the weights of the first.
            assert name == f"{call.name.replace('again.2', 'again')}/kernel"
            kernel = call.layer.kernel.shape
            assert np.prod(weights[name]) == np.prod(kernel)
            if call.kind == "Dense":
                assert weights[name] == (kernel[1], kernel[0]), "outputs first"
    assert not [name for name in names if re.search(r"PartitionedCall|__\d+|;", name)]


@each
def test_the_file_says_nothing_of_tools_and_is_the_same_again(converted: tuple[Any, Graph, Any]) -> None:
    _, graph, proto = converted
    again = float_model(graph).proto
    assert again.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
    assert proto.producer_name in ("", "tledge")
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert not proto.graph.value_info or all(value.name for value in proto.graph.value_info)
