"""What a model that tledge did not make takes, in words: `nchw,torch`, `bgr,mean:104/117/124,std:1,224px`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from tledge.core.errors import SettingsError

Layout = Literal["nhwc", "nchw"]
Channels = Literal["rgb", "bgr"]

_LAYOUTS: tuple[Layout, ...] = ("nhwc", "nchw")
_CHANNELS: tuple[Channels, ...] = ("rgb", "bgr")
_BRIGHTEST = 255.0


@dataclass(frozen=True)
class Scaling:
    """How a pixel of 0..255 becomes the number that a model takes: (pixel - mean) / std.

    `mean` and `std` hold one value for each channel, in the order in which the model takes the channels, in units of
    pixels (0..255). `channels` is the order that a convention fixes, None if it fits both.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Channels | None = None

    @property
    def low(self) -> float:
        """What the darkest pixel becomes, the least over the channels."""
        return min((0.0 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))

    @property
    def high(self) -> float:
        """What the brightest pixel becomes, the most over the channels."""
        return max((_BRIGHTEST - mean) / std for mean, std in zip(self.mean, self.std, strict=True))


def _same(value: float) -> tuple[float, float, float]:
    return (value, value, value)


BYTES = Scaling("0..255", _same(0.0), _same(1.0))
# Those that one range of values describes: only these can be told from an input's quantization.
RANGES = (BYTES, Scaling("0..1", _same(0.0), _same(255.0)), Scaling("-1..1", _same(127.5), _same(127.5)))
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALINGS: Mapping[str, Scaling] = MappingProxyType(
    {
        scaling.name: scaling
        for scaling in (
            *RANGES,
            # ImageNet's means as Caffe's models, VGG16 among them, were trained with, and as torchvision states them.
            Scaling("caffe", (103.939, 116.779, 123.68), _same(1.0), "bgr"),
            Scaling(
                "torch",
                (255 * _TORCH_MEAN[0], 255 * _TORCH_MEAN[1], 255 * _TORCH_MEAN[2]),
                (255 * _TORCH_STD[0], 255 * _TORCH_STD[1], 255 * _TORCH_STD[2]),
                "rgb",
            ),
        )
    }
)
SCALING_CHOICES = f"{', '.join(SCALINGS)}, or mean:R/G/B,std:R/G/B in pixels of 0..255"


@dataclass(frozen=True)
class InputForm:
    """What is declared about a model's input; None leaves it to the file.

    `layout` is `nhwc` or `nchw`, `channels` `rgb` or `bgr`. `image_size_px` is the side of the input, for a model that
    leaves it open.

    Raises:
        SettingsError: a scaling that implies the other order of channels, or a side below 1.
    """

    layout: Layout | None = None
    channels: Channels | None = None
    scaling: Scaling | None = None
    image_size_px: int | None = None

    def __post_init__(self) -> None:
        implied = self.scaling.channels if self.scaling else None
        if self.scaling and implied and self.channels not in (None, implied):
            raise SettingsError(
                f"expected {implied} with the scaling {self.scaling.name}, which is defined so, but got "
                f"{self.channels}; leave the order out, or write mean: and std:"
            )
        if self.image_size_px is not None and self.image_size_px < 1:
            raise SettingsError(f"expected an input of at least 1px, but got {self.image_size_px}px; change it")

    def over(self, other: InputForm) -> InputForm:
        """This form, its open fields taken from `other`.

        Raises:
            SettingsError: the two together are impossible.
        """
        implied = self.scaling.channels if self.scaling else None
        return InputForm(
            self.layout or other.layout,
            self.channels or implied or other.channels,
            self.scaling or other.scaling,
            self.image_size_px or other.image_size_px,
        )


def parse_input(text: str) -> InputForm:
    """Read one form: words in any order, separated by commas, as in `nchw,torch` or `bgr,mean:104/117/124,std:1`.

    Args:
        text: `nhwc` or `nchw`; `rgb` or `bgr`; one of SCALINGS or `mean:` with `std:` (one number or three separated by
            slashes, in the model's order of channels, in pixels of 0..255); a side such as `224px`.

    Raises:
        SettingsError: an unknown word, two of a kind, or an impossible combination.
    """
    found: dict[str, Any] = {}
    for word in text.split(","):
        name, value = _parse_word(word.strip())
        if name in found:
            raise SettingsError(f"expected one {name.replace('_', ' ')} in {text!r}, but got two; remove one")
        found[name] = value
    mean, std = found.pop("mean", None), found.pop("std", None)
    if mean is not None or std is not None:
        if "scaling" in found:
            raise SettingsError(f"expected a named scaling or mean: and std:, but got both in {text!r}; remove one")
        if mean is None or std is None:
            raise SettingsError(f"expected mean: and std: together, but got one of them in {text!r}; add the other")
        found["scaling"] = explicit_scaling(mean, std)
    return InputForm(**found)


def _parse_word(word: str) -> tuple[str, Any]:
    kind, separator, numbers = word.partition(":")
    if word in _LAYOUTS:
        return "layout", word
    if word in _CHANNELS:
        return "channels", word
    if word in SCALINGS:
        return "scaling", SCALINGS[word]
    if separator and kind in ("mean", "std"):
        return kind, _parse_numbers(word, numbers)
    if re.fullmatch(r"\d{1,5}px", word):
        return "image_size_px", int(word.removesuffix("px"))
    raise SettingsError(
        f"expected nhwc or nchw, rgb or bgr, a scaling ({SCALING_CHOICES}) or a side such as 224px for --input, but "
        f"got {word!r}; correct it"
    )


def _parse_numbers(word: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split("/"))
    except ValueError:
        raise SettingsError(f"expected numbers as in mean:124/117/104, but got {word!r}; correct it") from None


def explicit_scaling(mean: Sequence[float], std: Sequence[float]) -> Scaling:
    """A scaling of one or three means and deviations, by name if it is one of SCALINGS.

    Args:
        mean, std: for each channel as the model takes them, or one for all; in pixels of 0..255.

    Raises:
        SettingsError: another number of values, means outside -255..255, or deviations below 1, as of pixels in 0..1.
    """
    if not (len(mean) in (1, 3) and len(std) in (1, 3)):
        raise SettingsError(f"expected 1 or 3 means and deviations, but got {len(mean)} and {len(std)}; correct them")
    # `not` around what is right, so that NaN is refused too.
    if not (all(abs(value) <= _BRIGHTEST for value in mean) and all(1 <= value <= _BRIGHTEST for value in std)):
        raise SettingsError(
            f"expected means up to 255 and deviations from 1 to 255, in pixels of 0..255, but got {list(mean)} and "
            f"{list(std)}; multiply those of pixels in 0..1 by 255, or choose a named scaling"
        )
    triples = [_same(values[0]) if len(values) == 1 else (values[0], values[1], values[2]) for values in (mean, std)]
    for scaling in RANGES:
        if [scaling.mean, scaling.std] == triples:
            return scaling
    written = ["/".join(f"{value:g}" for value in triple) for triple in triples]
    return Scaling(f"mean:{written[0]},std:{written[1]}", triples[0], triples[1])
