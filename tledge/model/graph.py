"""Any Keras classifier as a list of layer calls: nested models unwrapped, layers by name, chains and branches alike."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import ArtefactError

if TYPE_CHECKING:
    import keras

MATRIX_LAYERS = ("Conv2D", "DepthwiseConv2D", "Dense")
"""Layers that multiply by a kernel: what int8 makes smaller and faster."""

_FUSED_ACTIVATIONS = ("relu", "relu6", "clipped_relu")


@dataclass(frozen=True)
class Value:
    """A tensor of a graph."""

    number: int


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    `name` is the layer's, made unique where a layer is called twice or two nested models use the same name. `args` and
    `kwargs` are those of the call, with a `Value` for each tensor; `outputs` are what it returned, flattened.
    """

    name: str
    layer: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Value, ...]

    @property
    def kind(self) -> str:
        """The layer's class."""
        return type(self.layer).__name__

    @cached_property
    def inputs(self) -> tuple[Value, ...]:
        """Tensors that the call reads."""
        _, keras = require_tensorflow()
        leaves = keras.tree.flatten((self.args, dict(self.kwargs)))
        return tuple(leaf for leaf in leaves if isinstance(leaf, Value))

    @property
    def output(self) -> Value:
        """The one tensor that the call returns."""
        [output] = self.outputs
        return output

    def apply(self, values: Mapping[Value, Any]) -> Any:
        """What the layer returns for these tensors."""
        tf, _ = require_tensorflow()
        args, kwargs = _with_values((self.args, dict(self.kwargs)), values)
        # TensorFlow's converter and tf2onnx name tensors after scopes: the first part of a name is the call.
        with tf.name_scope(self.name):
            return self.layer(*args, **kwargs)

    def reading(self, renamed: Mapping[Value, Value]) -> Call:
        """The same call, reading other tensors."""
        args, kwargs = _with_values((self.args, dict(self.kwargs)), renamed)
        return replace(self, args=args, kwargs=kwargs)


def _with_values(structure: Any, values: Mapping[Value, Any]) -> Any:
    """Arguments with each `Value` replaced by what `values` has for it, if anything."""
    _, keras = require_tensorflow()
    return keras.tree.map_structure(lambda leaf: values.get(leaf, leaf) if isinstance(leaf, Value) else leaf, structure)


@dataclass(frozen=True)
class Graph:
    """A model with one image as input and one tensor as output; `calls` are in an order that can be run.

    `input_shape` is (height, width, channels).
    """

    input_shape: tuple[int, int, int]
    input: Value
    calls: tuple[Call, ...]
    output: Value

    def run(self, image: Any, visit: Callable[[Call, Any], Any] | None = None) -> Any:
        """Apply the model to a batch of images.

        Args:
            image: (N, H, W, C) tensor of TensorFlow or of Keras.
            visit: called with every call and what its layer returned; what it returns is used in its place.

        Returns:
            The model's output.
        """
        return self.values(image, visit)[self.output]

    def values(self, image: Any, visit: Callable[[Call, Any], Any] | None = None) -> dict[Value, Any]:
        """Every tensor of the graph for a batch of images; arguments as for `run`."""
        _, keras = require_tensorflow()
        values: dict[Value, Any] = {self.input: image}
        for call in self.calls:
            result = call.apply(values)
            if visit is not None:
                result = visit(call, result)
            values.update(zip(call.outputs, keras.tree.flatten(result), strict=True))
        return values

    @property
    def last_number(self) -> int:
        """The highest number of a value: those above it are free for new ones."""
        return max(value.number for call in self.calls for value in (self.input, *call.inputs, *call.outputs))

    def call(self, name: str) -> Call:
        """The call of a name."""
        return next(call for call in self.calls if call.name == name)

    @cached_property
    def _readers(self) -> Mapping[Value, tuple[Call, ...]]:
        readers: dict[Value, tuple[Call, ...]] = {}
        for call in self.calls:
            for value in call.inputs:
                readers[value] = (*readers.get(value, ()), call)
        return readers

    def readers(self, value: Value) -> tuple[Call, ...]:
        """Calls that read a tensor."""
        return self._readers.get(value, ())

    def only_reader(self, value: Value) -> Call | None:
        """The call that alone reads a tensor; None if there are several, or if it is the graph's output."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value != self.output else None

    @property
    def matrix_layers(self) -> tuple[str, ...]:
        """Names of the convolutions and dense layers, in the order of the calls."""
        return tuple(call.name for call in self.calls if call.kind in MATRIX_LAYERS)

    @cached_property
    def activated(self) -> Mapping[str, Call]:
        """By convolution or dense layer the call whose output runtimes give as the layer's: its own or its ReLU's."""
        calls = (self.call(name) for name in self.matrix_layers)
        return {call.name: self.relu_of(call) or call for call in calls}

    def relu_of(self, call: Call) -> Call | None:
        """The ReLU that alone reads what a call returns, which runtimes compute with it; None if there is none."""
        reader = self.only_reader(call.output)
        return reader if reader is not None and activation_of(reader) in _FUSED_ACTIVATIONS else None

    @property
    def logits(self) -> Value:
        """The class scores before the softmax, if the graph ends in one; else its output."""
        last = next(call for call in self.calls if self.output in call.outputs)
        return last.inputs[0] if activation_of(last) == "softmax" else self.output

    @property
    def is_chain(self) -> bool:
        """Whether every call reads what the one before returned."""
        before = self.input
        for call in self.calls:
            if call.inputs != (before,) or len(call.outputs) != 1:
                return False
            before = call.output
        return before == self.output


def activation_of(call: Call) -> str | None:
    """The function of a call that is nothing but an activation; None for any other call.

    By Keras's name, and `clipped_relu` for a ReLU with another maximum than 6.
    """
    if call.kind == "Activation":
        return str(call.layer.activation.__name__)
    if call.kind == "ReLU" and not call.layer.negative_slope and not call.layer.threshold:
        return {None: "relu", 6: "relu6"}.get(call.layer.max_value, "clipped_relu")
    return "softmax" if call.kind == "Softmax" and getattr(call.layer, "axis", None) == -1 else None


def graph_of(model: keras.Model) -> Graph:
    """Unwrap a model into the calls of its layers.

    The layers are the model's own; they are called once more symbolically, after which `layer.output` is ambiguous.

    Args:
        model: functional or sequential, one image in, one tensor out; models inside it likewise.

    Raises:
        ArtefactError: another kind of model, several inputs or outputs, or an input that is no image of a fixed size.
    """
    _, keras = require_tensorflow()
    shape = _image_shape(model)
    if len(model.outputs) != 1:
        raise ArtefactError(
            f"expected one output of the model, but {model.name} has {len(model.outputs)}; keep the class scores"
        )
    recorder = _Recorder()
    image = recorder.value(keras.Input(shape, name="image"))
    output = recorder.inside(model, image)
    return Graph(shape, image, tuple(recorder.calls), output)


def _image_shape(model: keras.Model) -> tuple[int, int, int]:
    inputs: list[Any] = getattr(model, "inputs", None) or []
    shape: tuple[int | None, ...] = tuple(inputs[0].shape) if len(inputs) == 1 else ()
    if len(shape) != 4:
        raise ArtefactError(
            f"expected a model that takes one image (height, width, channels), but {model.name} takes "
            f"{[tuple(tensor.shape[1:]) for tensor in inputs]}; use an image classifier"
        )
    _, height, width, channels = shape
    if not (height and width and channels):
        raise ArtefactError(
            f"expected an input of a fixed size, but {model.name} takes {shape[1:]}; save the model with "
            "`Input((height, width, 3))`"
        )
    return int(height), int(width), int(channels)


def _augments(layer: Any) -> bool:
    """Whether a layer behaves as in training unless it is told otherwise, as random augmentation does."""
    training = inspect.signature(layer.call).parameters.get("training")
    return training is not None and training.default is True


class _Recorder:
    """Calls layers on symbolic tensors and writes down which read what."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._numbers: dict[int, Value] = {}
        self._alive: list[Any] = []  # an id is a tensor's as long as the tensor lives
        self._names: set[str] = set()
        self._path: list[str] = []

    def value(self, tensor: Any) -> Value:
        if id(tensor) not in self._numbers:
            self._alive.append(tensor)
            self._numbers[id(tensor)] = Value(len(self._numbers))
        return self._numbers[id(tensor)]

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        _, keras = require_tensorflow()
        if isinstance(layer, keras.Model):
            [image] = keras.tree.flatten(args[0])
            inside = self.inside(layer, self.value(image))
            # Outside, the model stands as one call, so that the tensors around it stay connected.
            result = layer(*args, **kwargs)
            self._alive.append(result)
            self._numbers[id(result)] = inside
            return result
        result = layer(*args, **kwargs)
        if "training" in kwargs or _augments(layer):
            kwargs = {**kwargs, "training": False}
        tensor = keras.KerasTensor
        recorded_args, recorded_kwargs = keras.tree.map_structure(
            lambda leaf: self.value(leaf) if isinstance(leaf, tensor) else leaf, (args, kwargs)
        )
        outputs = tuple(self.value(output) for output in keras.tree.flatten(result))
        self.calls.append(Call(self._unique(layer.name), layer, recorded_args, recorded_kwargs, outputs))
        return result

    def inside(self, model: Any, image: Value) -> Value:
        """Record the calls of a model that reads `image`; returns its output."""
        _, keras = require_tensorflow()
        if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
            raise ArtefactError(
                f"expected a functional or sequential model, but {model.name} is a {type(model).__name__} of its "
                "own; rebuild it with `keras.Model(inputs, outputs)`"
            )
        x = keras.Input(batch_shape=model.inputs[0].shape)
        self._alive.append(x)
        self._numbers[id(x)] = image
        self._path.append(model.name)
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                x = self.call(layer, x)
        else:
            # The one public way to see every call of a functional model.
            tensors = keras.tree.map_structure(lambda _: x, model.input)
            [x] = keras.models.clone_model(
                model, input_tensors=tensors, clone_function=lambda layer: layer, call_function=self.call
            ).outputs
        self._path.pop()
        return self.value(x)

    def _unique(self, name: str) -> str:
        # Names become scopes of TensorFlow, which knows fewer characters and compares without case.
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        name = name if name[0].isalnum() else f"layer{name}"
        found = name
        if found.lower() in self._names and self._path[1:]:
            found = name = f"{self._path[-1]}.{name}"
        count = 2
        while found.lower() in self._names:
            found, count = f"{name}.{count}", count + 1
        self._names.add(found.lower())
        return found
