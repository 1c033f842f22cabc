"""ONNX: tf2onnx once, for float32; int8 and other forms are made from that graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.conversion.calibration import Calibration, Fingerprint, FloatModel, Range
from tledge.conversion.format import ExportRequest, Format
from tledge.conversion.onnx_int8 import quantize
from tledge.conversion.onnx_passes import INPUT, PASSES, Editor
from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.types import Json
from tledge.formats.activation_probe import session_putting_out
from tledge.formats.operators import count_onnx_ops
from tledge.model.graph import Graph

if TYPE_CHECKING:
    import onnx

# The newest opset and IR version that onnxruntime 1.15 and onnxruntime-web of 2023 read as well.
OPSET = 17
IR_VERSION = 8
# Operators that change no range: the tensor before has that of the tensor behind.
_CLAMPS = ("Relu", "Clip")


class OnnxModel(FloatModel):
    """A model as tf2onnx and the passes wrote it."""

    WHAT = "the ONNX graph"

    def __init__(self, proto: onnx.ModelProto) -> None:
        super().__init__()
        self.proto = proto

    def _held(self, calibration: Calibration) -> dict[str, Range | None]:
        watched = require("onnx").ModelProto()
        watched.CopyFrom(self.proto)
        names = [name for node in self.proto.graph.node for name in node.output]
        values = session_putting_out(watched, names).run(names, {INPUT: calibration.images.astype(np.float32)})
        held = {name: calibration.of(Fingerprint.of(value)) for name, value in zip(names, values, strict=True)}
        for node in self.proto.graph.node:
            if node.op_type in _CLAMPS:
                # What goes into a ReLU is inside its layer and was not measured; rounding clamps it as well.
                held[node.input[0]] = held[node.output[0]]
        return held


def float_model(graph: Graph) -> OnnxModel:
    """Convert a graph to float32 with tf2onnx and clean it up.

    Large kernels are inputs of the function that tf2onnx sees and become constants afterwards: it copies constants
    many times over, and names of inputs survive.

    Returns:
        A checked model from `image` (N, H, W, C) float32 0..255 to `probability` (N, C) float32, N dynamic.
    """
    tf, keras = require_tensorflow()
    onnx = require("onnx")
    kernels = {f"{call.name}.kernel": call.layer.kernel for call in graph.calls if call.kind in ("Conv2D", "Dense")}
    inputs = {id(variable) for variable in kernels.values()}
    small = [
        (variable, variable.numpy())
        for call in graph.calls
        for variable in getattr(call.layer, "variables", ())
        if id(variable) not in inputs
    ]
    signature = [
        tf.TensorSpec((1, *graph.input_shape), tf.float32, name=INPUT),
        *(tf.TensorSpec(kernel.shape, tf.float32, name=name) for name, kernel in kernels.items()),
    ]

    def run(image: Any, *values: Any) -> dict[str, Any]:
        mapping = [*zip(kernels.values(), values, strict=True), *((variable, tf.constant(v)) for variable, v in small)]
        with keras.StatelessScope(state_mapping=mapping):
            return {"probability": graph.run(image)}

    with quiet():
        proto, _ = require("tf2onnx.convert").from_function(
            tf.function(run, input_signature=signature, autograph=False),
            input_signature=signature,
            opset=OPSET,
            custom_rewriter=[_scalars_as_vectors],
        )
        _bind(proto, {name: kernel.numpy() for name, kernel in kernels.items()})
        proto = require("onnxslim").slim(proto)
    layers = frozenset(call.name for call in graph.calls)
    for apply in PASSES:
        apply(Editor(proto, layers))
    return OnnxModel(_finished(onnx, proto, graph))


def _scalars_as_vectors(graph: Any, nodes: Sequence[Any]) -> Any:
    """A rewriter for tf2onnx 1.17, whose search for biases fails on constants without a dimension."""
    for node in nodes:
        if node.type in ("Add", "AddV2"):
            for index, operand in enumerate(node.inputs):
                if operand.is_const() and operand.get_tensor_value(as_list=False).ndim == 0:
                    value = operand.get_tensor_value(as_list=False).reshape(1)
                    name = require("tf2onnx").utils.make_name(operand.name)
                    graph.replace_input(node, node.input[index], graph.make_const(name, value).output[0], index)
    return graph.get_nodes()


def _bind(proto: onnx.ModelProto, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Make constants of inputs."""
    from_array = require("onnx").numpy_helper.from_array
    free = [tensor for tensor in proto.graph.input if tensor.name not in values]
    del proto.graph.input[:]
    proto.graph.input.extend(free)
    proto.graph.initializer.extend(from_array(value, name) for name, value in values.items())


def _finished(onnx: Any, proto: onnx.ModelProto, graph: Graph) -> onnx.ModelProto:
    """The same graph in a new model of its own: any batch, nothing of the tools it passed through."""
    tensor, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    classes = proto.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    used = {name for node in proto.graph.node for name in node.input}
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            list(proto.graph.node),
            "classifier",
            [tensor(INPUT, float32, ["N", *graph.input_shape])],
            [tensor(proto.graph.output[0].name, float32, ["N", classes])],
            [constant for constant in proto.graph.initializer if constant.name in used],
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tledge",
    )
    onnx.checker.check_model(made, full_check=True)
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def convert(request: ExportRequest) -> bytes:
    """Write a graph as ONNX.

    Returns:
        The file's content; float32 takes float32 pixels, int8 takes uint8 pixels, both 0..255, of any batch
        size unless the request fixes it.
    """
    onnx = require("onnx")
    model: OnnxModel = request.float_model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    if request.calibration is not None:
        ranges = model.ranges(request.calibration)
        proto = quantize(proto, ranges, reduce_range=request.reduce_range, float_layers=request.float_layers)
        _take_bytes(proto)
    if request.batch is not None:
        _fix_batch(proto, request.batch)
    _embed(proto, request)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _take_bytes(proto: onnx.ModelProto) -> None:
    """Let a QDQ graph take uint8 pixels: dequantizing with scale 1 and zero point 0 is their exact float value.

    It stands behind the transpose if the graph begins with one, which then moves bytes instead of floats.
    """
    onnx = require("onnx")
    graph = proto.graph
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    readers = [node for node in graph.node if INPUT in node.input]
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.0), "pixels/scale"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(0), "pixels/zero_point"))
    parameters = ["pixels/scale", "pixels/zero_point"]
    if [node.op_type for node in readers] == ["Transpose"]:
        [transpose] = readers
        widened = transpose.output[0]
        transpose.output[0] = f"{widened}/bytes"
        position = list(graph.node).index(transpose) + 1
        node = onnx.helper.make_node("DequantizeLinear", [transpose.output[0], *parameters], [widened], name="pixels")
    else:
        position = 0
        node = onnx.helper.make_node("DequantizeLinear", [INPUT, *parameters], ["pixels"], name="pixels")
        for reader in readers:
            for index, name in enumerate(reader.input):
                if name == INPUT:
                    reader.input[index] = "pixels"
    graph.node.insert(position, node)


def _fix_batch(proto: onnx.ModelProto, batch: int) -> None:
    """Fix the batch of input and output, which compiling execution providers (NNAPI, Core ML) ask for."""
    shapes = require("onnxruntime.tools.onnx_model_utils")
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    shapes.make_input_shape_fixed(proto.graph, INPUT, [batch, *(size.dim_value for size in sizes[1:])])
    shapes.fix_output_shapes(proto)


def _embed(proto: onnx.ModelProto, request: ExportRequest) -> None:
    preprocessing: Json = {"color": "RGB", "layout": "NHWC", "range": [0, 255], "mean": [0.0], "std": [1.0]}
    if "resize" in request.lineage:  # other than stretched
        preprocessing["resize"] = request.lineage["resize"]
    entries: Mapping[str, Any] = {
        "labels": list(request.labels),
        "preprocessing": preprocessing,
        "tledge": dict(request.lineage),
    }
    del proto.metadata_props[:]  # what the quantizer noted for itself
    for key, value in entries.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, sort_keys=True, ensure_ascii=False)


FORMAT: Format = Format(
    suffix=".onnx",
    precisions=("float32", "int8"),
    float_model=float_model,
    convert=convert,
    count_ops=count_onnx_ops,
    reduces_range=True,
    fixes_batch=True,
)
