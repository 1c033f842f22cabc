"""Activation ranges that a quantization-aware training learned, as data: written by `optimize`, read by `export`.

B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018:
8 bits, activations asymmetric per tensor, weights symmetric without the value -128. In training the weights of
a convolution, also a depthwise one, have one scale per output channel and those of a dense layer one for all; in files
all have one per output. They follow from the weights, so only activations are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import RunError
from tledge.core.files import sha256_file
from tledge.core.records import Document, Record, read_record, write_record
from tledge.runs.manifest import Manifest, quantization_digest
from tledge.runs.rundir import RunDir

LEVELS = 255
WEIGHT_LEVELS = 127
# A quarter of the products: two of them, as AVX2 adds them, never exceed 16 bits.
REDUCED_WEIGHT_LEVELS = 63
PIXELS = (0.0, 255.0)

_SMALLEST_WEIGHT_LIMIT = 1e-6


class Extent(Record, frozen=True, kw_only=True):
    """Least and largest value of a layer's output."""

    min: float
    max: float


class RangesFile(Document, frozen=True, kw_only=True):
    """quantization.json: what the activations' ranges came from, for how many bits, and they by layer."""

    REMEDY: ClassVar[str] = "optimize again"

    source: Literal["qat"]
    bits: Literal[8]
    activations: dict[str, Extent]


@dataclass(frozen=True)
class ActivationRanges:
    """By layer: the least and the largest value of its output, after its activation function.

    Layers that hand on the range before them, such as maximum pooling and `flatten`, are not in it, nor are those with
    a ReLU of its own behind them; `prediction` is the range of the logits before the softmax. Every range contains 0.

    Raises:
        RunError: a range is empty, not finite or without 0.
    """

    limits: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for name, (low, high) in self.limits.items():
            if not (np.isfinite([low, high]).all() and low <= 0 <= high and low < high):
                raise RunError(f"expected a range around 0 for {name}, but got {low} to {high}; optimize again")

    def of(self, layer: str) -> tuple[float, float]:
        """The range behind a layer.

        Raises:
            RunError: none is known.
        """
        if layer not in self.limits:
            raise RunError(f"expected an activation range for {layer}, but there is none; optimize again")
        return self.limits[layer]


def write_ranges(path: Path, ranges: ActivationRanges) -> None:
    """Write ranges as JSON."""
    activations = {name: Extent(min=low, max=high) for name, (low, high) in ranges.limits.items()}
    write_record(path, RangesFile(source="qat", bits=8, activations=activations))


def read_ranges(path: Path) -> ActivationRanges:
    """Read what `write_ranges` wrote.

    Raises:
        RunError: missing, malformed, or of another version.
    """
    activations = read_record(path, RangesFile).activations
    return ActivationRanges({name: (extent.min, extent.max) for name, extent in activations.items()})


def learned_ranges(run: RunDir, manifest: Manifest) -> ActivationRanges | None:
    """Activation ranges of a run from quantization-aware training, None for other runs.

    Raises:
        RunError: the file is missing, changed or malformed.
    """
    digest = quantization_digest(manifest)
    if digest is None:
        return None
    if not run.quantization.is_file() or sha256_file(run.quantization) != digest:
        raise RunError(
            f"expected {run.quantization} to be the file that {run.manifest.name} describes, but it is missing or "
            "its SHA-256 differs; restore it or optimize again"
        )
    return read_ranges(run.quantization)


def preprocessed_range(kernel: NDArray[np.float32], offset: NDArray[np.float32]) -> tuple[float, float]:
    """Least and largest value that pixels can become, and 0: nothing of the input is ever cut off.

    Args:
        kernel: (channels in, channels out) of the preprocessing.
        offset: (channels out,).
    """
    parts = PIXELS[1] * kernel.astype(np.float64)
    low, high = np.minimum(parts, 0).sum(axis=0) + offset, np.maximum(parts, 0).sum(axis=0) + offset
    return min(0.0, float(low.min())), max(0.0, float(high.max()))


def weight_limits(kernel: NDArray[np.float32], *, is_depthwise: bool = False) -> NDArray[np.float32]:
    """Largest magnitude that a kernel's 8-bit form stands for.

    Args:
        kernel: (3, 3, in, out) of a convolution, (3, 3, in, multiplier) of a depthwise one or (in, out) of a dense
            layer.
        is_depthwise: every input channel has filters of its own.

    Returns:
        (out,) for a convolution, (in * multiplier,) for a depthwise one, () for a dense layer.
    """
    if is_depthwise:
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    magnitudes = np.abs(kernel).max(axis=(0, 1, 2) if kernel.ndim == 4 else None)
    return np.asarray(np.maximum(magnitudes, _SMALLEST_WEIGHT_LIMIT), np.float32)
