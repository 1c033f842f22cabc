"""Recipes: TOML files that say what one artefact is. Impossible combinations are refused when one is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tledge.conversion.calibration import Calibration as CalibratedRanges
from tledge.conversion.format import ExportRequest, Format
from tledge.conversion.registry import FORMATS
from tledge.core.errors import RecipeError, SettingsError
from tledge.core.files import sha256_file
from tledge.core.records import Table, read_toml
from tledge.core.types import INTEGER_PRECISIONS, CalibrationMethod, IntegerType, Precision
from tledge.evaluation.gates import parse_limits
from tledge.evaluation.gates.gate import Limits
from tledge.model.graph import Graph

DEFAULT_RECIPES = (
    "tflite-float32",
    "tflite-float16",
    "tflite-dynamic",
    "tflite-int8",
    "onnx-float32",
    "onnx-int8",
)


_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Verification(Table, frozen=True, kw_only=True):
    """Limits, all in 0..1, that a freshly written file must keep against the reference on training images."""

    max_probability_difference: _Share = 1.0
    max_mean_probability_difference: _Share = 1.0
    min_agreement: _Share = 0.0


class Calibration(Table, frozen=True, kw_only=True):
    """How many training images set the activation ranges, and what of their values counts."""

    images: Annotated[int, msgspec.Meta(ge=0)] = 0
    method: CalibrationMethod = "min-max"


class Quantization(Table, frozen=True, kw_only=True):
    """Whether ONNX weights get 7 of the 8 bits, and which layers an int8 file computes in float32."""

    reduce_range: bool = False
    float_layers: tuple[str, ...] = ()


class RecipeFile(Table, frozen=True, kw_only=True):
    """A recipe as its file has it; see `Recipe`. `[check]` is read by the grammar of limits."""

    format: str
    precision: Precision
    batch: Annotated[int, msgspec.Meta(gt=0)] | None = None
    io: IntegerType = "uint8"
    calibration: Calibration = Calibration()
    quantization: Quantization = Quantization()
    verify: Verification = Verification()
    check: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What one artefact is.

    `calibration_images` is how many training images set the activation ranges of an artefact that computes in integers,
    0 for others, and `calibration_method` how (see `calibrate`). `reduce_range` gives ONNX weights 7 of the 8 bits.
    `float_layers` names layers of the model that such an artefact computes in float32. `limits` are the gates of
    `[check]`, by name, for this artefact. `digest` is the SHA-256 of the recipe's text. `batch` fixes the batch size of
    an artefact whose format lets it, None leaves it open. `io` is what an int8 file takes and, if its format returns
    integers, returns.
    """

    name: str
    format: str
    precision: Precision
    calibration_images: int
    calibration_method: CalibrationMethod
    reduce_range: bool
    float_layers: tuple[str, ...]
    verify: Verification
    limits: Limits
    digest: str
    batch: int | None = None
    io: IntegerType = "uint8"

    def __post_init__(self) -> None:
        offered = FORMATS[self.format].precisions
        if self.precision not in offered:
            raise RecipeError(
                f"expected a precision that {self.format} offers ({', '.join(offered)}) in recipe "
                f"{self.name}, but got {self.precision!r}; change one of the two"
            )
        if self.is_integer != (self.calibration_images > 0):
            raise RecipeError(
                f"expected calibration.images > 0 for {' and '.join(INTEGER_PRECISIONS)} and none otherwise in recipe "
                f"{self.name}, but got {self.calibration_images} for {self.precision}; change [calibration]"
            )
        if self.batch is not None and not FORMATS[self.format].fixes_batch:
            raise RecipeError(
                f"expected batch only in {_formats_that(lambda fmt: fmt.fixes_batch)} recipes, but {self.name} is "
                f"{self.format}, whose batch is 1 until an app resizes it; remove it"
            )
        if self.io == "int8" and not (FORMATS[self.format].chooses_io and self.precision == "int8"):
            raise RecipeError(
                f"expected io = 'int8' only in {_formats_that(lambda fmt: fmt.chooses_io)} int8 recipes, but "
                f"{self.name} is {self.format} {self.precision}; remove it"
            )
        if self.float_layers and not self.is_integer:
            raise RecipeError(
                f"expected quantization.float_layers only in int8 recipes, but {self.name} is {self.precision}; "
                "remove it"
            )
        if self.reduce_range and (not FORMATS[self.format].reduces_range or self.precision != "int8"):
            raise RecipeError(
                f"expected quantization.reduce_range only in {_formats_that(lambda fmt: fmt.reduces_range)} int8 "
                f"recipes, but {self.name} is {self.format} {self.precision}; remove it"
            )

    def request(
        self,
        graph: Graph,
        float_model: Any,
        labels: tuple[str, ...],
        lineage: Mapping[str, Any],
        calibration: CalibratedRanges | None,
        float_layers: tuple[str, ...],
    ) -> ExportRequest:
        """What a format is asked for to make the artefact; arguments as for `ExportRequest`."""
        return ExportRequest(
            name=self.name,
            precision=self.precision,
            graph=graph,
            float_model=float_model,
            labels=labels,
            lineage=lineage,
            calibration=calibration,
            reduce_range=self.reduce_range,
            float_layers=float_layers,
            batch=self.batch,
            io=self.io,
        )

    @property
    def is_integer(self) -> bool:
        """Whether the artefact computes on integers, whose ranges have to be known."""
        return self.precision in INTEGER_PRECISIONS

    @property
    def suffix(self) -> str:
        """File suffix of the artefact, with its dot."""
        return FORMATS[self.format].suffix

    @property
    def input_dtype(self) -> str:
        """What the artefact takes: pixels as bytes, as bytes less 128, or as floats."""
        return self.io if self.precision == "int8" else "float32"

    @property
    def output_dtype(self) -> str:
        """What the artefact returns."""
        if self.precision != "int8":
            return "float32"
        return self.io if FORMATS[self.format].chooses_io else "float32"


def recipe_folder() -> Path:
    """Where the built-in recipes are: beside the code in a wheel, in `export/` in a source tree."""
    packaged = Path(__file__).parents[1] / "_export"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "export"


def built_in_recipes() -> tuple[str, ...]:
    """Names of the built-in recipes, sorted."""
    return tuple(sorted(path.stem for path in recipe_folder().glob("*.toml")))


def load_recipes(names: tuple[str, ...] = DEFAULT_RECIPES) -> tuple[Recipe, ...]:
    """Read recipes, each given by a built-in name or by the path of a TOML file.

    Raises:
        RecipeError: unknown, malformed or impossible recipe, or two that would write the same file.
    """
    recipes = tuple(_load(name) for name in names)
    taken = [recipe.name for recipe in recipes]
    if twice := sorted({name for name in taken if taken.count(name) > 1}):
        raise RecipeError(f"expected each recipe once, but got {', '.join(twice)} again; rename the file or drop one")
    return recipes


def _load(name: str) -> Recipe:
    path = recipe_folder() / f"{name}.toml" if name in built_in_recipes() else Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise RecipeError(
            f"expected a recipe ({', '.join(built_in_recipes())}) or a .toml file, but got {name!r}; check the name"
        )
    content = read_toml(path, RecipeFile, RecipeError)
    if content.format not in FORMATS:
        raise RecipeError(
            f"expected format as {' or '.join(FORMATS)} in {path}, but got {content.format!r}; change the file"
        )
    return Recipe(
        name=path.stem,
        format=content.format,
        precision=content.precision,
        calibration_images=content.calibration.images,
        calibration_method=content.calibration.method,
        reduce_range=content.quantization.reduce_range,
        float_layers=tuple(dict.fromkeys(content.quantization.float_layers)),
        verify=content.verify,
        limits=_limits(path.stem, content.check),
        digest=sha256_file(path),
        batch=content.batch,
        io=content.io,
    )


def _formats_that(can: Callable[[Format], bool]) -> str:
    return " and ".join(name for name, fmt in FORMATS.items() if can(fmt))


def _limits(name: str, check: dict[str, Any]) -> Limits:
    """Of `[check]`: numbers by gate (`max_size_mb = 2`), or only `limits`, one or more texts (`size < 2 MB`)."""
    where = f"[check] of recipe {name}"
    given = check.get("limits", check)
    try:
        if given is check:
            return parse_limits(check, where)
        texts = [given] if isinstance(given, str) else given
        if len(check) > 1 or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise SettingsError(
                f'expected only limits = "drop < 0.02", or a list of such texts, in {where}, but got {check}; '
                "rewrite it"
            )
        return parse_limits(texts, where)
    except SettingsError as error:
        raise RecipeError(str(error)) from None
