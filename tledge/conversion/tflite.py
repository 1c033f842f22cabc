"""TFLite: TensorFlow's converter once, for float32; every other precision is quantized from that file.

LiteRT Quantizer rounds the float file with ranges that were measured elsewhere, so that a further file costs a second
instead of another conversion. What phone apps read, labels and normalisation, is added here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from tledge.conversion.calibration import PIXELS, Calibration, Fingerprint, Range, require_ranges
from tledge.conversion.format import ExportRequest, Format
from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.environment import available_cores
from tledge.core.types import PRECISIONS, Images
from tledge.formats.operators import TFLITE_MATRIX_OPS, count_tflite_ops
from tledge.formats.tflite import operators_of
from tledge.formats.tflite_metadata import ImageClassifierMetadata, finalize
from tledge.model.graph import Graph


class FloatModel:
    """A converted model in float32, and what its tensors hold.

    Args:
        content: the file.
        layers: names of the calls it was converted from.
    """

    def __init__(self, content: bytes, layers: tuple[str, ...]) -> None:
        self.content = content
        self._layers = layers
        self._found: tuple[Calibration, dict[str, Range]] | None = None

    def ranges(self, calibration: Calibration) -> dict[str, Range]:
        """The range of every float tensor by its name in the file.

        Raises:
            ArtefactError: a tensor is none of the model's.
        """
        if self._found is None or self._found[0] is not calibration:
            held = {name: calibration.of(mark) for name, mark in self._fingerprints(calibration.images).items()}
            pixels = operators_of(self.content)[0].inputs[0].name
            ranges = require_ranges(held, "the TFLite graph") | {pixels: calibration.ranges[PIXELS]}
            self._found = (calibration, ranges)
        return self._found[1]

    def _fingerprints(self, images: Images) -> dict[str, Fingerprint]:
        litert = require("ai_edge_litert.interpreter")
        with quiet():
            interpreter = litert.Interpreter(
                model_content=self.content,
                num_threads=available_cores(),
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            interpreter.allocate_tensors()
        pixels = interpreter.get_input_details()[0]["index"]
        tensors = {
            tensor.name: tensor.index
            for op in operators_of(self.content)
            for tensor in op.outputs
            if tensor.dtype == "FLOAT32"
        }
        found: dict[str, list[Fingerprint]] = {name: [] for name in tensors}
        for image in images:
            interpreter.set_tensor(pixels, image[np.newaxis].astype(np.float32))
            interpreter.invoke()
            for name, index in tensors.items():
                found[name].append(Fingerprint.of(interpreter.get_tensor(index).reshape(1, -1)))
        return {name: Fingerprint(np.concatenate([part.values for part in parts])) for name, parts in found.items()}

    @cached_property
    def outputs_by_layer(self) -> Mapping[str, str]:
        """By convolution or dense layer the output tensor of its operator."""
        found = {}
        for op in operators_of(self.content):
            if op.name in TFLITE_MATRIX_OPS:
                # A fused operator's tensor is named after all the calls in it.
                calls = {part.partition("/")[0] for part in op.outputs[0].name.split(";")}
                found.update({layer: op.outputs[0].name for layer in self._layers if layer in calls})
        return found


def float_model(graph: Graph) -> FloatModel:
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
    with quiet():
        function = module.run.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        # Its note holds the time of conversion; the lineage says what the rest of it says.
        converter.exclude_conversion_metadata = True
        return FloatModel(bytes(converter.convert()), graph.matrix_layers)


def convert(request: ExportRequest) -> bytes:
    """Write a graph as TFLite.

    float16 stores half-precision weights, dynamic int8 weights but for depthwise convolutions; int8 is full integer
    with uint8 input and output (Jacob et al. 2018), int8x16 the same with activations of 16 bits and float32 input and
    output.

    Returns:
        The file's content with labels, normalisation and lineage embedded.
    """
    model: FloatModel = request.float_model
    content = model.content if request.precision == "float32" else _quantized(model, request)
    metadata = ImageClassifierMetadata(
        name=request.name,
        description="Image classifier; takes raw RGB pixels, preprocessing is part of the model",
        version=str(request.lineage["tledge"]),
        image_size_px=request.graph.input_shape[0],
        labels=request.labels,
        lineage=request.lineage,
    )
    return finalize(content, metadata)


def _quantized(model: FloatModel, request: ExportRequest) -> bytes:
    quantizer_module, types = require("litert_quantizer.quantizer"), require("litert_quantizer.qtyping")
    algorithms, operation = quantizer_module.AlgorithmName, types.TFLOperationName
    quantizer = quantizer_module.Quantizer(bytearray(model.content))
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
        _compute_in_integers(quantizer, 16 if request.precision == "int8x16" else 8)
        for layer in request.float_layers:
            name = re.escape(model.outputs_by_layer[layer])
            quantizer.update_quantization_recipe(
                f"^{name};?$", operation.ALL_SUPPORTED, algorithm_key=algorithms.NO_QUANTIZE
            )
        assert request.calibration is not None  # as `ExportRequest` says
        ranges = {
            name: {"min": np.array([[low]], np.float32), "max": np.array([[high]], np.float32)}
            for name, (low, high) in model.ranges(request.calibration).items()
        }
    with quiet():
        result = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _compute_in_integers(quantizer: Any, bits: int) -> None:
    """Have every operator that can compute in integers: 8-bit weights, activations of `bits`."""
    types = require("litert_quantizer.qtyping")
    operation, algorithms = types.TFLOperationName, require("litert_quantizer.quantizer").AlgorithmName

    def config(bits: int, dtype: Any) -> Any:
        activations = types.TensorQuantizationConfig(num_bits=bits, symmetric=bits > 8, dtype=dtype)
        weights = types.TensorQuantizationConfig(num_bits=8, granularity=types.QuantGranularity.CHANNELWISE)
        return types.OpQuantizationConfig(activations, weights, types.ComputePrecision.INTEGER)

    quantizer.update_quantization_recipe(".*", operation.ALL_SUPPORTED, config(bits, types.TensorDataType.INT))
    for end in (operation.INPUT, operation.OUTPUT):
        if bits == 8:
            quantizer.update_quantization_recipe(".*", end, config(8, types.TensorDataType.UINT))
        else:
            quantizer.update_quantization_recipe(".*", end, algorithm_key=algorithms.NO_QUANTIZE)


FORMAT: Format = Format(
    suffix=".tflite",
    precisions=PRECISIONS,
    float_model=float_model,
    convert=convert,
    count_ops=count_tflite_ops,
    int8_output="uint8",
)
