"""Small classifiers with what nets for phones are made of, for tests of conversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

layers = keras.layers

SIDE = 32
CLASSES = 3
LABELS = ("first", "second", "third")


def images_of(count: int, seed: int = 7) -> np.ndarray:
    """Images with areas of a colour and noise upon them: a mean over one still differs from that over another."""
    rng = np.random.default_rng(seed)
    areas = rng.integers(0, 256, (count, 4, 4, 3)).repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
    return np.clip(areas + rng.integers(-30, 31, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def _ended(pixels: Any, x: Any) -> Any:
    """A head behind `x`, and averages of normalization as if trained."""
    scores = layers.Dense(CLASSES, name="prediction")
    mean = layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(pixels, scores(mean))
    images = images_of(8, seed=1).astype(np.float32)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)
    # Answers that differ from image to image, or equality would prove nothing.
    scores.kernel.assign(scores.kernel / np.std(model(images), axis=0).mean())
    scores.activation = keras.activations.softmax
    return keras.Model(pixels, scores(mean))


def _start(seed: int) -> tuple[Any, Any]:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIDE, SIDE, 3), name="pixels")
    return pixels, layers.Rescaling(1 / 127.5, offset=-1)(pixels)


def _convolution(x: Any, filters: int, name: str, **options: Any) -> Any:
    return layers.Conv2D(filters, 3, padding="same", name=name, **options)(x)


def chain(seed: int = 0) -> Any:
    """Convolutions, poolings, flatten, two dense layers."""
    pixels, x = _start(seed)
    x = layers.MaxPooling2D(name="pool1")(_convolution(x, 8, "conv1", activation="relu"))
    x = layers.MaxPooling2D(name="pool2")(_convolution(x, 8, "conv2", activation="relu"))
    x = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten(name="flat")(x))
    return keras.Model(pixels, layers.Dense(CLASSES, activation="softmax", name="prediction")(x))


def branches(seed: int = 0) -> Any:
    """Two branches that are joined, as in Inception."""
    pixels, x = _start(seed)
    x = _convolution(x, 8, "stem", strides=2, activation="relu")
    left = _convolution(x, 4, "left", activation="relu")
    right = layers.Conv2D(4, 1, activation="relu", name="right")(layers.AveragePooling2D(3, 1, padding="same")(x))
    return _ended(pixels, layers.Concatenate(name="joined")([left, right]))


def residual(seed: int = 0) -> Any:
    """A sum of what went around with what went through, normalized, as in ResNet."""
    pixels, x = _start(seed)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization()(_convolution(x, 8, "stem", strides=2)))
    y = layers.ReLU(name="inner_relu")(layers.BatchNormalization()(_convolution(x, 8, "inner1", use_bias=False)))
    y = layers.BatchNormalization()(_convolution(y, 8, "inner2", use_bias=False))
    return _ended(pixels, layers.ReLU(name="outer_relu")(layers.Add(name="sum")([x, y])))


def depthwise(seed: int = 0) -> Any:
    """An inverted residual of MobileNetV2: 1 x 1, depthwise with zeros around, 1 x 1 without activation."""
    pixels, x = _start(seed)
    x = layers.ReLU(6.0, name="stem_relu6")(layers.BatchNormalization()(_convolution(x, 6, "stem", strides=2)))
    y = layers.Conv2D(12, 1, use_bias=False, name="expand")(x)
    y = layers.ReLU(6.0, name="expand_relu6")(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(layers.ZeroPadding2D(1, name="pad")(y))
    y = layers.ReLU(6.0, name="depthwise_relu6")(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(6, 1, use_bias=False, name="project")(y))
    return _ended(pixels, layers.Add(name="sum")([x, y]))


def separable(seed: int = 3) -> Any:
    """Separable convolutions of Xception and NASNet, one of them called twice."""
    pixels, x = _start(seed)
    x = layers.SeparableConv2D(8, 3, strides=2, padding="same", activation="relu", name="stem")(x)
    y = layers.SeparableConv2D(8, 3, padding="same", use_bias=False, name="first")(x)
    y = layers.ReLU(name="first_relu")(layers.BatchNormalization()(y))
    again = layers.SeparableConv2D(8, 5, padding="same", depth_multiplier=2, activation="swish", name="again")
    return _ended(pixels, layers.Add(name="sum")([x, again(again(y))]))


def hard_swish(seed: int = 0) -> Any:
    """Hard swish as MobileNetV3 of Keras writes it: an activation here, a product of layers there."""
    pixels, x = _start(seed)
    x = _convolution(x, 8, "stem", strides=2, activation="hard_swish")
    x = layers.BatchNormalization()(_convolution(x, 8, "second"))
    gate = layers.Rescaling(1 / 6)(layers.ReLU(6.0)(layers.Rescaling(1.0, offset=3.0)(x)))
    return _ended(pixels, layers.Multiply(name="product")([x, gate]))


def squeeze_excite(seed: int = 0) -> Any:
    """Channels weighed by a sigmoid of their means, as in EfficientNet, and its swish."""
    pixels, x = _start(seed)
    x = _convolution(x, 8, "stem", strides=2, activation="swish")
    weights = layers.Reshape((1, 1, 8), name="reshaped")(layers.GlobalAveragePooling2D(name="squeeze")(x))
    weights = layers.Conv2D(4, 1, activation="swish", name="reduce")(weights)
    weights = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(weights)
    x = layers.Multiply(name="weighed")([x, weights])
    return _ended(pixels, layers.Conv2D(8, 1, activation="relu", name="last")(x))


def global_maximum(seed: int = 0) -> Any:
    """The largest value of each channel, normalized where no convolution takes the normalization in."""
    pixels, x = _start(seed)
    x = layers.BatchNormalization()(_convolution(x, 8, "stem", strides=2, activation="relu"))
    x = layers.GlobalMaxPooling2D(name="largest")(_convolution(x, 16, "second", activation="relu"))
    return keras.Model(pixels, layers.Dense(CLASSES, activation="softmax", name="prediction")(x))


def grouped(seed: int = 0) -> Any:
    """A block of ConvNeXt: one filter a channel, normalized over channels, dense layers around GELU, added."""
    pixels, x = _start(seed)
    x = layers.LayerNormalization(name="first_norm")(_convolution(x, 8, "stem", strides=2))
    # Zero mean already: what the second normalization subtracts is nothing but last digits.
    y = layers.LayerNormalization(name="second_norm")(x)
    y = layers.Conv2D(8, 7, padding="same", groups=8, name="grouped")(y)
    y = layers.Dense(16, activation="gelu", name="wide")(layers.LayerNormalization(name="third_norm")(y))
    return _ended(pixels, layers.Add(name="sum")([x, layers.Dense(8, name="narrow")(y)]))


def attention(seed: int = 0) -> Any:
    """A block of a vision transformer: positions that look at each other, heads folded into the batch."""
    pixels, x = _start(seed)
    x = layers.Reshape((64, 8), name="positions")(layers.Conv2D(8, 4, strides=4, name="patches")(x))
    y = layers.LayerNormalization(name="norm")(x)
    x = layers.Add(name="attended")([x, layers.MultiHeadAttention(2, 4, name="attention")(y, y)])
    x = layers.Dense(8, activation="gelu", name="wide")(x)
    return _ended(pixels, layers.Reshape((8, 8, 8), name="places")(x))


def activations(seed: int = 0) -> Any:
    """Activations that TFLite or ONNX has no operator for, and a split."""
    pixels, x = _start(seed)
    x = _convolution(x, 8, "stem", strides=2, activation="selu")
    x = layers.GroupNormalization(4, name="groups")(_convolution(x, 8, "second", activation="celu"))
    x, y = keras.ops.split(_convolution(x, 8, "third", activation="mish"), 2, axis=-1)
    return _ended(pixels, layers.Concatenate(name="joined")([x, layers.Activation("softsign", name="squashed")(y)]))


MAKERS: dict[str, Callable[..., Any]] = {
    "chain": chain,
    "branches": branches,
    "residual": residual,
    "depthwise": depthwise,
    "separable": separable,
    "hard-swish": hard_swish,
    "squeeze-excite": squeeze_excite,
    "global-maximum": global_maximum,
}
SPLIT: dict[str, Callable[..., Any]] = {"grouped": grouped, "attention": attention, "activations": activations}
"""Layers that converters write as several operators, so that files have tensors which the model does not."""


def tensors_of_onnx(proto: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """What onnxruntime computes for every tensor of a graph."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    names = [name for node in proto.graph.node for name in node.output]
    kept = {output.name for output in proto.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in kept)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {"image": images.astype(np.float32)}), strict=True))


def tensors_of_tflite(content: bytes, images: np.ndarray) -> dict[str, np.ndarray]:
    """What LiteRT computes for every tensor of a float file that is no weight."""
    from ai_edge_litert import interpreter as litert

    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(
        model_content=content, experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain
    )
    interpreter.allocate_tensors()
    made = {int(index) for op in interpreter._get_ops_details() for index in op["outputs"]}
    indices = {d["name"]: d["index"] for d in interpreter.get_tensor_details() if d["index"] in made}
    found: dict[str, list[np.ndarray]] = {name: [] for name in indices}
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None].astype(np.float32))
        interpreter.invoke()
        for name, index in indices.items():
            found[name].append(np.array(interpreter.get_tensor(index)))
    return {name: np.stack(values) for name, values in found.items()}
