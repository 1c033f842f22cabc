"""Run a model file in its own runtime behind one interface that hides dtypes, quantization and batching."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from tledge.core.errors import ArtefactError
from tledge.core.types import Images, Json, Probabilities
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions

SUFFIXES = (".keras", ".onnx", ".ort", ".tflite")


class ImageClassifier(Protocol):
    """A loaded model.

    `runtime` names the library that executes it. `image_size_px` is the side of its square input, `classes` the number
    of its outputs. `input_dtype` and `output_dtype` are those of the file; `output_step` is the probability between two
    neighbouring values of an integer output, 0 for a float one. `labels` are the class names embedded in
    it, None if it carries none.
    """

    runtime: str
    image_size_px: int
    classes: int
    input_dtype: str
    output_dtype: str
    output_step: float
    labels: tuple[str, ...] | None

    def predict(self, images: Images) -> Probabilities:
        """Classify (N, H, W, 3) uint8 RGB images; returns (N, C) float32 probabilities."""
        ...

    def prepare(self, images: Images) -> None:
        """Bind (N, H, W, 3) images as the input of every following `invoke`, converted to the model's dtype."""
        ...

    def invoke(self) -> None:
        """Run the model once on the bound input and wait for its output: what a latency measurement times."""
        ...

    def lineage(self) -> Json | None:
        """Lineage that tledge embedded in the file; None if another tool wrote it."""
        ...


def open_classifier(
    path: Path, threads: int | None = None, options: RuntimeOptions = DEFAULT_OPTIONS
) -> ImageClassifier:
    """Load a model file in the runtime that its suffix stands for.

    Args:
        path: a .keras, .tflite, .onnx or .ort file.
        threads: threads one inference may use; None leaves it to the cores that are available.
        options: of LiteRT and onnxruntime; Keras has none here.

    Raises:
        ArtefactError: no such file, another suffix, truncated, or not an image classifier.
        MissingDependencyError: the runtime is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ArtefactError(f"expected a model file ({', '.join(SUFFIXES)}), but got {path}; export one first")
    if not path.is_file():
        raise ArtefactError(f"expected a model file, but {path} does not exist; check the path or export it")
    if suffix == ".keras":
        from tledge.runtimes.keras import KerasClassifier

        return KerasClassifier(path, threads)
    if suffix == ".tflite":
        from tledge.runtimes.tflite import TFLiteClassifier

        return TFLiteClassifier(path, threads, options)
    from tledge.runtimes.onnx import OnnxClassifier

    return OnnxClassifier(path, threads, options)


def square_rgb_side(path: Path, shape: tuple[int | None, ...]) -> int:
    """Side of a model's square RGB input.

    Raises:
        ArtefactError: the input is not (batch, S, S, 3).
    """
    if len(shape) != 4 or shape[3] != 3 or shape[1] is None or shape[1] != shape[2]:
        raise ArtefactError(
            f"expected an input of (batch, S, S, 3) in {path.name}, but it takes {tuple(shape)}; "
            "use an image classifier with square RGB input"
        )
    return int(shape[1])


def require_images(images: Images, side: int) -> None:
    """Check the argument of `predict`.

    Raises:
        ArtefactError: not (N, side, side, 3) uint8.
    """
    if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
        raise ArtefactError(
            f"expected images of shape (N, {side}, {side}, 3) and dtype uint8, but got {images.shape} {images.dtype}; "
            "resize them first"
        )
