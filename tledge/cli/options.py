"""Options that several commands take."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tledge.core.types import AUTO, COMPUTE_TYPES, HEADS, TECHNIQUES
from tledge.stats.gates import KINDS, OnUndecided

run_argument = click.argument("run", type=click.Path(path_type=Path))
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


def whole_numbers(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    """Callback of a repeated option: `--threads 1,2 --threads 4` are three numbers."""
    try:
        return tuple(int(part) for value in values for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected whole numbers joined by commas, but got {','.join(values)!r}.") from None


_TRAINING = (
    click.argument("data", type=click.Path(path_type=Path)),
    click.option(
        "--technique",
        required=True,
        type=click.Choice((*TECHNIQUES, AUTO)),
        help="Transfer-learning technique; auto follows a selection.",
    ),
    click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN", help="Where the run goes."),
    click.option("--weights", default="imagenet", show_default=True, help="imagenet, random, auto, a name, or a file."),
    click.option("--selection", metavar="FILE", help="For auto. Default: ./select.json if it fits, else made anew."),
    click.option("--head", type=click.Choice(HEADS), help="Default: gap for feature-extraction, else flatten."),
    click.option("--image-size", default=224, show_default=True, help="Side of the input in pixels, at least 32."),
    click.option("--epochs", type=int, help="Most epochs to train; stops early when validation no longer improves."),
    click.option("--batch-size", default=16, show_default=True, help="Images per training step."),
    click.option("--learning-rate", type=float, help="Of Adam. Default: 1e-3 for a head alone, smaller otherwise."),
    click.option("--patience", type=int, help="Epochs without a better validation loss before training stops."),
    click.option("--freeze-until", help="freeze only: last frozen layer, or how many (0-19). Default: block4_pool."),
    click.option(
        "--class-weights",
        "class_weighting",
        type=click.Choice(("balanced", "none")),
        default="balanced",
        show_default=True,
        help="Let rare classes count as much as frequent ones.",
    ),
    click.option("--augment", is_flag=True, help="Flip, turn and zoom training images at random."),
    click.option(
        "--compute",
        type=click.Choice(COMPUTE_TYPES),
        default="float32",
        show_default=True,
        help="bfloat16 trains several times faster on processors with AMX; weights and files stay float32.",
    ),
    click.option("--val-fraction", default=0.2, show_default=True, help="Share of images for validation."),
    click.option("--test-fraction", default=0.2, show_default=True, help="Share of images for the check."),
    click.option("--seed", default=0, show_default=True, help="Same seed, same data: same split, same result."),
    click.option("--skip-unreadable", is_flag=True, help="Leave unreadable files out, naming them, and go on."),
    click.option("--drop-duplicates", is_flag=True, help="Leave out copies that straddle subsets or classes."),
)


def gate_options(on_undecided: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Take limits and what an undecided gate counts as; the command gets them as `settings_of_check`."""
    options = (
        click.option("--max-drop", type=float, help="Short for --gate max_drop=…; default: the recipe's, or 0.02."),
        click.option(
            "--gate",
            "gates",
            multiple=True,
            metavar="NAME=LIMIT",
            help=f"A limit, for all files; repeat for several. Names: {', '.join(KINDS)}.",
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
            *given: Any, max_drop: float | None, gates: tuple[str, ...], on_undecided: OnUndecided, **others: Any
        ) -> Any:
            from tledge.evaluation.settings import CheckSettings
            from tledge.stats.gates import parse_limits, require_limits

            if max_drop is not None:
                require_limits({"max_drop": max_drop}, "--max-drop")
            limits = parse_limits([*gates, *([] if max_drop is None else [f"max_drop={max_drop}"])])
            return function(*given, settings_of_check=CheckSettings(limits, on_undecided), **others)

        for option in reversed(options):
            collect = option(collect)
        return collect

    return decorate


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take DATA, --out and every setting of a training; the command gets them as (data, settings, out, …)."""

    @functools.wraps(function)
    def collect(data: Path, out: Path, **options: Any) -> Any:
        from tledge.training.settings import TrainSettings

        chosen = {field.name: options.pop(field.name) for field in dataclasses.fields(TrainSettings)}
        return function(data, TrainSettings(**chosen), out, **options)

    for decorate in reversed(_TRAINING):
        collect = decorate(collect)
    return collect
