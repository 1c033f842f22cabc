"""Options that several commands take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click

from tledge.core.settings import Option, Settings, options
from tledge.evaluation.gates import GATES
from tledge.evaluation.gates.gate import OnUndecided

run_argument = click.argument("run", type=click.Path(path_type=Path))
data_argument = click.argument("data", type=click.Path(path_type=Path))
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


def whole_numbers(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    """Callback of a repeated option: `--threads 1,2 --threads 4` are three numbers."""
    try:
        return tuple(int(part) for value in values for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected whole numbers joined by commas, but got {','.join(values)!r}.") from None


def options_of(kind: type[Settings], name: str = "settings") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Take every option of a class of settings; the command gets them as one object of it, under `name`.

    Raises:
        SettingsError: when the command is called, what the class raises.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def collect(*arguments: Any, **given: Any) -> Any:
            chosen = {one.name: given.pop(one.name) for one in options(kind)}
            return function(*arguments, **{name: kind(**chosen)}, **given)

        command: Callable[..., Any] = collect
        for one in reversed(options(kind)):
            command = _click_option(one)(command)
        return command

    return decorate


def _click_option(one: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if one.kind is bool:
        return click.option(one.flag, one.name, is_flag=True, help=one.help)
    kind = click.Path(path_type=Path) if one.kind is Path else click.Choice(one.choices) if one.choices else one.kind
    default = None if one.default in (MISSING, ()) else one.default
    return click.option(
        one.flag,
        one.name,
        type=kind,
        default=default,
        show_default=default is not None,
        required=one.default is MISSING,
        multiple=one.multiple,
        metavar=one.metavar,
        help=one.help,
    )


def gate_options(on_undecided: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Take limits and what an undecided gate counts as; the command gets them as `settings_of_check`."""
    options = (
        click.option("--max-drop", help="Short for --gate 'drop <= …'; default: the recipe's, or 0.02."),
        click.option(
            "--gate",
            "gates",
            multiple=True,
            metavar="LIMITS",
            help="Limits for all files, such as 'drop < 0.02, size < 2 MB'; repeat for more. On: "
            f"{', '.join(kind.metric.name for kind in GATES.values())}.",
        ),
        click.option(
            "--on-undecided",
            type=click.Choice(("pass", "fail")),
            default=on_undecided,
            show_default=True,
            help="What a gate counts as that the number of images cannot decide.",
        ),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def collect(
            *given: Any, max_drop: str | None, gates: tuple[str, ...], on_undecided: OnUndecided, **others: Any
        ) -> Any:
            from tledge.evaluation.gates import parse_limits
            from tledge.evaluation.settings import CheckSettings

            if max_drop is not None:
                parse_limits(f"max_drop={max_drop}", "--max-drop")
            limits = parse_limits([*gates, *([] if max_drop is None else [f"max_drop={max_drop}"])])
            return function(*given, settings_of_check=CheckSettings(limits, on_undecided), **others)

        for option in reversed(options):
            collect = option(collect)
        return collect

    return decorate
