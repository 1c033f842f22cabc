"""TFLite: TensorFlow's converter once, for float32; every other precision is quantized from that file.

LiteRT Quantizer rounds the float file with ranges that were measured elsewhere, so that a further file costs a second
instead of another conversion. What phone apps read, labels and normalisation, is added here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.conversion.calibration import PIXELS, Calibration, Fingerprint, FloatModel, Range, extended
from tledge.conversion.format import ExportRequest, Format
from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.foreign import foreign
from tledge.core.image_size import image_size
from tledge.core.types import INTEGER_PRECISIONS, PRECISIONS, Images, IntegerType, ResizeMode
from tledge.data.resizers import IN_WORDS
from tledge.formats.activation_probe import interpreter_keeping_tensors
from tledge.formats.operators import TFLITE_MATRIX_OPS, count_tflite_ops
from tledge.formats.tflite import operators_of, parse
from tledge.formats.tflite_metadata import ImageClassifierMetadata, finalize, pack
from tledge.model.graph import Graph
from tledge.model.ranges import LEVELS, WEIGHT_LEVELS

_LARGEST_INT16 = 32767
_LARGEST_BIAS = 0.9 * 2**31
_NEAR_POWER = 2e-3
_WIDER = 1.005


class TFLiteModel(FloatModel):
    """A model as TensorFlow's converter wrote it.

    Args:
        content: the file.
        layers: names of the calls it was converted from.
    """

    def __init__(self, content: bytes, layers: tuple[str, ...]) -> None:
        super().__init__()
        self.content = content
        self._layers = layers

    def _held(self, calibration: Calibration) -> dict[str, Range | None]:
        interpreter = interpreter_keeping_tensors(model_content=self.content)
        pixels = interpreter.get_input_details()[0]
        _run(interpreter, calibration.shown)
        held: dict[str, Range | None] = {pixels["name"]: calibration.ranges[PIXELS]}
        for name, index in self._float_tensors.items():
            held[name] = calibration.of(Fingerprint.of(interpreter.get_tensor(index).reshape(1, -1)))
        return held

    def _measured(self, names: Sequence[str], images: Images) -> dict[str, Range]:
        interpreter = interpreter_keeping_tensors(model_content=self.content)
        found: dict[str, Range] = {}
        for number in range(len(images)):
            _run(interpreter, images[number : number + 1])
            for name in names:
                found[name] = extended(found.get(name), interpreter.get_tensor(self._float_tensors[name]))
        return found

    @cached_property
    def _float_tensors(self) -> Mapping[str, int]:
        """By name the index of every tensor in float that an operator puts out."""
        made = (tensor for op in operators_of(self.content) for tensor in op.outputs)
        return {tensor.name: tensor.index for tensor in made if tensor.dtype == "FLOAT32"}

    @cached_property
    def outputs_by_layer(self) -> Mapping[str, str]:
        """By convolution or dense layer the output tensor of its operator."""
        return {
            layer: op.outputs[0].name
            for op in operators_of(self.content)
            if op.name in TFLITE_MATRIX_OPS
            for layer in self._layers
            if layer in op.layers
        }


def _run(interpreter: Any, image: Images) -> None:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.astype(np.float32))
    interpreter.invoke()


def float_model(graph: Graph) -> TFLiteModel:
    """Convert a graph to float32 with TensorFlow's converter."""
    tf, _ = require_tensorflow()
    module = tf.Module()
    module.variables_of_layers = [
        variable.value for call in graph.calls for variable in getattr(call.layer, "variables", ())
    ]
    module.run = tf.function(
        lambda image: {"probability": graph.run(image)},
        input_signature=[tf.TensorSpec((1, *graph.input_shape), tf.float32, name="image")],
        autograph=False,
    )
    with foreign(_refused), quiet():
        function = module.run.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        # Its note holds the time of conversion; the lineage says what the rest of it says.
        converter.exclude_conversion_metadata = True
        return TFLiteModel(bytes(converter.convert()), graph.matrix_layers)


def _refused(reason: str) -> ArtefactError:
    return ArtefactError(
        f"expected a model that TFLite can hold in this precision, but it cannot: {reason}; leave the recipe out, or "
        "replace the layer"
    )


def convert(request: ExportRequest) -> bytes:
    """Write a graph as TFLite.

    float16 stores half-precision weights, dynamic int8 weights but for depthwise convolutions; int8 is full integer
    with uint8 or int8 input and output (Jacob et al. 2018), int8x16 the same with activations of 16 bits and float32
    input and output.

    Returns:
        The file's content with labels, normalisation and lineage embedded.
    """
    model: TFLiteModel = request.float_model
    content = model.content if request.precision == "float32" else _quantized(model, request)
    mode: ResizeMode = request.lineage.get("resize", "stretch")
    metadata = ImageClassifierMetadata(
        name=request.name,
        description="Image classifier; takes raw RGB pixels, preprocessing is part of the model",
        version=str(request.lineage["tledge"]),
        image_size_px=image_size(*request.graph.input_shape[:2]),
        labels=request.labels,
        lineage=request.lineage,
        resizing="" if mode == "stretch" else IN_WORDS[mode],
    )
    return finalize(content, metadata)


def _quantized(model: TFLiteModel, request: ExportRequest) -> bytes:
    quantizer_module, types = require("litert_quantizer.quantizer"), require("litert_quantizer.qtyping")
    algorithms, operation = quantizer_module.AlgorithmName, types.TFLOperationName
    content, measured = model.content, {}
    bits = 16 if request.precision == "int8x16" else 8
    if request.precision in INTEGER_PRECISIONS:
        assert request.calibration is not None  # as `ExportRequest` says
        with foreign(_refused):
            measured = model.ranges(request.calibration)
        if bits == 16:
            measured = {name: _off_powers_of_two(limits) for name, limits in measured.items()}
        content = _with_room_for_biases(content, measured, bits)
    quantizer = quantizer_module.Quantizer(bytearray(content))
    ranges = None
    if request.precision == "float16":
        half = types.TensorQuantizationConfig(num_bits=16, dtype=types.TensorDataType.FLOAT)
        config = types.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=types.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        quantizer.update_quantization_recipe(".*", operation.ALL_SUPPORTED, config, algorithms.FLOAT_CASTING)
    elif request.precision == "dynamic":
        eight = types.TensorQuantizationConfig(num_bits=8, granularity=types.QuantGranularity.CHANNELWISE)
        config = types.OpQuantizationConfig(
            weight_tensor_config=eight, compute_precision=types.ComputePrecision.INTEGER
        )
        quantizer.update_quantization_recipe(".*", operation.ALL_SUPPORTED, config)
        # XNNPACK has no kernel for these in dynamic range, and LiteRT's own made MobileNetV2 30 times slower.
        quantizer.update_quantization_recipe(".*", operation.DEPTHWISE_CONV_2D, algorithm_key=algorithms.NO_QUANTIZE)
    else:
        _compute_in_integers(quantizer, bits, request.io)
        for layer in request.float_layers:
            name = re.escape(model.outputs_by_layer[layer])
            quantizer.update_quantization_recipe(
                f"^{name};?$", operation.ALL_SUPPORTED, algorithm_key=algorithms.NO_QUANTIZE
            )
        ranges = {
            name: {"min": np.array([[low]], np.float32), "max": np.array([[high]], np.float32)}
            for name, (low, high) in measured.items()
        }
    with foreign(_refused), quiet():
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _with_room_for_biases(content: bytes, ranges: Mapping[str, Range], bits: int) -> bytes:
    """Give each filter without weights worth the name one weight, so large that its bias fits into 32 bits.

    A bias is rounded in steps of the input's step times the filter's. Of a filter whose weights were all pruned, or
    whose batch normalization has a factor of almost 0, that is next to nothing: LiteRT Quantizer's cast overflows, and
    2.0 becomes -0.03. The weight adds at most 0.002 % of the bias to what the filter puts out, with activations of 16
    bits 0.3 %.

    Args:
        content: a float32 file.
        ranges: of every float tensor.
        bits: of activations.
    """
    tree, changed = parse(content), False
    tensors = tree.subgraphs[0].tensors
    for op in operators_of(content):
        if op.name not in TFLITE_MATRIX_OPS or len(op.inputs) != 3:
            continue
        pixels, kernel, bias = op.inputs
        buffer, bias_buffer = (tree.buffers[tensors[tensor.index].buffer] for tensor in (kernel, bias))
        if buffer.data is None or bias_buffer.data is None:
            continue
        weights = np.frombuffer(bytes(buffer.data), np.float32).reshape(kernel.shape)
        by_filter = weights.T if op.name == "DEPTHWISE_CONV_2D" else weights
        by_filter = by_filter.reshape(len(by_filter), -1).copy()
        least = _least_weights(np.frombuffer(bytes(bias_buffer.data), np.float32), ranges[pixels.name], bits)
        short = np.abs(by_filter).max(axis=1) < least
        if short.any():
            by_filter[short, 0] = least[short]
            shaped = by_filter.reshape(weights.T.shape).T if op.name == "DEPTHWISE_CONV_2D" else by_filter
            buffer.data = np.frombuffer(np.ascontiguousarray(shaped).tobytes(), np.uint8)
            changed = True
    return pack(tree, len(content)) if changed else content


def _least_weights(bias: NDArray[np.float32], limits: Range, bits: int) -> NDArray[np.float32]:
    """The least magnitude of each filter's largest weight with which its bias fits into 32 bits."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    step = (high - low) / LEVELS if bits == 8 else max(-low, high) / _LARGEST_INT16
    return np.abs(bias) * np.float32(WEIGHT_LEVELS / (_LARGEST_BIAS * step)) if step else np.zeros_like(bias)


def _off_powers_of_two(limits: Range) -> Range:
    """A range whose step in 16 bits is no power of two, by half a percent more where it would be.

    LiteRT adds 16-bit numbers by shifts if all three steps are within a thousandth of a power of two (`CheckedLog2`),
    and then refuses a sum whose step is smaller than those of its parts, such as pixels of 0..2 less 1.
    """
    low, high = limits
    largest = max(abs(low), abs(high))
    exponent = math.log2(largest / _LARGEST_INT16) if largest else 0.5
    return limits if abs(exponent - round(exponent)) > _NEAR_POWER else (low * _WIDER, high * _WIDER)


def _compute_in_integers(quantizer: Any, bits: int, io: IntegerType) -> None:
    """Have every operator that can compute in integers: 8-bit weights, activations of `bits`, `io` in and out if 8."""
    types = require("litert_quantizer.qtyping")
    operation, algorithms = types.TFLOperationName, require("litert_quantizer.quantizer").AlgorithmName

    def config(bits: int, dtype: Any) -> Any:
        activations = types.TensorQuantizationConfig(num_bits=bits, symmetric=bits > 8, dtype=dtype)
        weights = types.TensorQuantizationConfig(num_bits=8, granularity=types.QuantGranularity.CHANNELWISE)
        return types.OpQuantizationConfig(activations, weights, types.ComputePrecision.INTEGER)

    quantizer.update_quantization_recipe(".*", operation.ALL_SUPPORTED, config(bits, types.TensorDataType.INT))
    outside = types.TensorDataType.UINT if io == "uint8" else types.TensorDataType.INT
    for end in (operation.INPUT, operation.OUTPUT):
        if bits == 8:
            quantizer.update_quantization_recipe(".*", end, config(8, outside))
        else:
            quantizer.update_quantization_recipe(".*", end, algorithm_key=algorithms.NO_QUANTIZE)


FORMAT: Format = Format(
    suffix=".tflite",
    precisions=PRECISIONS,
    float_model=float_model,
    convert=convert,
    count_ops=count_tflite_ops,
    chooses_io=True,
)
