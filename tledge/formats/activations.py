"""Outputs of an artefact's convolutions and dense layers, in one shape for both formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import ArtefactError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tap:
    """Where a layer's output is found in a file.

    `key` is the tensor's name or index. `scale` and `zero_point` turn its integers into numbers, None where it holds
    floats; `limits` are the least and the largest of its integers.
    """

    key: str | int
    scale: float | None = None
    zero_point: int = 0
    limits: tuple[int, int] = (-128, 127)

    @property
    def range(self) -> tuple[float, float] | None:
        """What the integers can stand for, None for floats."""
        if self.scale is None:
            return None
        low, high = ((limit - self.zero_point) * self.scale for limit in self.limits)
        return low, high

    def rounded(self, values: Floats) -> Floats:
        """The same numbers clipped and rounded as the file would; floats stay."""
        if self.scale is None:
            return values
        low, high = self.limits
        integers = np.clip(np.rint(values / np.float32(self.scale)) + self.zero_point, low, high)
        return np.asarray((integers - self.zero_point) * np.float32(self.scale), np.float32)

    def dequantize(self, values: NDArray[Any]) -> Floats:
        """The numbers that a tensor's content stands for."""
        if self.scale is None:
            return np.asarray(values, np.float32)
        return np.asarray((values.astype(np.float32) - self.zero_point) * np.float32(self.scale), np.float32)


class Activations(Protocol):
    """A file whose layers can be looked into.

    `taps` are the first convolution's input and then every convolution and dense layer in order, after their ReLU.
    """

    taps: tuple[Tap, ...]

    def of(self, image: NDArray[np.uint8]) -> list[Floats]:
        """What every tap holds for one image (S, S, 3): (1, H, W, C) or (1, C), dequantized."""
        ...


def read_taps(path: Path) -> tuple[Tap, ...]:
    """The taps of a .tflite or .onnx file; nothing is computed.

    Raises:
        ArtefactError, MissingDependencyError: as `open_activations`.
    """
    if path.suffix.lower() == ".tflite":
        from tledge.formats.activations_tflite import TFLiteActivations

        return TFLiteActivations(path).taps
    from tledge.formats.activations_onnx import taps_of

    return taps_of(path)


def open_activations(path: Path) -> Activations:
    """Load an artefact so that its layers can be looked into.

    Raises:
        ArtefactError: neither TFLite nor ONNX, or damaged.
        MissingDependencyError: the runtime, or for ONNX files the onnx package, is not installed.
    """
    if path.suffix.lower() == ".tflite":
        from tledge.formats.activations_tflite import TFLiteActivations

        return TFLiteActivations(path)
    if path.suffix.lower() == ".onnx":
        from tledge.formats.activations_onnx import OnnxActivations

        return OnnxActivations(path)
    do = "export an onnx recipe like it" if path.suffix.lower() == ".ort" else "pass an exported file"
    raise ArtefactError(f"expected a .tflite or .onnx file, but got {path}; {do}")
