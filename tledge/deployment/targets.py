"""Device targets: TOML files that say what runs well on one kind of device, within which limits, and who says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from tledge.conversion.recipe import Recipe, load_recipes, recipe_folder
from tledge.core.errors import RecipeError
from tledge.core.records import Line, Table, read_toml
from tledge.deployment.operator_coverage import CONSTRAINTS

_Count = Annotated[int, msgspec.Meta(gt=0)]
_Kilobytes = Annotated[float, msgspec.Meta(gt=0)]
_Megabytes = Annotated[float, msgspec.Meta(gt=0)]
KitForm = Literal["device", "micro", "site"]
"""What a kit is: files with a Python program, sources for a microcontroller, or a web page."""


@dataclass(frozen=True)
class Delivery:
    """One artefact of a target: the recipe that makes it, the dtypes of its input and output, and why it is chosen."""

    recipe: Recipe
    recipe_name: str
    input: str
    output: str
    why: str


class DeviceLimits(Table, frozen=True, kw_only=True):
    """The most that one artefact may take: the file, and memory.

    `memory_mb` is that of a process that runs it. A microcontroller has `arena_kb` instead, what LiteRT Micro may be
    given for tensors and its own data, and the file is what it takes of the flash. In 10^6 and 10^3 bytes.
    """

    size_mb: _Megabytes
    memory_mb: _Megabytes | None = None
    arena_kb: _Kilobytes | None = None
    why: Line


class Source(Table, frozen=True, kw_only=True):
    """A document of a vendor."""

    title: Line
    url: Line


class DeliveryEntry(Table, frozen=True, kw_only=True):
    """One artefact of a target: a built-in recipe or a file beside the target's, its dtypes, and why it is chosen."""

    recipe: Line
    input: Line
    output: Line
    why: Line


class TargetFile(Table, frozen=True, kw_only=True):
    """What to deliver to one kind of device, as its file has it; see `DeviceTarget`."""

    title: Line
    hardware: Line
    quantization: Line
    threads: Annotated[tuple[_Count, ...], msgspec.Meta(min_length=1)]
    architectures: tuple[Line, ...] = ()
    kit: Literal["device", "site"] = "device"
    artefacts: Annotated[tuple[DeliveryEntry, ...], msgspec.Meta(min_length=1)]
    limits: DeviceLimits
    operators: dict[str, tuple[str, ...]] | None = None
    sources: Annotated[tuple[Source, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class DeviceTarget:
    """What to deliver to one kind of device.

    `quantization` is the scheme its instructions ask for, `threads` are the numbers of threads worth measuring,
    `architectures` what `uname -m` says on such a device, empty where it may be any. `kit` is the form of its kits.
    `operators` is the list of an accelerator's compiler, from TFLite's name to the names of constraints; None where the
    runtime has a kernel for everything.
    """

    name: str
    title: str
    hardware: str
    quantization: str
    threads: tuple[int, ...]
    architectures: tuple[str, ...]
    kit: KitForm
    artefacts: tuple[Delivery, ...]
    limits: DeviceLimits
    operators: Mapping[str, tuple[str, ...]] | None
    sources: tuple[Source, ...]

    @property
    def is_microcontroller(self) -> bool:
        """Whether its files run in LiteRT Micro, in an arena."""
        return self.kit == "micro"

    @property
    def recipe_names(self) -> tuple[str, ...]:
        """What `export` takes to make its artefacts."""
        return tuple(delivery.recipe_name for delivery in self.artefacts)


def built_in_targets() -> tuple[str, ...]:
    """Names of the built-in targets, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def load_target(name: str | DeviceTarget) -> DeviceTarget:
    """Read a target, given by a built-in name or by the path of a TOML file.

    Recipes that it names as files are looked for beside it.

    Raises:
        RecipeError: unknown or malformed, or its recipes are.
    """
    if isinstance(name, DeviceTarget):
        return name
    path = _folder() / f"{name}.toml" if name in built_in_targets() else Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise RecipeError(
            f"expected a target ({', '.join(built_in_targets())}) or a .toml file, but got {name!r}; check the name"
        )
    content = read_toml(path, TargetFile, RecipeError)
    deliveries = tuple(_delivery(path, entry) for entry in content.artefacts)
    load_recipes(tuple(delivery.recipe_name for delivery in deliveries))  # two must not write the same file
    _require_known(path, content.operators, deliveries)
    _require_one_memory(path, content.limits, deliveries)
    return DeviceTarget(
        name=path.stem,
        title=content.title,
        hardware=content.hardware,
        quantization=content.quantization,
        threads=content.threads,
        architectures=content.architectures,
        kit="micro" if content.limits.arena_kb is not None else content.kit,
        artefacts=deliveries,
        limits=content.limits,
        operators=content.operators,
        sources=content.sources,
    )


def _folder() -> Path:
    return recipe_folder() / "targets"


def _delivery(path: Path, entry: DeliveryEntry) -> Delivery:
    recipe_name = str(path.parent / entry.recipe) if entry.recipe.endswith(".toml") else entry.recipe
    recipe = load_recipes((recipe_name,))[0]
    if (entry.input, entry.output) != (recipe.input_dtype, recipe.output_dtype):
        raise RecipeError(
            f"expected input {recipe.input_dtype} and output {recipe.output_dtype} for {recipe.name}, which is what it "
            f"makes, in {path}, but got {entry.input} and {entry.output}; change the file"
        )
    return Delivery(recipe, recipe_name, entry.input, entry.output, entry.why)


def _require_known(
    path: Path, operators: Mapping[str, tuple[str, ...]] | None, deliveries: tuple[Delivery, ...]
) -> None:
    for operator, rules in (operators or {}).items():
        if unknown := sorted(set(rules) - set(CONSTRAINTS)):
            known = ", ".join(repr(rule) for rule in CONSTRAINTS)
            raise RecipeError(
                f"expected [operators].{operator} as a list of constraints ({known}) in {path}, but got "
                f"{unknown[0]!r}; change the file"
            )
    other = [delivery.recipe.name for delivery in deliveries if delivery.recipe.format != "tflite"]
    if operators is not None and other:
        raise RecipeError(
            f"expected only tflite recipes beside [operators] in {path}, but got {', '.join(other)}; change the file"
        )


def _require_one_memory(path: Path, limits: DeviceLimits, deliveries: tuple[Delivery, ...]) -> None:
    if (limits.memory_mb is None) == (limits.arena_kb is None):
        found = "none" if limits.memory_mb is None else "both"
        raise RecipeError(
            f"expected [limits].memory_mb or, for a microcontroller, [limits].arena_kb in {path}, but got {found}; "
            "write one of the two"
        )
    recipes = [delivery.recipe for delivery in deliveries]
    if limits.arena_kb is not None and [(one.format, one.precision) for one in recipes] != [("tflite", "int8")]:
        raise RecipeError(
            f"expected one tflite int8 recipe beside [limits].arena_kb in {path}, but got "
            f"{', '.join(one.name for one in recipes)}; change the file"
        )
