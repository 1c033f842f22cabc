"""What people say about models that tledge did not make: `--input nchw,torch`, `--output m.onnx=logits`.

What is left open is read from the file where the file says it. What neither says is an error, never a guess: a model
that is fed the wrong values still answers, only worse, and a check would blame its quantization.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tledge.core.errors import SettingsError
from tledge.core.image_size import ImageSize, height_width, image_size
from tledge.core.settings import Settings, option

Layout = Literal["nhwc", "nchw"]
Channels = Literal["rgb", "bgr"]
OutputKind = Literal["distribution", "probabilities", "logits", "unchecked"]
"""`distribution`: each row sums to 1 beyond doubt, what is expected unless something else is declared; `probabilities`:
each lies in 0..1, as with sigmoids; `logits`: a softmax is missing, or a sigmoid behind a single one; `unchecked`:
taken as they come."""
DeclaredOutput = Literal["probabilities", "logits"]
OUTPUTS: tuple[DeclaredOutput, ...] = ("probabilities", "logits")

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

    `layout` is `nhwc` or `nchw`, `channels` `rgb` or `bgr`. `image_size_px` is the size of the input, for a model that
    leaves it open.

    Raises:
        SettingsError: a scaling that implies the other order of channels, or a side below 1.
    """

    layout: Layout | None = None
    channels: Channels | None = None
    scaling: Scaling | None = None
    image_size_px: ImageSize | None = None

    def __post_init__(self) -> None:
        implied = self.scaling.channels if self.scaling else None
        if self.scaling and implied and self.channels not in (None, implied):
            raise SettingsError(
                f"expected {implied} with the scaling {self.scaling.name}, which is defined so, but got "
                f"{self.channels}; leave the order out, or write mean: and std:"
            )
        if self.image_size_px is not None and min(height_width(self.image_size_px)) < 1:
            raise SettingsError(
                f"expected an input of at least 1px, but got {size_word(self.image_size_px)}; change it"
            )

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


def size_word(size: ImageSize) -> str:
    """A size as a word of `--input`: `224px`, or `96x128px` for height x width."""
    return f"{size}px" if isinstance(size, int) else f"{size[0]}x{size[1]}px"


def parse_input(text: str) -> InputForm:
    """Read one form: words in any order, separated by commas, as in `nchw,torch` or `bgr,mean:104/117/124,std:1`.

    Args:
        text: `nhwc` or `nchw`; `rgb` or `bgr`; one of SCALINGS or `mean:` with `std:` (one number or three separated by
            slashes, in the model's order of channels, in pixels of 0..255); a size such as `224px`, or `96x128px` for
            height x width.

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
    if size := re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?px", word):
        return "image_size_px", image_size(int(size[1]), int(size[2] or size[1]))
    raise SettingsError(
        f"expected nhwc or nchw, rgb or bgr, a scaling ({SCALING_CHOICES}) or a size such as 224px for --input, but "
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


_OPEN = InputForm()


@dataclass(frozen=True)
class Declaration:
    """Everything declared about one model.

    `own` is said of this file and wins over what the file says; `default` is said of all and fills in what the file
    does not say. `source` says in a few words who declared `own`.
    """

    own: InputForm = _OPEN
    default: InputForm = _OPEN
    output: OutputKind = "distribution"
    source: str = "declared"


NOTHING_DECLARED = Declaration()
MODEL_OF_A_RUN = Declaration(InputForm("nhwc", "rgb", BYTES), output="unchecked", source="model of a run")
"""Every model and artefact of a run takes raw RGB bytes. What it answers is not checked when it is read, since the
gates of a check hold it against limits, and one that is opened to be measured must not run before the clock does."""


@dataclass(frozen=True)
class DeclaredForms:
    """What the options `--input` and `--output` say; the keys are names or paths of model files."""

    default_input: InputForm = _OPEN
    default_output: DeclaredOutput | None = None
    inputs: Mapping[str, InputForm] = field(default_factory=dict)
    outputs: Mapping[str, DeclaredOutput] = field(default_factory=dict)

    def of(self, path: Path) -> Declaration:
        """What is declared about one file."""
        keys = (str(path), path.name)
        own = next((self.inputs[key] for key in keys if key in self.inputs), _OPEN)
        output = next((self.outputs[key] for key in keys if key in self.outputs), self.default_output)
        return Declaration(own, self.default_input, output or "distribution")

    def require_known(self, paths: Sequence[Path]) -> None:
        """Check that every file that is spoken of is among `paths`.

        Raises:
            SettingsError: it is not; a slip of the pen would otherwise leave a declaration without effect.
        """
        known = {name for path in paths for name in (str(path), path.name)}
        for name in (*self.inputs, *self.outputs):
            if name not in known:
                raise SettingsError(
                    f"expected one of the models ({', '.join(path.name for path in paths)}) before '=', but got "
                    f"{name!r}; correct the name"
                )


def parse_forms(inputs: Sequence[str], outputs: Sequence[str]) -> DeclaredForms:
    """Read the values of `--input` and `--output`, each `FORM` for all models or `FILE=FORM` for one.

    Args:
        inputs: forms as `parse_input` reads them.
        outputs: `probabilities` or `logits`.

    Raises:
        SettingsError: an unknown word, an impossible combination, or two declarations for the same file.
    """
    input_forms = {name: parse_input(text) for name, text in _by_file("--input", inputs).items()}
    kinds = {name: _parse_output(text) for name, text in _by_file("--output", outputs).items()}
    default_input, default_output = input_forms.pop(None, _OPEN), kinds.pop(None, None)
    return DeclaredForms(
        default_input,
        default_output,
        {name: form for name, form in input_forms.items() if name is not None},
        {name: kind for name, kind in kinds.items() if name is not None},
    )


def _by_file(option: str, texts: Sequence[str]) -> dict[str | None, str]:
    found: dict[str | None, str] = {}
    for text in texts:
        # From the right: a file's name may hold '=', a form never does.
        file, separator, form = text.rpartition("=")
        name = file if separator else None
        if name in found:
            whose = "all models" if name is None else name
            raise SettingsError(
                f"expected one {option} for {whose}, but got {found[name]!r} and {form!r}; join them with commas"
            )
        found[name] = form
    return found


def _parse_output(text: str) -> DeclaredOutput:
    for kind in OUTPUTS:
        if text == kind:
            return kind
    raise SettingsError(f"expected {' or '.join(OUTPUTS)} for --output, but got {text!r}; choose one")


@dataclass(frozen=True)
class Declarations(Settings):
    """What models take and give, where their files do not say it; see `parse_forms`.

    Raises:
        SettingsError: an unknown word, an impossible combination, or two declarations for the same file.
    """

    inputs: tuple[str, ...] = option(
        (),
        help="The pixels a foreign model takes, words joined by commas. Values: 0..255, 0..1, -1..1, caffe "
        "(BGR minus ImageNet's means), torch (0..1, ImageNet's mean and deviation), or mean:R/G/B,std:R/G/B in pixels "
        "of 0..255. Order: rgb or bgr. Layout: nhwc or nchw. A size such as 224px, or 96x128px (height x width), "
        "where the model leaves it open. "
        "Repeat it: FORM fills in what a file does not say itself, MODEL=FORM overrules that file.",
        flag="--input",
        metavar="[MODEL=]FORM",
    )
    outputs: tuple[str, ...] = option(
        (),
        help="What a foreign model puts out: probabilities or logits. Default: rows must be probabilities that sum "
        "to 1, or one sigmoid, which is the probability of the second class.",
        flag="--output",
        metavar="[MODEL=]KIND",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_forms(self.inputs, self.outputs)

    @property
    def forms(self) -> DeclaredForms:
        """What is declared, read."""
        return parse_forms(self.inputs, self.outputs)


UNDECLARED = Declarations()


def require_undeclared(declared: Declarations) -> None:
    """Refuse declarations about a run: what its models take and give is known.

    Raises:
        SettingsError: there are some.
    """
    if declared.inputs or declared.outputs:
        raise SettingsError(
            f"expected no {'--input' if declared.inputs else '--output'} with a run, but got one; a run's models need "
            "no description"
        )
