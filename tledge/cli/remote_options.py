"""Options of `tledge bench` for other machines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tledge.cli.options import target_option
from tledge.core.errors import SettingsError

_OPTIONS = (
    click.option(
        "--on",
        multiple=True,
        metavar="URL",
        help="On ssh://user@host[:port] or adb[:SERIAL] instead of here; may be repeated.",
    ),
    click.option("--also-here", is_flag=True, help="With --on: on this machine too."),
    target_option,
    click.option("--time-limit", type=float, metavar="SECONDS", help="With --on: most for one machine. Default: 3600."),
    click.option("--remote-python", metavar="COMMAND", help="With --on: the Python there. Default: python3."),
    click.option("--ssh-config", type=click.Path(path_type=Path), help="With --on: a file instead of ~/.ssh/config."),
    click.option(
        "--benchmark-model",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="With --on adb: Google's benchmark_model for the device, which needs no Python there; TFLite files only.",
    ),
    click.option(
        "--data", type=click.Path(path_type=Path), metavar="DIR", help="With --on: where RUN's images are now."
    ),
    click.option("--no-cache", is_flag=True, help="With --on: leave no copy of the kit there."),
)


@dataclass(frozen=True)
class RemoteChoice:
    """Which other machines to measure on, and how to get there; the names are those of the options."""

    on: tuple[str, ...]
    also_here: bool
    target: str | None
    time_limit: float | None
    remote_python: str | None
    ssh_config: Path | None
    benchmark_model: Path | None
    data: Path | None
    no_cache: bool


def remote_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the options; the command gets them as `remote`, None without --on.

    Raises:
        SettingsError: one of the others without --on.
    """

    @functools.wraps(function)
    def collect(*arguments: Any, **options: Any) -> Any:
        choice = RemoteChoice(**{name: options.pop(name) for name in RemoteChoice.__dataclass_fields__})
        alone = [name for name, value in vars(choice).items() if value and name != "on"]
        if not choice.on and alone:
            option = f"--{alone[0].replace('_', '-')}"
            raise SettingsError(f"expected {option} together with --on, but got no --on; name a machine or leave it")
        return function(*arguments, remote=choice if choice.on else None, **options)

    for decorate in reversed(_OPTIONS):
        collect = decorate(collect)
    return collect
