"""Device targets: TOML files that say what runs well on one kind of device, within which limits, and who says so."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tledge.conversion.recipe import Recipe, load_recipes, recipe_folder
from tledge.core.errors import RecipeError
from tledge.formats.tflite_operators import CONSTRAINTS

_TEXTS = ("title", "hardware", "quantization")
_KEYS = (*_TEXTS, "threads", "architectures", "artefacts", "limits", "operators", "sources")


@dataclass(frozen=True)
class Delivery:
    """One artefact of a target: the recipe that makes it, the dtypes of its input and output, and why it is chosen."""

    recipe: Recipe
    recipe_name: str
    input: str
    output: str
    why: str


@dataclass(frozen=True)
class DeviceLimits:
    """The most that one artefact may take, in 10^6 bytes: the file, and the memory of a process that runs it."""

    size_mb: float
    memory_mb: float
    why: str


@dataclass(frozen=True)
class Source:
    """A document of a vendor."""

    title: str
    url: str


@dataclass(frozen=True)
class DeviceTarget:
    """What to deliver to one kind of device.

    `quantization` is the scheme its instructions ask for, `threads` are the numbers of threads worth measuring,
    `architectures` what `uname -m` says on such a device, empty where it may be any.
    `operators` is the list of an accelerator's compiler, from TFLite's name to the names of constraints; None where the
    runtime has a kernel for everything.
    """

    name: str
    title: str
    hardware: str
    quantization: str
    threads: tuple[int, ...]
    architectures: tuple[str, ...]
    artefacts: tuple[Delivery, ...]
    limits: DeviceLimits
    operators: Mapping[str, tuple[str, ...]] | None
    sources: tuple[Source, ...]

    @property
    def recipe_names(self) -> tuple[str, ...]:
        """What `export` takes to make its artefacts."""
        return tuple(delivery.recipe_name for delivery in self.artefacts)


def built_in_targets() -> tuple[str, ...]:
    """Names of the built-in targets, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def load_target(name: str) -> DeviceTarget:
    """Read a target, given by a built-in name or by the path of a TOML file.

    Recipes that it names as files are looked for beside it.

    Raises:
        RecipeError: unknown or malformed, or its recipes are.
    """
    path = _folder() / f"{name}.toml" if name in built_in_targets() else Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise RecipeError(
            f"expected a target ({', '.join(built_in_targets())}) or a .toml file, but got {name!r}; check the name"
        )
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"expected TOML in target {path}, but it cannot be parsed: {error}") from None
    return _parse(path, content)


def _folder() -> Path:
    return recipe_folder() / "targets"


def _parse(path: Path, content: dict[str, Any]) -> DeviceTarget:
    name = path.stem
    _require_keys(name, "the top level", content, _KEYS, optional=("operators", "architectures"))
    for key in _TEXTS:
        _text(name, key, content[key])
    threads = content["threads"]
    if not isinstance(threads, list) or not threads or not all(type(n) is int and n > 0 for n in threads):
        raise _malformed(name, "threads as a list of whole numbers above 0", threads)
    architectures = content.get("architectures", [])
    if not isinstance(architectures, list) or not all(isinstance(one, str) and one for one in architectures):
        raise _malformed(name, 'architectures as a list of words like "aarch64"', architectures)
    limits = _table(name, "limits", content["limits"])
    _require_keys(name, "[limits]", limits, tuple(DeviceLimits.__dataclass_fields__))
    for key in ("size_mb", "memory_mb"):
        if type(limits[key]) not in (int, float) or not limits[key] > 0:
            raise _malformed(name, f"limits.{key} above 0", limits[key])
    _text(name, "limits.why", limits["why"])
    deliveries = tuple(_delivery(path, entry) for entry in _tables(name, "artefacts", content["artefacts"]))
    load_recipes(tuple(delivery.recipe_name for delivery in deliveries))  # two must not write the same file
    return DeviceTarget(
        name=name,
        title=content["title"],
        hardware=content["hardware"],
        quantization=content["quantization"],
        threads=tuple(threads),
        architectures=tuple(architectures),
        artefacts=deliveries,
        limits=DeviceLimits(**limits),
        operators=_operators(name, content["operators"], deliveries) if "operators" in content else None,
        sources=tuple(_source(name, entry) for entry in _tables(name, "sources", content["sources"])),
    )


def _delivery(path: Path, entry: dict[str, Any]) -> Delivery:
    name = path.stem
    _require_keys(name, "[[artefacts]]", entry, ("recipe", "input", "output", "why"))
    for key, value in entry.items():
        _text(name, f"artefacts.{key}", value)
    beside = path.parent / entry["recipe"]
    recipe_name = str(beside) if entry["recipe"].endswith(".toml") else entry["recipe"]
    recipe = load_recipes((recipe_name,))[0]
    if (entry["input"], entry["output"]) != (recipe.input_dtype, recipe.output_dtype):
        raise _malformed(
            name,
            f"input {recipe.input_dtype} and output {recipe.output_dtype} for {recipe.name}, which is what it makes,",
            f"{entry['input']} and {entry['output']}",
        )
    return Delivery(recipe, recipe_name, entry["input"], entry["output"], entry["why"])


def _operators(name: str, content: object, deliveries: tuple[Delivery, ...]) -> dict[str, tuple[str, ...]]:
    table = _table(name, "operators", content)
    for operator, rules in table.items():
        if not isinstance(rules, list) or not set(map(str, rules)) <= set(CONSTRAINTS):
            known = ", ".join(repr(rule) for rule in CONSTRAINTS)
            raise _malformed(name, f"operators.{operator} as a list of constraints ({known})", rules)
    if other := [d.recipe.name for d in deliveries if d.recipe.format != "tflite"]:
        raise _malformed(name, "only tflite recipes beside a list of operators", ", ".join(other))
    return {operator: tuple(rules) for operator, rules in table.items()}


def _source(name: str, entry: dict[str, Any]) -> Source:
    _require_keys(name, "[[sources]]", entry, ("title", "url"))
    for key, value in entry.items():
        _text(name, f"sources.{key}", value)
    return Source(**entry)


def _require_keys(
    name: str, where: str, table: dict[str, Any], known: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    unknown, missing = sorted(set(table) - set(known)), sorted(set(known) - set(table) - set(optional))
    if unknown or missing:
        came = [*(f"{key} too" for key in unknown), *(f"no {key}" for key in missing)]
        raise _malformed(name, f"{', '.join(known)} at {where}", ", ".join(came))


def _table(name: str, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(name, f"a table [{key}]", value)
    return value


def _tables(name: str, key: str, value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise _malformed(name, f"one or more tables [[{key}]]", value)
    return value


def _text(name: str, key: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        raise _malformed(name, f"{key} as one line of text", value)


def _malformed(name: str, expected: str, came: object) -> RecipeError:
    shown = came if isinstance(came, str) else repr(came)
    return RecipeError(f"expected {expected} in target {name}, but got {shown}; change the file")
