"""From pixels to the numbers of a model's input tensor, and from those of its output to probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import ArtefactError
from tledge.core.types import Images, Probabilities
from tledge.runtimes.declared import ModelForm, OutputKind
from tledge.runtimes.forms import BYTES, RANGES, SCALING_CHOICES, Channels, InputForm, Layout, Scaling

Tensor = NDArray[Any]

_DTYPES = ("float32", "float16", "uint8", "int8")
# How far a calibrated range may be from a named one, as a share of its span, to be taken for it.
_RANGE_TOLERANCE = 0.02
# A declared scaling must use at least this share of what the input can represent, and the other way round: beyond it
# one of the two is off by the 255 between pixels and fractions, whatever the calibration images were.
_LEAST_OVERLAP = 1 / 16
_SUM_TOLERANCE = 0.02
# Rounding each probability to a step of the output moves a row's sum by up to half a step each. Beyond this total the
# sum no longer says whether the row holds probabilities.
_TELLING_ROUNDING = 0.25


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a model file: real value = scale * (stored - zero_point); scale 0 stands for no quantization.

    `shape` holds None where the file leaves a dimension open.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    scale: float = 0.0
    zero_point: int = 0

    @property
    def low(self) -> float:
        """The least real value that an integer tensor can hold."""
        return (np.iinfo(self.dtype).min - self.zero_point) * (self.scale or 1.0)

    @property
    def high(self) -> float:
        """The greatest real value that an integer tensor can hold."""
        return (np.iinfo(self.dtype).max - self.zero_point) * (self.scale or 1.0)


@dataclass(frozen=True)
class Said:
    """What a file says about its input, and where: `source` is a few words for reports."""

    form: InputForm
    source: str


@dataclass(frozen=True)
class PixelForm:
    """How a model takes pixels, with nothing left open; `source` says where the scaling comes from."""

    layout: Layout
    channels: Channels
    scaling: Scaling
    side: int
    source: str

    def __str__(self) -> str:
        return f"{self.channels} {self.scaling.name} {self.layout} ({self.source})"

    def encode(self, images: Images | NDArray[np.float32], spec: TensorSpec) -> Tensor:
        """Turn (N, S, S, 3) RGB pixels of 0..255 into the values of the input tensor, in its layout and dtype."""
        ordered = images if self.channels == "rgb" else images[..., ::-1]
        # In float64: the result rounded to float32 is then the exact one, whichever way an app computes it.
        real = (ordered - np.asarray(self.scaling.mean)) / np.asarray(self.scaling.std)
        if spec.dtype.kind in "iu":
            stored = np.round(real / (spec.scale or 1.0)) + spec.zero_point
            limits = np.iinfo(spec.dtype)
            real = np.clip(stored, limits.min, limits.max)
        values = real.astype(spec.dtype)
        return np.ascontiguousarray(values if self.layout == "nhwc" else values.transpose(0, 3, 1, 2))


def resolve(name: str, spec: TensorSpec, said: Said | None, declared: ModelForm) -> PixelForm:
    """Decide how a model takes pixels.

    Layout: declared, or where the 3 stands in the shape. Scaling: declared for this file; else what the file says of
    itself; else the range that a quantized input spans, if it is that of a named scaling, or bytes for plain uint8;
    else what is declared for all. Channels: the same, and RGB unless something says otherwise.

    Args:
        name: of the file, for messages.
        spec: its input tensor.
        said: what the file says, None if nothing.
        declared: what people say.

    Raises:
        ArtefactError: not a square RGB image, an unknown dtype, or something that nobody says.
        SettingsError: what is said contradicts itself.
    """
    if spec.dtype.name not in _DTYPES:
        raise ArtefactError(f"expected an input of {', '.join(_DTYPES)} in {name}, but it takes {spec.dtype.name}")
    own, source = declared.own, "declared"
    if own.scaling is None:
        said = said if said and said.form.scaling else _said_by_range(spec)
        source = said.source if said else "declared for all models"
        own = own.over(said.form) if said else own
    form = own.over(declared.default)
    if form.scaling is None:
        raise ArtefactError(
            f"expected to know which values {name} takes for pixels, but neither the file nor --input says it; "
            f"add --input {name}=SCALING, one of {SCALING_CHOICES}"
        )
    _require_representable(name, spec, form.scaling)
    layout = _layout(name, spec.shape, form.layout)
    side = _side(name, spec.shape, layout, form.image_size_px)
    return PixelForm(layout, form.channels or form.scaling.channels or "rgb", form.scaling, side, source)


def _said_by_range(spec: TensorSpec) -> Said | None:
    if spec.dtype == np.uint8 and not spec.scale:
        return Said(InputForm(scaling=BYTES), "plain uint8")
    if spec.dtype.kind not in "iu" or not spec.scale:
        return None
    for scaling in RANGES:
        room = _RANGE_TOLERANCE * (scaling.high - scaling.low)
        if abs(spec.low - scaling.low) <= room and abs(spec.high - scaling.high) <= room:
            return Said(InputForm(scaling=scaling), "range of the quantized input")
    return None


def _require_representable(name: str, spec: TensorSpec, scaling: Scaling) -> None:
    if spec.dtype.kind not in "iu":
        return
    shared = min(scaling.high, spec.high) - max(scaling.low, spec.low)
    if shared < _LEAST_OVERLAP * max(scaling.high - scaling.low, spec.high - spec.low):
        raise ArtefactError(
            f"expected a scaling that fits the quantized input of {name} ({spec.low:.4g} to {spec.high:.4g}), but "
            f"{scaling.name} gives {scaling.low:.4g} to {scaling.high:.4g}; correct it with --input {name}=SCALING"
        )


def _layout(name: str, shape: tuple[int | None, ...], declared: Layout | None) -> Layout:
    if len(shape) != 4:
        raise ArtefactError(f"expected an input of four dimensions in {name}, but it takes {shape}; use a classifier")
    fitting: dict[Layout, int] = {"nhwc": 3, "nchw": 1}
    if declared is not None:
        if shape[fitting[declared]] not in (3, None):
            raise ArtefactError(f"expected {declared} with 3 channels in {name}, but it takes {shape}; correct --input")
        return declared
    found = [layout for layout, axis in fitting.items() if shape[axis] == 3]
    if not found:
        raise ArtefactError(f"expected an RGB input of 3 channels in {name}, but it takes {shape}; use another model")
    if len(found) == 2:
        raise ArtefactError(f"expected one side of 3 in {name}, but it takes {shape}; add --input {name}=nhwc or =nchw")
    return found[0]


def _side(name: str, shape: tuple[int | None, ...], layout: Layout, declared: int | None) -> int:
    height, width = shape[1:3] if layout == "nhwc" else shape[2:4]
    sides = {side for side in (height, width) if side is not None}
    if len(sides) > 1:
        raise ArtefactError(
            f"expected a square input in {name}, but it takes {height}x{width}; tledge stretches images to squares only"
        )
    if not sides:
        if declared is None:
            raise ArtefactError(
                f"expected a fixed input size in {name}, but it takes {shape}; add --input {name}=224px"
            )
        return declared
    if declared not in (None, *sides):
        raise ArtefactError(f"expected {sides.pop()}px in {name}, but --input says {declared}px; leave the size out")
    return sides.pop()


def read_scores(name: str, raw: Tensor, spec: TensorSpec, rows: int, kind: OutputKind | None) -> Probabilities:
    """Turn what a model gave for `rows` images into probabilities.

    Dimensions of 1 are dropped. `logits` go through a softmax. `probabilities` must lie in 0..1. Where nothing is
    declared, rows must also sum to 1: a softmax is never applied unasked, nor left out unnoticed.

    Args:
        name: of the file, for messages.
        raw: the tensor that came out.
        spec: its dtype and quantization.
        rows: how many images went in.
        kind: what is declared, None for nothing.

    Returns:
        (rows, C) float32.

    Raises:
        ArtefactError: not one row of scores per image, or scores that are not of that kind.
    """
    if raw.shape[:1] != (rows,) or sum(n > 1 for n in raw.shape[1:]) > 1:
        raise ArtefactError(
            f"expected one score per class for each of {rows} images from {name}, but it gave {raw.shape}; "
            "use a classifier"
        )
    scores = raw.reshape(rows, -1).astype(np.float64)
    if spec.scale:
        scores = (scores - spec.zero_point) * spec.scale
    if not np.isfinite(scores).all():
        raise ArtefactError(f"expected finite scores from {name}, but it gave NaN or infinity; repair the model")
    if kind == "logits":
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)
    _require_probabilities(name, scores, spec.scale, kind)
    return np.asarray(scores, np.float32)


def _require_probabilities(name: str, scores: Tensor, step: float, kind: OutputKind | None) -> None:
    if scores.size and not (scores.min() >= -1e-6 and scores.max() <= 1 + _SUM_TOLERANCE):
        raise ArtefactError(
            f"expected probabilities from {name}, but it gave {scores.min():.4g} to {scores.max():.4g}; "
            f"add --output {name}=logits if these are scores before the softmax"
        )
    if kind == "probabilities":
        return
    rounding = scores.shape[1] * step / 2
    sums = scores.sum(axis=1)
    if rounding > _TELLING_ROUNDING or (scores.size and np.abs(sums - 1).max() > _SUM_TOLERANCE + rounding):
        why = f"sum to {sums[np.abs(sums - 1).argmax()]:.3f}" if scores.size else "are none"
        raise ArtefactError(
            f"expected rows that sum to 1 from {name}, but its scores {why} at a resolution of {step:.2g}; "
            f"add --output {name}=probabilities or --output {name}=logits"
        )
