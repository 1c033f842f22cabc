"""ONNX: tf2onnx once, for float32; int8 and other forms are made from that graph."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.conversion.calibration import PIXELS, Calibration, Fingerprint, FloatModel, Range, extended
from tledge.conversion.format import ExportRequest, Format
from tledge.conversion.onnx_int8 import quantize
from tledge.conversion.onnx_passes import INPUT, PASSES, Editor, free_reshapes, mixes_batch
from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.foreign import foreign
from tledge.core.types import Images, Json
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

    def __init__(self, proto: onnx.ModelProto) -> None:
        super().__init__()
        self.proto = proto

    def _held(self, calibration: Calibration) -> dict[str, Range | None]:
        names = [name for node in self.proto.graph.node for name in node.output]
        values = self._putting_out(names).run(names, {INPUT: calibration.shown.astype(np.float32)})
        held = {name: calibration.of(Fingerprint.of(value)) for name, value in zip(names, values, strict=True)}
        # Read by a node that rounds where nothing of the pixels went into a first convolution.
        held[INPUT] = calibration.ranges[PIXELS]
        for node in self.proto.graph.node:
            if node.op_type in _CLAMPS:
                # What goes into a ReLU is inside its layer and was not measured; rounding clamps it as well.
                held[node.input[0]] = held[node.output[0]]
        return held

    def _measured(self, names: Sequence[str], images: Images) -> dict[str, Range]:
        session, found = self._putting_out(names), dict[str, Range]()
        for image in images:
            for name, values in zip(names, session.run(names, {INPUT: image[None].astype(np.float32)}), strict=True):
                found[name] = extended(found.get(name), values)
        return found

    def _putting_out(self, names: Sequence[str]) -> Any:
        watched = require("onnx").ModelProto()
        watched.CopyFrom(self.proto)
        return session_putting_out(watched, names)


def float_model(graph: Graph) -> OnnxModel:
    """Convert a graph to float32 with tf2onnx and clean it up.

    Returns:
        A checked model from `image` (N, H, W, C) float32 0..255 to `probability` (N, C) float32, N dynamic.

    Raises:
        ArtefactError: tf2onnx cannot convert it.
    """
    with foreign(_refused), quiet():
        proto = _converted(graph, batch=1)
        if mixes_batch(proto):
            free_reshapes(proto, _converted(graph, batch=2))
    layers = frozenset(call.name for call in graph.calls)
    for apply in PASSES:
        apply(Editor(proto, layers))
    with foreign(_refused):
        return OnnxModel(_finished(proto, graph))


def _refused(reason: str) -> ArtefactError:
    return ArtefactError(
        f"expected a model that tf2onnx converts, but it does not: {reason}; export .tflite recipes alone, or replace "
        "the layer"
    )


def _converted(graph: Graph, batch: int) -> onnx.ModelProto:
    """A graph for a batch of this size, as tf2onnx and onnxslim leave it.

    Large kernels are inputs of the function that tf2onnx sees and become constants afterwards: it copies constants
    many times over, and names of inputs survive.
    """
    tf, keras = require_tensorflow()
    kernels = {f"{call.name}.kernel": call.layer.kernel for call in graph.calls if call.kind in ("Conv2D", "Dense")}
    inputs = {id(variable) for variable in kernels.values()}
    small = [
        (variable, variable.numpy())
        for call in graph.calls
        for variable in getattr(call.layer, "variables", ())
        if id(variable) not in inputs
    ]
    signature = [
        tf.TensorSpec((batch, *graph.input_shape), tf.float32, name=INPUT),
        *(tf.TensorSpec(kernel.shape, tf.float32, name=name) for name, kernel in kernels.items()),
    ]

    def run(image: Any, *values: Any) -> dict[str, Any]:
        mapping = [*zip(kernels.values(), values, strict=True), *((variable, tf.constant(v)) for variable, v in small)]
        with keras.StatelessScope(state_mapping=mapping), _functions_inlined(tf):
            return {"probability": graph.run(image)}

    proto, _ = require("tf2onnx.convert").from_function(
        tf.function(run, input_signature=signature, autograph=False),
        input_signature=signature,
        opset=OPSET,
        custom_rewriter=[_scalars_as_vectors, _of_known_operators],
    )
    _bind(proto, {name: kernel.numpy() for name, kernel in kernels.items()})
    return require("onnxslim").slim(proto)


@contextlib.contextmanager
def _functions_inlined(tf: Any) -> Iterator[None]:
    """Keras computes grouped convolutions in a function that XLA compiles, which tf2onnx leaves as a call of it."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


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


def _of_known_operators(graph: Any, _: Sequence[Any]) -> Any:
    """A rewriter for tf2onnx 1.17, which writes two functions of TensorFlow as operators that ONNX does not have.

    erfc(x) is 1 - erf(x), expm1(x) is exp(x) - 1. Inside activations (GELU, CELU) the digits that this costs are lost
    in the sums that follow anyway.
    """
    for node in list(graph.get_nodes()):
        if node.type not in ("Erfc", "Expm1"):
            continue
        [output], typed = (
            node.output,
            {"shapes": [graph.get_shape(node.output[0])], "dtypes": [graph.get_dtype(node.output[0])]},
        )
        graph.remove_node(node.name)
        inner = graph.make_node("Erf" if node.type == "Erfc" else "Exp", node.input, name=f"{node.name}/inner", **typed)
        one = graph.make_const(f"{node.name}/one", np.ones(1, np.float32))
        operands = [one.output[0], inner.output[0]] if node.type == "Erfc" else [inner.output[0], one.output[0]]
        graph.make_node("Sub", operands, outputs=[output], name=node.name, **typed)
    return graph.get_nodes()


def _bind(proto: onnx.ModelProto, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Make constants of inputs."""
    from_array = require("onnx").numpy_helper.from_array
    free = [tensor for tensor in proto.graph.input if tensor.name not in values]
    del proto.graph.input[:]
    proto.graph.input.extend(free)
    proto.graph.initializer.extend(from_array(value, name) for name, value in values.items())


def _finished(proto: onnx.ModelProto, graph: Graph) -> onnx.ModelProto:
    """The same graph in a new model of its own: any batch, nothing of the tools it passed through."""
    onnx = require("onnx")
    tensor, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    classes = proto.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    constants = {constant.name: constant for constant in proto.graph.initializer}
    used = dict.fromkeys(name for node in proto.graph.node for name in node.input if name in constants)
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            list(proto.graph.node),
            "classifier",
            [tensor(INPUT, float32, ["N", *graph.input_shape])],
            [tensor(proto.graph.output[0].name, float32, ["N", classes])],
            [constants[name] for name in used],
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
