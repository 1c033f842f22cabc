"""Settings of a stage: each option is written once, as a field of a frozen dataclass, and serves every way to give it.

    @dataclass(frozen=True)
    class TrainSettings(Settings):
        image_size: int = option(224, help="Side of the input in pixels, at least 32.", low=32, unit="px")

The field's name is the keyword in Python and, with hyphens, the option on the command line; its type and choices are
those of the annotation. `Settings` checks ranges, `tledge.cli.options.options_of` makes the options of a command, and
`public_call` the call in Python.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from tledge.core.errors import SettingsError
from tledge.core.surroundings import give_back

AnyPath: TypeAlias = str | os.PathLike[str]
Result = TypeVar("Result")

_KEY = "tledge.option"
_EMPTY, _EITHER, _KEYWORD = (
    inspect.Parameter.empty,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


@dataclass(frozen=True)
class Option:
    """One option of a stage, as its field declares it.

    `kind` is the type of one value: bool, int, float, str, Path, or another if there is `parse`. A `multiple` option
    holds a tuple of them. `default` is `dataclasses.MISSING` for what has to be given. `annotation` says what a
    keyword in Python takes. `choices` is empty where any
    value in the range will do; `low` and `high` belong to the range, `above` and `below` do not.

    `unit`, `because` and `noun` are words of the message about a value out of range, `metavar` that of the help.
    `parse` makes the value from text, as the command line has it: of all texts if it is `multiple`.
    """

    default: Any
    help: str
    low: float | None
    high: float | None
    above: float | None
    below: float | None
    unit: str
    because: str
    noun: str
    flag: str
    metavar: str | None
    parse: Callable[[Any], Any] | None
    multiple: bool
    bare: Any
    name: str = ""
    kind: type = str
    choices: tuple[str, ...] = ()
    annotation: str = ""

    def from_python(self, value: Any) -> Any:
        """What the settings hold for the value of a keyword: paths as Path; one value, several or none as a tuple."""
        if self.parse is not None:
            return self.parse((value,) if self.multiple else value) if isinstance(value, str) else value
        if self.multiple:
            several = () if value is None else (value,) if isinstance(value, str | os.PathLike | float | int) else value
            return tuple(map(self._one, several))
        return self._one(value)

    def _one(self, value: Any) -> Any:
        return Path(value) if self.kind is Path and value is not None else value

    def require(self, value: Any) -> None:
        """Check one value.

        Raises:
            SettingsError: it is not among the choices or out of range.
        """
        if self.choices and value not in self.choices:
            wanted = (
                f"{self.noun} ({', '.join(self.choices)})" if self.noun else f"{self.flag} {' or '.join(self.choices)}"
            )
            raise SettingsError(f"expected {wanted}, but got {value!r}; choose one of them")
        if self.low is self.high is self.above is self.below is None:
            return
        high_enough = (self.low is None or value >= self.low) and (self.above is None or value > self.above)
        low_enough = (self.high is None or value <= self.high) and (self.below is None or value < self.below)
        if not (high_enough and low_enough and math.isfinite(value)):
            wanted = f"{self._range()}, {self.because}," if self.because else f"{self._range()},"
            advice = f"choose a {'smaller' if high_enough else 'larger'} value"
            raise SettingsError(f"expected {self.noun or self.flag} {wanted} but got {value}; {advice}")

    def _range(self) -> str:
        if self.low is not None and self.high is not None:
            words = f"between {self.low} and {self.high}"
        else:
            parts = (("of at least", self.low), ("above", self.above), ("of at most", self.high), ("below", self.below))
            words = " and ".join(f"{word} {bound}" for word, bound in parts if bound is not None)
        return f"{words} {self.unit}" if self.unit else words


def option(
    default: Any = MISSING,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    unit: str = "",
    because: str = "",
    noun: str = "",
    flag: str = "",
    metavar: str | None = None,
    parse: Callable[[Any], Any] | None = None,
    multiple: bool = False,
    bare: Any = None,
) -> Any:
    """Declare a field of `Settings` as an option; see `Option` for what the arguments mean.

    Args:
        default: None where the stage finds one by itself; without one the option has to be given.
        help: what `--help` says, a sentence.
        low, high, above, below: the range.
        unit, because, noun: words of messages.
        flag: on the command line, if it is not the field's name.
        metavar: what `--help` shows for the value.
        parse: from text to the value, for values that are neither numbers nor text.
        bare: the value of an option that stands on the command line without one.
        multiple: with `parse`, which then gets a tuple of texts; a field of another kind is one if it is a tuple.
    """
    declared = Option(default, help, low, high, above, below, unit, because, noun, flag, metavar, parse, multiple, bare)
    return dataclasses.field(default=default, metadata={_KEY: declared})


def option_of(kind: type[Settings], name: str) -> Any:
    """Declare a field as the option that another class of settings has under this name."""
    (same,) = (one for one in dataclasses.fields(kind) if one.name == name)
    return dataclasses.field(default=same.default, metadata=same.metadata)


@dataclass(frozen=True)
class Settings:
    """Base of the settings of a stage, which are frozen dataclasses: checks choices and ranges.

    A class with checks of its own extends `__post_init__`.
    """

    def __post_init__(self) -> None:
        for one in options(type(self)):
            value = getattr(self, one.name)
            if value is not None and one.parse is None:
                for each in value if one.multiple else (value,):
                    one.require(each)


def options(kind: type[Settings]) -> tuple[Option, ...]:
    """The options of a class of settings, in the order in which they are written."""
    hints = typing.get_type_hints(kind)
    return tuple(_option(field, hints[field.name]) for field in dataclasses.fields(kind) if _KEY in field.metadata)


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    declared: Option = field.metadata[_KEY]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint, *_ = (part for part in typing.get_args(hint) if part is not types.NoneType)
    is_tuple = declared.parse is None and typing.get_origin(hint) is tuple
    hint = typing.get_args(hint)[0] if is_tuple else hint
    is_choice = typing.get_origin(hint) is Literal
    return dataclasses.replace(
        declared,
        name=field.name,
        flag=declared.flag or f"--{field.name.replace('_', '-')}",
        kind=str if is_choice else hint,
        multiple=declared.multiple or is_tuple,
        choices=typing.get_args(hint) if is_choice else (),
        annotation=_annotation(declared, str(field.type), is_tuple),
    )


def _annotation(declared: Option, written: str, is_tuple: bool) -> str:
    if declared.parse is not None:
        return f"str | {written}"
    written = re.sub(r"\bPath\b", "AnyPath", written)
    one = re.sub(r"^tuple\[(.*), \.\.\.\]$", r"\1", written)
    return f"{one} | Sequence[{one}] | None" if is_tuple else written


class _Folder(Protocol):
    @property
    def path(self) -> Path: ...


class HasRun(Protocol):
    """What `train` and other stages return: it knows the run it belongs to."""

    @property
    def run(self) -> _Folder:
        """The run."""


AnyRun: TypeAlias = AnyPath | HasRun


def public_call(function: Callable[..., Result]) -> Callable[..., Result]:
    """A stage's function as callers in Python get it.

    Where it takes `Settings`, the call takes their options: what has to be given in the place of the settings, the
    others by keyword, with the defaults of the parameter's default if it has one. Where it takes a `Path`, the call
    takes text too. `run_path` becomes `run`, which may also be what a stage returned.
    """
    signature = inspect.signature(function)
    spread = settings_of(function)
    public = signature.replace(parameters=_public_parameters(signature, spread))
    converters = {_RENAMED.get(name, name): _converter(one) for name, one in signature.parameters.items()}

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Result:
        given = public.bind(*arguments, **keywords).arguments
        made = {}
        for name, parameter in signature.parameters.items():
            shown = _RENAMED.get(name, name)
            if name in spread:
                kind, default = spread[name], parameter.default
                chosen = {one.name: one.from_python(given[one.name]) for one in options(kind) if one.name in given}
                made[name] = kind(**chosen) if default is _EMPTY else dataclasses.replace(default, **chosen)
            elif shown in given:
                made[name] = converters[shown](given[shown])
        bound = inspect.BoundArguments(signature, made)
        try:
            return function(*bound.args, **bound.kwargs)
        finally:
            give_back()

    call.__signature__ = public  # type: ignore[attr-defined]
    call.__doc__ = _documented(inspect.getdoc(function) or "", spread)
    return call


_RENAMED = {"run_path": "run", "run_paths": "runs"}
_SHOWN = {"Path": "AnyPath", "Path | None": "AnyPath | None", "Sequence[Path]": "Sequence[AnyPath]"}


def settings_of(function: Callable[..., Any]) -> dict[str, type[Settings]]:
    """The parameters of a function that take settings, each with its class."""
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = parameter.annotation
        if isinstance(kind, str):
            kind = inspect.unwrap(function).__globals__.get(kind)
        if isinstance(kind, type) and issubclass(kind, Settings):
            found[name] = kind
    return found


def _public_parameters(signature: inspect.Signature, spread: Mapping[str, type[Settings]]) -> list[inspect.Parameter]:
    positional: list[inspect.Parameter] = []
    by_keyword: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in spread:
            annotation = "AnyRun" if name in _RENAMED else _SHOWN.get(parameter.annotation, parameter.annotation)
            parameter = parameter.replace(name=_RENAMED.get(name, name), annotation=annotation)
            (by_keyword if parameter.kind is _KEYWORD else positional).append(parameter)
            continue
        for one in options(spread[name]):
            default = one.default if parameter.default is _EMPTY else getattr(parameter.default, one.name)
            if default is MISSING:
                positional.append(inspect.Parameter(one.name, _EITHER, annotation=one.annotation))
            else:
                by_keyword.append(inspect.Parameter(one.name, _KEYWORD, default=default, annotation=one.annotation))
    return [*positional, *by_keyword]


def _converter(parameter: inspect.Parameter) -> Callable[[Any], Any]:
    """From what a caller gives to what the stage takes."""
    if parameter.name == "run_path":
        return _path_of_run
    if parameter.name == "run_paths":
        return lambda runs: tuple(map(_path_of_run, runs))
    if parameter.annotation == "Sequence[Path]":
        return lambda paths: tuple(map(Path, paths))
    if parameter.annotation in ("Path", "Path | None"):
        return lambda path: None if path is None else Path(path)
    return lambda value: value


def _path_of_run(run: AnyRun) -> Path:
    return Path(run) if isinstance(run, str | os.PathLike) else run.run.path


def _documented(text: str, spread: Mapping[str, type[Settings]]) -> str:
    """A docstring whose section `Args:` names the options in place of the settings, and `run`."""

    def entries(match: re.Match[str]) -> str:
        lines = (f"    {one.name}: {one.help}" for one in options(spread[match[1]]))
        return "".join(textwrap.fill(line, 110, subsequent_indent=" " * 8) + "\n" for line in lines)

    if spread:
        entry = rf"^    ({'|'.join(spread)}): .*\n(?:     .*\n)*"
        text = re.sub(entry, entries, f"{text}\n", flags=re.MULTILINE).rstrip()
    return re.sub(r"^    run_path(s?):", r"    run\1:", text, flags=re.MULTILINE)
