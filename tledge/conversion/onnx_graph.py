"""Write a Keras chain as an ONNX graph, one function per kind of layer.

VGG16 with either head is a plain chain of five kinds of layer, so each maps to one or two nodes. Written directly, the
graph needs no clean-up afterwards: one Transpose at the input (pixels come as N, H, W, C and onnxruntime computes
N, C, H, W), a Flatten that keeps the batch dynamic, and initialisers named after the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError

if TYPE_CHECKING:
    import keras
    import onnx

# The newest opset and IR version that onnxruntime 1.15 and onnxruntime-web of 2023 read as well.
OPSET = 17
IR_VERSION = 8
INPUT = "image"
OUTPUT = "probability"


@dataclass
class _Graph:
    """Nodes and initialisers so far, and the name and (C, H, W) shape of the last output."""

    last: str
    shape: tuple[int, ...]
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)

    def add(self, op: str, name: str, *inputs: str, output: str | None = None, **attributes: Any) -> None:
        """Append a node that takes the last output and `inputs`."""
        node = require("onnx").helper.make_node(op, [self.last, *inputs], [output or name], name=name, **attributes)
        self.nodes.append(node)
        self.last = node.output[0]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add an initialiser and return its name."""
        contiguous = np.ascontiguousarray(value)
        self.initializers.append(require("onnx").numpy_helper.from_array(contiguous, name))
        return name


def float_graph(model: keras.Model) -> onnx.ModelProto:
    """Write an inference model as a float32 ONNX graph.

    Args:
        model: what `tledge.model.inference.inference_model` returns.

    Returns:
        A checked model from `image` (N, S, S, 3) float32 0..255 to `probability` (N, C) float32, N dynamic.

    Raises:
        ArtefactError: a layer for which no ONNX form is written here.
    """
    onnx = require("onnx")
    side = model.input_shape[1]
    graph = _Graph(INPUT, (3, side, side))
    graph.add("Transpose", "to_channels_first", perm=[0, 3, 1, 2])
    for layer in model.layers[1:]:
        writer = _WRITERS.get(type(layer).__name__)
        if writer is None:
            raise ArtefactError(f"expected {', '.join(_WRITERS)} layers, but {layer.name} is a {type(layer).__name__}")
        writer(graph, layer)
    graph.nodes[-1].output[0] = OUTPUT
    tensor = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "vgg16",
            [tensor(INPUT, float32, ["N", side, side, 3])],
            [tensor(OUTPUT, float32, ["N", model.output_shape[-1]])],
            graph.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tledge",
    )
    onnx.checker.check_model(proto, full_check=True)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


def _rescaling(graph: _Graph, layer: Any) -> None:
    offset = np.asarray(layer.offset, np.float32).reshape(1, -1, 1, 1)
    graph.add("Add", layer.name, graph.constant(f"{layer.name}/offset", offset))


def _activation(graph: _Graph, layer: Any) -> None:
    name = layer.activation.__name__
    if name == "relu":
        graph.add("Relu", f"{layer.name}/relu")
    elif name == "softmax":
        graph.add("Softmax", f"{layer.name}/softmax", axis=1)
    elif name != "linear":
        raise ArtefactError(f"expected relu, softmax or linear, but {layer.name} has the activation {name}")


def _conv(graph: _Graph, layer: Any) -> None:
    kernel, bias = layer.get_weights()
    _, height, width = graph.shape
    if layer.strides != (1, 1) or layer.padding != "same":
        raise ArtefactError(
            f"expected stride 1 and same padding, but {layer.name} has {layer.strides}, {layer.padding}"
        )
    before = [(size - 1) // 2 for size in layer.kernel_size]
    after = [size - 1 - first for size, first in zip(layer.kernel_size, before, strict=True)]
    weights = graph.constant(f"{layer.name}/kernel", kernel.transpose(3, 2, 0, 1))
    graph.add("Conv", layer.name, weights, graph.constant(f"{layer.name}/bias", bias), pads=[*before, *after])
    graph.shape = (kernel.shape[3], height, width)
    _activation(graph, layer)


def _max_pool(graph: _Graph, layer: Any) -> None:
    channels, height, width = graph.shape
    (rows, columns), (down, right) = layer.pool_size, layer.strides
    graph.add("MaxPool", layer.name, kernel_shape=[rows, columns], strides=[down, right])
    graph.shape = (channels, (height - rows) // down + 1, (width - columns) // right + 1)


def _global_average(graph: _Graph, layer: Any) -> None:
    graph.add("GlobalAveragePool", layer.name)
    graph.add("Flatten", f"{layer.name}/flatten", axis=1)
    graph.shape = (graph.shape[0],)


def _flatten(graph: _Graph, layer: Any) -> None:
    graph.add("Flatten", layer.name, axis=1)


def _dense(graph: _Graph, layer: Any) -> None:
    kernel, bias = layer.get_weights()
    if len(graph.shape) == 3:
        # Keras flattened (H, W, C), this graph (C, H, W): reorder rows once, not every image.
        channels, height, width = graph.shape
        kernel = kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(len(kernel), -1)
    # Outputs first (transB): the layout for which onnxruntime quantizes a Gemm per channel.
    weights = graph.constant(f"{layer.name}/kernel", kernel.T)
    graph.add("Gemm", layer.name, weights, graph.constant(f"{layer.name}/bias", bias), transB=1)
    graph.shape = (kernel.shape[1],)
    _activation(graph, layer)


_WRITERS: dict[str, Callable[[_Graph, Any], None]] = {
    "Rescaling": _rescaling,
    "Conv2D": _conv,
    "MaxPooling2D": _max_pool,
    "GlobalAveragePooling2D": _global_average,
    "Flatten": _flatten,
    "Dense": _dense,
}
