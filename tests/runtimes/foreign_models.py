"""Models as other tools write them: a thin VGG16 without preprocessing, and smaller ones for refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tledge.model.vgg16 import BLOCKS

SIDE = 32
CLASSES = 3


def pictures(count: int = 6, side: int = SIDE) -> np.ndarray:
    """Coloured patches whose channels differ, so that a wrong order of them shows."""
    patches = np.random.default_rng(5).integers(0, 256, (count, 4, 4, 3), np.uint8)
    patches[0, 0, 0], patches[1, 0, 0] = 0, 255
    return patches.repeat(side // 4, 1).repeat(side // 4, 2)


def keras_vgg16(softmax: bool = True) -> Any:
    """A thin VGG16 with average pooling and three classes, random weights, spread scores for `pictures` of 0..1."""
    import keras

    pixels = x = keras.Input((SIDE, SIDE, 3), name="pixels")
    for block, widths in enumerate(BLOCKS, 1):
        for number, filters in enumerate(widths, 1):
            # Keras's own start lets the signal of 13 layers without normalisation fade away.
            start = keras.initializers.HeNormal(10 * block + number)
            layer = keras.layers.Conv2D(filters // 8, 3, padding="same", activation="relu", kernel_initializer=start)
            x = layer(x)
        x = keras.layers.MaxPooling2D()(x)
    trunk = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))
    features = np.asarray(trunk(pictures() / 255.0))
    kernel = np.random.default_rng(1).normal(size=(features.shape[1], CLASSES))
    scores = features @ kernel
    kernel /= scores.std()
    dense = keras.layers.Dense(CLASSES, activation="softmax" if softmax else None, name="scores")
    model = keras.Model(trunk.input, dense(trunk.output))
    dense.set_weights([kernel.astype(np.float32), -(features @ kernel).mean(0).astype(np.float32)])
    return model


def nchw_onnx(
    model: Any,
    path: Path,
    *,
    batch: int | str = "batch",
    side: int | str = SIDE,
    dtype: str = "FLOAT",
    divisor: float = 1.0,
    ending: tuple[str, ...] = ("Softmax",),
    external: bool = False,
) -> Path:
    """Write a chain of convolutions as PyTorch exports it: NCHW, kernels OIHW, (N, C, 1, 1) at the end.

    `divisor` divides the input inside the graph. `ending` are the nodes behind the scores.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Div", ["cast", "divisor"], ["x0"]))
    weights = [numpy_helper.from_array(np.float32(divisor), "divisor")]
    count = 0

    def add(op: str, *constants: np.ndarray, **attributes: Any) -> None:
        nonlocal count
        names = [f"c{count}_{i}" for i in range(len(constants))]
        weights.extend(numpy_helper.from_array(c, name) for c, name in zip(constants, names, strict=True))
        nodes.append(helper.make_node(op, [f"x{count}", *names], [f"x{count + 1}"], **attributes))
        count += 1

    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Conv2D":
            kernel, bias = layer.get_weights()
            add("Conv", np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)), bias, pads=[1, 1, 1, 1])
            add("Relu")
        elif kind == "MaxPooling2D":
            add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        elif kind == "GlobalAveragePooling2D":
            add("GlobalAveragePool")
        elif kind == "Dense":
            kernel, bias = layer.get_weights()
            add("Conv", np.ascontiguousarray(kernel.T[:, :, None, None]), bias)
    for op in ending:
        if op == "Softmax":
            add("Softmax", axis=1)
        elif op == "Sigmoid":
            add("Sigmoid")
        elif op == "Flatten":
            add("Flatten")
        elif op == "ReshapeToOne":
            add("Reshape", np.array([1, -1], np.int64))
        elif op == "CastToBytes":
            add("Cast", to=TensorProto.UINT8)
        elif op == "Widen":
            add("Tile", np.array([1, 1, 2, 2], np.int64))
        elif op == "ToNaN":
            add("Div", np.float32(0))
            add("Sub", np.float32(np.inf))
    shape = [batch, 3, side, side]
    output = TensorProto.UINT8 if "CastToBytes" in ending else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("pixels", getattr(TensorProto, dtype), shape)],
        [helper.make_tensor_value_info(f"x{count}", output, None)],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    if external:
        onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    else:
        onnx.save(proto, path)
    return path


def tflite(model: Any, path: Path, io: Any = None, calibration: np.ndarray | None = None) -> Path:
    """TensorFlow's converter and nothing else: float32, or full int8 with `io` as type of input and output."""
    import tensorflow as tf

    from tledge.core.dependencies import quiet

    with quiet():
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([v[None].astype(np.float32)] for v in calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = io
        path.write_bytes(converter.convert())
    return path


def small(
    shape: tuple[int | None, ...] = (SIDE, SIDE, 3),
    between: Callable[[Any], Any] = lambda x: x,
    classes: int = CLASSES,
    inputs: int = 1,
    outputs: int = 1,
    activation: str | None = "softmax",
) -> Any:
    """A model of one dense layer, for what does not depend on the architecture."""
    import keras

    keras.utils.set_random_seed(2)
    pixels = [keras.Input(shape) for _ in range(inputs)]
    x = between(pixels[0] if inputs == 1 else keras.layers.add(pixels))
    x = keras.layers.GlobalAveragePooling2D()(x)
    heads = [keras.layers.Dense(classes, activation=activation)(x) for _ in range(outputs)]
    return keras.Model(pixels if inputs > 1 else pixels[0], heads if outputs > 1 else heads[0])


def saved_model(model: Any, path: Path) -> Path:
    """Keras's own export for servers."""
    model.export(path, verbose=False)
    return path
