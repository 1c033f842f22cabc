"""The graph view: whatever a classifier is put together from, the same calls run to the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tledge.core.errors import ArtefactError
from tledge.model.graph import Graph, graph_of

keras = pytest.importorskip("keras")
layers = keras.layers

SIDE = 16
IMAGES = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)


def convolution(filters: int, name: str, **options: Any) -> Any:
    return layers.Conv2D(filters, 3, strides=2, padding="same", name=name, **options)


def functional() -> Any:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = convolution(4, "first", activation="relu")(pixels)
    x = layers.Add(name="sum")([x, layers.Conv2D(4, 1, name="beside")(x)])
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(pixels, layers.Dense(3, activation="softmax", name="scores")(x), name="functional")


def sequential() -> Any:
    return keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), convolution(4, "first"), layers.ReLU(), layers.Flatten(), layers.Dense(3)]
    )


def nested() -> Any:
    """A Sequential in a functional model in a Sequential."""
    block = keras.Sequential([keras.Input((8, 8, 4)), convolution(5, "inmost"), layers.ReLU(name="rectified")])
    pixels = keras.Input((SIDE, SIDE, 3))
    trunk = keras.Model(pixels, block(convolution(4, "first")(pixels)), name="trunk")
    end = [layers.GlobalAveragePooling2D(), layers.Dense(3, name="scores")]
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Rescaling(1 / 255), trunk, *end])


def shared_layer() -> Any:
    pixels = keras.Input((SIDE, SIDE, 3))
    again = layers.Conv2D(3, 3, padding="same", name="again")
    x = layers.Flatten()(again(again(pixels)))
    return keras.Model(pixels, layers.Dense(3, name="scores")(x))


def shared_model() -> Any:
    pixels = keras.Input((SIDE, SIDE, 3))
    block = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Conv2D(3, 3, padding="same", name="inside")])
    both = layers.Concatenate(name="both")([block(pixels), block(layers.Rescaling(0.5)(pixels))])
    return keras.Model(pixels, layers.GlobalAveragePooling2D()(both))


def equal_names() -> Any:
    """Two models inside that call their layers the same."""

    def tower(name: str) -> Any:
        pixels = keras.Input((SIDE, SIDE, 3))
        return keras.Model(pixels, layers.GlobalMaxPooling2D(name="max")(convolution(4, "conv")(pixels)), name=name)

    pixels = keras.Input((SIDE, SIDE, 3))
    both = layers.Concatenate()([tower("left")(pixels), tower("right")(pixels)])
    return keras.Model(pixels, layers.Dense(3, name="scores")(both))


def input_in_a_list() -> Any:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.GlobalAveragePooling2D()(convolution(4, "first")(pixels))
    inner = keras.Model([pixels], layers.Dense(3, name="scores")(x))
    outer = keras.Input((SIDE, SIDE, 3))
    return keras.Model([outer], inner([outer]))


def operations() -> Any:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = (pixels / 127.5 - 1)[..., ::-1]
    x = keras.ops.relu(convolution(4, "first")(x))
    return keras.Model(pixels, keras.ops.softmax(layers.Dense(3, name="scores")(layers.Flatten()(x))))


def layers_of_training() -> Any:
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.RandomFlip(),
            convolution(4, "first"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )


def odd_names() -> Any:
    """Names that scopes of TensorFlow do not take at their top, and two that differ in case alone."""
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(3, 3, name="_hidden")(pixels)
    x = layers.Conv2D(3, 3, name="CONV")(layers.Conv2D(3, 3, name="conv")(x))
    return keras.Model(pixels, layers.GlobalAveragePooling2D(name="mean>all")(x))


MAKERS = [
    functional,
    sequential,
    nested,
    shared_layer,
    shared_model,
    equal_names,
    input_in_a_list,
    operations,
    layers_of_training,
    odd_names,
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_run_equals_the_model(make: Any) -> None:
    model = make()
    expected = model.predict(IMAGES, verbose=0)
    graph = graph_of(model)
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(graph.run(IMAGES), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, atol=1e-6, err_msg="the model changed")


@pytest.mark.parametrize("make", MAKERS)
def test_calls_are_in_order_and_names_are_unique(make: Any) -> None:
    graph = graph_of(make())
    made = {graph.input}
    for call in graph.calls:
        assert set(call.inputs) <= made, call.name
        made.update(call.outputs)
        assert not isinstance(call.layer, keras.Model)
    assert graph.output in made
    names = [call.name.lower() for call in graph.calls]
    assert len(set(names)) == len(names)
    assert graph.input_shape == (SIDE, SIDE, 3)


def names(graph: Graph) -> list[str]:
    return [call.name for call in graph.calls]


def test_names() -> None:
    assert names(graph_of(functional())) == ["first", "beside", "sum", "mean", "scores"]
    inside = names(graph_of(nested()))
    assert [name for name in inside if name in ("first", "inmost", "rectified", "scores")] == [
        "first",
        "inmost",
        "rectified",
        "scores",
    ]
    assert names(graph_of(shared_layer()))[:2] == ["again", "again.2"]
    assert [name for name in names(graph_of(equal_names())) if "conv" in name] == ["conv", "right.conv"]
    assert names(graph_of(odd_names())) == ["layer_hidden", "conv", "CONV.2", "mean_all"]


def test_a_shared_layer_stays_one_layer() -> None:
    first, second = graph_of(shared_layer()).calls[:2]
    assert first.layer is second.layer
    assert second.inputs == first.outputs


def test_visit_sees_every_call_and_replaces_what_it_returns() -> None:
    graph = graph_of(functional())
    seen: dict[str, Any] = {}

    def zeros_from_first(call: Any, result: Any) -> Any:
        seen[call.name] = result
        return result * 0 if call.name == "first" else result

    answers = graph.run(IMAGES, zeros_from_first)
    assert list(seen) == names(graph)
    assert float(np.abs(seen["first"]).max()) > 0
    np.testing.assert_allclose(answers, np.repeat(np.asarray(answers)[:1], len(IMAGES), axis=0), atol=1e-6)


def test_readers_and_relu_behind_a_layer() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.ReLU(name="rectified")(layers.Conv2D(4, 3, name="alone")(pixels))
    y = layers.Conv2D(4, 3, padding="same", name="read_twice")(x)
    y = layers.Add(name="sum")([layers.ReLU()(y), y])
    y = layers.LeakyReLU(name="leaky")(layers.Conv2D(4, 3, name="before_leaky")(y))
    scores = layers.Dense(3, name="scores")(layers.GlobalAveragePooling2D()(y))
    graph = graph_of(keras.Model(pixels, layers.Softmax(name="probabilities")(scores)))
    activated = {name: call.name for name, call in graph.activated.items()}
    assert activated == {
        "alone": "rectified",
        "read_twice": "read_twice",
        "before_leaky": "before_leaky",
        "scores": "scores",
    }
    assert {call.name for call in graph.readers(graph.call("read_twice").output)} >= {"sum"}
    assert graph.only_reader(graph.call("read_twice").output) is None
    assert graph.only_reader(graph.output) is None
    assert graph.logits == graph.call("scores").output
    assert not graph.is_chain


def test_chains() -> None:
    graph = graph_of(sequential())
    assert graph.is_chain
    assert graph.logits == graph.output
    assert not graph_of(equal_names()).is_chain


def test_a_model_of_its_own_class_is_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.scores = layers.Dense(3)

        def call(self, pixels: Any) -> Any:
            return self.scores(keras.ops.mean(pixels, axis=(1, 2)))

    own = Own()
    with pytest.raises(ArtefactError, match=r"expected a model that takes one image .* but own takes"):
        graph_of(own)
    pixels = keras.Input((SIDE, SIDE, 3))
    with pytest.raises(ArtefactError, match="expected a functional or sequential model, but own is a Own of its own"):
        graph_of(keras.Model(pixels, own(pixels)))


def two_outputs() -> Any:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Flatten()(pixels)
    return keras.Model(pixels, [layers.Dense(3)(x), layers.Dense(2)(x)], name="two")


def two_inputs() -> Any:
    pixels, other = keras.Input((SIDE, SIDE, 3)), keras.Input((SIDE, SIDE, 3))
    return keras.Model([pixels, other], layers.Flatten()(layers.Add()([pixels, other])))


def open_size() -> Any:
    pixels = keras.Input((None, None, 3))
    return keras.Model(pixels, layers.GlobalAveragePooling2D()(pixels))


def numbers() -> Any:
    pixels = keras.Input((12,))
    return keras.Model(pixels, layers.Dense(3)(pixels))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (two_outputs, "expected one output of the model, but two has 2; keep the class scores"),
        (two_inputs, "expected a model that takes one image"),
        (open_size, r"expected an input of a fixed size, but .* takes \(None, None, 3\); save the model with"),
        (numbers, r"expected a model that takes one image .* takes \[\(12,\)\]"),
    ],
)
def test_what_is_no_classifier_of_one_image_is_refused(make: Any, says: str) -> None:
    with pytest.raises(ArtefactError, match=says) as caught:
        graph_of(make())
    assert "\n" not in str(caught.value)
