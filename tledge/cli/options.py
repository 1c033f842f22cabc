"""Options of commands: those of a stage's settings, and those that several commands take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

import click

from tledge.core.settings import Option, Settings, options

run_argument = click.argument("run", type=click.Path(path_type=Path))
data_argument = click.argument("data", type=click.Path(path_type=Path))
signed_argument = click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|FILE..."
)
out_option = click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="Where the run goes."
)
artefact_option = click.option(
    "--artefact",
    "artefacts",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="This file; repeat for several. Default: every exported file of the run.",
)
threads_option = click.option("--threads", type=int, help="Threads of one inference. Default: all available cores.")
recipe_option = click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME|FILE",
    help="Built-in recipe or TOML file; repeat for several. Default: the six of tflite and onnx.",
)
target_option = click.option(
    "--target",
    metavar="NAME|FILE",
    help="For this kind of device: a built-in target (`tledge targets` lists them) or a TOML file.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where RUN's images are now, if not where they were at training.",
)


def options_of(
    *,
    besides: type[Settings] | None = None,
    without: Collection[str] = (),
    only_with: str | None = None,
    **parameters: type[Settings] | Settings,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Take the options of settings; the command gets the settings.

    Args:
        besides: settings whose options the command takes already: where names are the same, the value is shared.
        without: options that this command does not take.
        only_with: an option without which the command gets None for the settings.
        parameters: of the command, each with a class of settings, or with settings that hold its defaults.

    Raises:
        SettingsError: when the command is called, what the classes raise.
    """
    taken = {*without, *(one.name for one in (options(besides) if besides else ()))}
    offered: dict[str, Option] = {}
    for settings in parameters.values():
        for one in options(settings if isinstance(settings, type) else type(settings)):
            default = one.default if isinstance(settings, type) else getattr(settings, one.name)
            default = None if one.name == only_with else default
            if one.name not in taken:
                offered.setdefault(one.name, replace(one, default=default))

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def collect(*arguments: Any, **given: Any) -> Any:
            values = click.get_current_context().params
            others = {name: value for name, value in given.items() if name not in offered or name == only_with}
            wanted = only_with is None or values[only_with] not in (None, ())
            made = {name: _made(kind, values) if wanted else None for name, kind in parameters.items()}
            return function(*arguments, **others, **made)

        command: Callable[..., Any] = collect
        for one in reversed(offered.values()):
            command = _click_option(one)(command)
        return command

    return decorate


def _made(settings: type[Settings] | Settings, values: Mapping[str, Any]) -> Settings:
    kind = settings if isinstance(settings, type) else type(settings)
    chosen = {
        one.name: one.parse(values[one.name]) if one.parse and values[one.name] else values[one.name]
        for one in options(kind)
        # Another class may let an option open that this one has a default for.
        if one.name in values and not (values[one.name] is None and one.default is not None)
    }
    return kind(**chosen) if isinstance(settings, type) else replace(settings, **chosen)


def _click_option(one: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if one.kind is bool:
        flag = {"flag_value": not one.default, "default": one.default} if one.default else {"is_flag": True}
        return click.option(one.flag, one.name, help=one.help, **flag)
    kind = click.Path(path_type=Path) if one.kind is Path else click.Choice(one.choices) if one.choices else one.kind
    is_list_of_numbers = one.multiple and one.kind is int
    default = None if one.default in (MISSING, ()) else one.default
    bare = {} if one.bare is None else {"is_flag": False, "flag_value": one.bare}
    return click.option(
        one.flag,
        one.name,
        type=str if is_list_of_numbers or one.parse else kind,
        # To click, a default of None is one, and the option then never missing.
        **({"required": True} if one.default is MISSING else {"default": default}),
        show_default=default is not None,
        multiple=one.multiple,
        metavar=one.metavar,
        callback=_whole_numbers if is_list_of_numbers else None,
        help=one.help,
        **bare,
    )


def _whole_numbers(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    """Callback of a repeated option: `--threads 1,2 --threads 4` are three numbers."""
    try:
        return tuple(int(part) for value in values for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected whole numbers joined by commas, but got {','.join(values)!r}.") from None


def given_options(names: Collection[str]) -> tuple[str, ...]:
    """Flags of the parameters among `names` that the user gave, in the order of the command's help."""
    context = click.get_current_context()
    default = (None, click.core.ParameterSource.DEFAULT)
    return tuple(
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(str(parameter.name)) not in default
    )


def names_of(*kinds: type[Settings]) -> tuple[str, ...]:
    """Names of the options of settings."""
    return tuple(one.name for kind in kinds for one in options(kind))
