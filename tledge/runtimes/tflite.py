"""TFLite artefacts in LiteRT's interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import quiet, require
from tledge.core.environment import available_cores
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.core.types import Images, Json, Probabilities
from tledge.runtimes import require_images, square_rgb_side
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions


def load_interpreter(path: Path, threads: int | None, options: RuntimeOptions = DEFAULT_OPTIONS) -> tuple[Any, bytes]:
    """Load a TFLite file.

    Args:
        path: the file.
        threads: of one inference; None for all available cores.
        options: with or without XNNPACK.

    Returns:
        LiteRT's interpreter with its tensors allocated, and the file's content.

    Raises:
        ArtefactError: truncated, not TFLite, or with operators that LiteRT lacks.
    """
    interpreter_module = require("ai_edge_litert.interpreter")
    resolvers = interpreter_module.OpResolverType
    resolver = resolvers.AUTO if options.xnnpack else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ArtefactError(f"expected a TFLite model, but {path} is truncated or something else; export it again")
    try:
        # The path, not the bytes: the interpreter then maps the weights instead of copying them.
        with quiet():
            interpreter = interpreter_module.Interpreter(
                model_path=str(path),
                num_threads=threads or available_cores(),
                experimental_op_resolver_type=resolver,
            )
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error) else "no reason given"
        raise ArtefactError(f"expected a whole TFLite model in {path}, but LiteRT refuses it: {reason}") from None
    return interpreter, content


def only_tensor(path: Path, what: str, details: list[dict[str, Any]]) -> dict[str, Any]:
    """The details of a model's one input or output, as `what` calls it.

    Raises:
        ArtefactError: it has several.
    """
    if len(details) != 1:
        raise ArtefactError(f"expected one {what} in {path.name}, but it has {len(details)}; use a classifier")
    return details[0]


class TFLiteClassifier:
    """A `.tflite` file; uint8 and int8 inputs and outputs are (de)quantized with the file's own scale."""

    runtime = "litert"

    def __init__(self, path: Path, threads: int | None = None, options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        self._path = path
        self._interpreter, content = load_interpreter(path, threads, options)
        self._input = only_tensor(path, "input", self._interpreter.get_input_details())
        self._output = only_tensor(path, "output", self._interpreter.get_output_details())
        self.image_size_px = square_rgb_side(path, tuple(int(n) for n in self._input["shape"]))
        self.classes = int(self._output["shape"][-1])
        self.input_dtype, self.output_dtype = (np.dtype(d["dtype"]).name for d in (self._input, self._output))
        self.output_step = 0.0 if self.output_dtype == "float32" else float(self._output["quantization"][0])
        self.labels = _embedded_labels(content)

    def predict(self, images: Images) -> Probabilities:
        """Classify (N, S, S, 3) uint8 images one by one; returns (N, C) float32 probabilities."""
        result = np.empty((len(images), self.classes), np.float32)
        for index in range(len(images)):
            self.prepare(images[index : index + 1])
            self.invoke()
            result[index] = self._dequantize(self._interpreter.get_tensor(self._output["index"]))[0]
        return result

    def prepare(self, images: Images) -> None:
        """Bind the input of `invoke`, resizing the batch dimension if it differs."""
        require_images(images, self.image_size_px)
        if tuple(self._input["shape"]) != images.shape:
            try:
                with quiet():
                    self._interpreter.resize_tensor_input(self._input["index"], list(images.shape))
                    self._interpreter.allocate_tensors()
            except (ValueError, RuntimeError):
                raise FixedBatchError(
                    f"expected a model whose batch can be {len(images)}, but this file is fixed; use batch 1"
                ) from None
            self._input = self._interpreter.get_input_details()[0]
        self._interpreter.set_tensor(self._input["index"], self._quantize(images))

    def invoke(self) -> None:
        """Run once on the bound input."""
        self._interpreter.invoke()

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it.

        Raises:
            ArtefactError: what is embedded is damaged.
        """
        from tledge.formats.tflite_metadata import read_lineage

        return read_lineage(self._path.read_bytes())

    def _quantize(self, images: Images) -> np.ndarray[Any, Any]:
        dtype = self._input["dtype"]
        scale, zero_point = self._input["quantization"]
        if dtype == np.float32:
            return images.astype(np.float32)
        if dtype == np.uint8 and (scale, zero_point) == (1.0, 0):
            return images
        limits = np.iinfo(dtype)
        quantized = np.clip(np.round(images / scale) + zero_point, limits.min, limits.max)
        return np.asarray(quantized, dtype)

    def _dequantize(self, output: np.ndarray[Any, Any]) -> Probabilities:
        if self._output["dtype"] == np.float32:
            return np.asarray(output, np.float32)
        scale, zero_point = self._output["quantization"]
        return np.asarray((output.astype(np.float32) - zero_point) * scale, np.float32)


def _embedded_labels(content: bytes) -> tuple[str, ...] | None:
    from tledge.formats.tflite_metadata import read_labels

    return read_labels(content)
