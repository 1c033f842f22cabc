"""How a model takes pixels and what its output means: found by one order of belief, for tledge's models and others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import ArtefactError
from tledge.core.image_size import ImageSize, height_width, image_size, require_possible, short_text
from tledge.core.types import Images, Probabilities
from tledge.runtimes.adapter import Ending, RuntimeAdapter, Said, Tensor, TensorSpec
from tledge.runtimes.declared import (
    BYTES,
    RANGES,
    SCALING_CHOICES,
    Channels,
    Declaration,
    InputForm,
    Layout,
    OutputKind,
    Scaling,
    size_word,
)

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
class ModelForm:
    """How a model takes pixels and what it puts out, with nothing left open.

    `name` is that of its file, for messages. `layout`, `channels` and `scaling` turn RGB pixels into the real values of
    its input, of `image_size_px`; `source` says where the scaling comes from. `input` and `output` are its
    tensors, whose quantization turns real values into stored ones, and `output_kind` says what the real ones are.
    `ending` is what the file's graph is known to end with, where the kind alone does not tell what scores are.
    """

    name: str
    layout: Layout
    channels: Channels
    scaling: Scaling
    image_size_px: ImageSize
    source: str
    input: TensorSpec
    output: TensorSpec
    output_kind: OutputKind
    ending: Ending | None = None

    def __str__(self) -> str:
        return f"{self.channels} {self.scaling.name} {self.layout} ({self.source})"

    @property
    def output_step(self) -> float:
        """The probability between two neighbouring values of an integer output, 0 for floats and for logits."""
        return 0.0 if self.output_kind == "logits" else self.output.scale

    def encode(self, images: Images | NDArray[np.float32]) -> Tensor:
        """Turn (N, H, W, 3) RGB pixels of 0..255 into the values of the input tensor, in its layout and dtype."""
        values: Tensor = images if self.channels == "rgb" else images[..., ::-1]
        plain = (self.scaling.mean, self.scaling.std) == (BYTES.mean, BYTES.std)
        if not plain:
            # In float64: the result rounded to float32 is then the exact one, whichever way an app computes it.
            values = (values - np.asarray(self.scaling.mean)) / np.asarray(self.scaling.std)
        stored = self.input
        if stored.is_integer and not (plain and values.dtype == stored.dtype and (stored.low, stored.high) == (0, 255)):
            steps = np.round(np.asarray(values, np.float64) / (stored.scale or 1.0)) + stored.zero_point
            values = np.clip(steps, np.iinfo(stored.dtype).min, np.iinfo(stored.dtype).max)
        values = values.astype(stored.dtype, copy=False)
        return np.ascontiguousarray(values if self.layout == "nhwc" else values.transpose(0, 3, 1, 2))

    def decode(self, raw: Tensor, rows: int) -> Probabilities:
        """Turn what the model put out for `rows` images into probabilities.

        Dimensions of 1 are dropped. `logits` go through a softmax. `probabilities` must lie in 0..1, rows of a
        `distribution` also sum to 1: a softmax is never applied unasked, nor left out unnoticed. A single score tells
        two classes apart: it is the probability of the second one, or its logit.

        Returns:
            (rows, C) float32, C at least 2.

        Raises:
            ArtefactError: not one row of scores per image, or scores that are not of that kind.
        """
        if raw.shape[:1] != (rows,) or not raw.size or sum(n > 1 for n in raw.shape[1:]) > 1:
            raise ArtefactError(
                f"expected one score per class for each of {rows} images from {self.name}, but it gave {raw.shape}; "
                "use a classifier"
            )
        scores = raw.reshape(rows, -1).astype(np.float64)
        if self.output.scale:
            scores = (scores - self.output.zero_point) * self.output.scale
        if self.output_kind == "unchecked":
            return np.asarray(scores, np.float32)
        if not np.isfinite(scores).all():
            raise ArtefactError(
                f"expected finite scores from {self.name}, but it gave NaN or infinity; repair the model"
            )
        if scores.shape[1] == 1:
            scores = self._of_two_classes(scores)
        elif self.output_kind == "logits":
            exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = exponents / exponents.sum(axis=1, keepdims=True)
        else:
            self._require_probabilities(scores)
        return np.asarray(scores, np.float32)

    def _of_two_classes(self, scores: Tensor) -> Tensor:
        """From one score for each image to the probabilities of both classes."""
        if self.ending == "softmax":
            raise ArtefactError(
                f"expected a sigmoid behind the one score of {self.name}, but it ends with a softmax, which makes any "
                "one score 1; repair the model"
            )
        if self.output_kind == "logits":
            # Both halves alike, so that neither overflows.
            second = np.exp(-np.logaddexp(0.0, -scores))
            return np.concatenate([np.exp(-np.logaddexp(0.0, scores)), second], axis=1)
        if self.output_kind == "distribution" and self.ending != "sigmoid":
            raise ArtefactError(
                f"expected to know what the one score of {self.name} is, but its file does not say so; add --output "
                f"{self.name}=probabilities if it comes from a sigmoid, or --output {self.name}=logits"
            )
        self._require_unit_range(scores)
        return np.concatenate([1 - scores, scores], axis=1)

    def _require_unit_range(self, scores: Tensor) -> None:
        if scores.size and not (scores.min() >= -1e-6 and scores.max() <= 1 + _SUM_TOLERANCE):
            raise ArtefactError(
                f"expected probabilities from {self.name}, but it gave {scores.min():.4g} to {scores.max():.4g}; "
                f"add --output {self.name}=logits if these are scores before the softmax or sigmoid"
            )

    def _require_probabilities(self, scores: Tensor) -> None:
        name, step = self.name, self.output.scale
        self._require_unit_range(scores)
        # Rows of a softmax sum to 1 by themselves, whatever rounding makes of it.
        if self.output_kind == "probabilities" or self.ending == "softmax":
            return
        rounding = scores.shape[1] * step / 2
        sums = scores.sum(axis=1)
        if rounding > _TELLING_ROUNDING or (scores.size and np.abs(sums - 1).max() > _SUM_TOLERANCE + rounding):
            why = f"sum to {sums[np.abs(sums - 1).argmax()]:.3f}" if scores.size else "are none"
            raise ArtefactError(
                f"expected rows that sum to 1 from {name}, but its scores {why} at a resolution of {step:.2g}; "
                f"add --output {name}=probabilities or --output {name}=logits"
            )


def resolve(name: str, adapter: RuntimeAdapter, declared: Declaration) -> ModelForm:
    """Decide how a model takes pixels and what it puts out.

    Layout: declared, or where the 3 stands in the shape. Scaling: declared for this file; else what the file says of
    itself; else the range that a quantized input spans, if it is that of a named scaling, or bytes for plain uint8;
    else what is declared for all. Channels: the same, and RGB unless something says otherwise.

    Args:
        name: of the file, for messages.
        adapter: has it open.
        declared: what people say.

    Raises:
        ArtefactError: not a classifier of RGB images, an unknown dtype, or something that nobody says.
        SettingsError: what is said contradicts itself.
    """
    pixels, scores = only_tensors(name, adapter)
    for spec in (pixels, scores):
        if spec.dtype.name not in _DTYPES:
            raise ArtefactError(
                f"expected {', '.join(_DTYPES)} in and out of {name}, but it has {spec.type_name or spec.dtype.name}; "
                "use a classifier of pixels"
            )
        if not (math.isfinite(spec.scale) and spec.scale >= 0):
            raise ArtefactError(f"expected a scale above 0 in {name}, but it has {spec.scale:g}; export it again")
    if scores.is_integer and not scores.scale:
        raise ArtefactError(
            f"expected scores with a scale from {name}, but its output is plain {scores.dtype.name}; "
            "export it with float output"
        )
    own, source = declared.own, declared.source
    if own.scaling is None:
        said = adapter.said()
        said = said if said and said.form.scaling else _said_by_range(pixels)
        source = said.source if said else "declared for all models"
        own = own.over(said.form) if said else own
    form = own.over(declared.default)
    if form.scaling is None:
        raise ArtefactError(
            f"expected to know which values {name} takes for pixels, but neither the file nor --input says it; "
            f"add --input {name}=SCALING, one of {SCALING_CHOICES}"
        )
    _require_representable(name, pixels, form.scaling)
    if pixels.shape is None:
        raise ArtefactError(f"expected an input of four dimensions in {name}, but it leaves them open")
    layout = _layout(name, pixels.shape, form.layout)
    # What the kind leaves open; looking for it takes reading the graph.
    is_telling = not (_may_be_one(scores) or _is_coarse(scores))
    open_kind = declared.output == "logits" or not (declared.output == "unchecked" or is_telling)
    ending = adapter.ending() if open_kind else None
    if declared.output == "logits" and ending:
        raise ArtefactError(
            f"expected scores before the {ending} from {name}, as --output says, but its graph ends with one; leave "
            "--output logits out"
        )
    return ModelForm(
        name=name,
        layout=layout,
        channels=form.channels or form.scaling.channels or "rgb",
        scaling=form.scaling,
        image_size_px=_size(name, pixels.shape, layout, form.image_size_px),
        source=source,
        input=pixels,
        output=scores,
        output_kind=declared.output,
        ending=ending,
    )


def only_tensors(name: str, adapter: RuntimeAdapter) -> tuple[TensorSpec, TensorSpec]:
    """The one input and the one output of a model.

    Raises:
        ArtefactError: it has several of either.
    """
    for what, found in (("input", adapter.inputs), ("output", adapter.outputs)):
        if len(found) != 1:
            raise ArtefactError(f"expected one {what} in {name}, but it has {len(found)}; use a classifier")
    return adapter.inputs[0], adapter.outputs[0]


def _may_be_one(scores: TensorSpec) -> bool:
    """Whether a model may have one score for each image."""
    return scores.shape is None or all(size in (1, None) for size in scores.shape[1:])


def _is_coarse(scores: TensorSpec) -> bool:
    """Whether integer scores may be too coarse for their sum to tell what they are."""
    sizes = scores.shape[1:] if scores.shape else (None,)
    return scores.scale > 0 and (
        None in sizes or math.prod(n or 1 for n in sizes) * scores.scale / 2 > _TELLING_ROUNDING
    )


def _said_by_range(spec: TensorSpec) -> Said | None:
    if spec.dtype == np.uint8 and not spec.scale:
        return Said(InputForm(scaling=BYTES), "plain uint8")
    if not spec.is_integer or not spec.scale:
        return None
    for scaling in RANGES:
        room = _RANGE_TOLERANCE * (scaling.high - scaling.low)
        if abs(spec.low - scaling.low) <= room and abs(spec.high - scaling.high) <= room:
            return Said(InputForm(scaling=scaling), "range of the quantized input")
    return None


def _require_representable(name: str, spec: TensorSpec, scaling: Scaling) -> None:
    if not spec.is_integer:
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


def _size(name: str, shape: tuple[int | None, ...], layout: Layout, declared: ImageSize | None) -> ImageSize:
    own = shape[1:3] if layout == "nhwc" else shape[2:4]
    said: tuple[int | None, ...] = (None, None) if declared is None else height_width(declared)
    if declared is not None and any(None not in pair and pair[0] != pair[1] for pair in zip(own, said, strict=True)):
        takes = "x".join("?" if side is None else str(side) for side in (own if own[0] != own[1] else own[:1]))
        raise ArtefactError(f"expected {takes}px in {name}, but --input says {size_word(declared)}; leave the size out")
    known = [side for side in own if side is not None] or [side for side in said if side is not None]
    if not known:
        raise ArtefactError(
            f"expected a fixed input size in {name}, but it takes {shape}; add --input {name}=224px, or =96x128px for "
            "height x width"
        )
    # A single side that stays open is taken for that of a square.
    height, width = (a or b or known[0] for a, b in zip(own, said, strict=True))
    size = image_size(height, width)
    try:
        require_possible(size)
    except ValueError:
        raise ArtefactError(
            f"expected sides that pictures have in {name}, but it takes {short_text(size)} px"
        ) from None
    return size
