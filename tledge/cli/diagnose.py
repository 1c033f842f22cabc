"""`tledge diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.options import data_option, run_argument
from tledge.cli.progress import progress
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say

if TYPE_CHECKING:
    from tledge.diagnosis.answers import Hypothesis
    from tledge.diagnosis.layers import LayerError


@click.command("diagnose")
@run_argument
@click.argument("artefact", type=click.Path(path_type=Path))
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Also write everything as JSON."
)
@data_option
def command(run: Path, artefact: Path, json_path: Path | None, data: Path | None) -> None:
    """Say why ARTEFACT of RUN answers differently from the model it was exported from, layer by layer."""
    from tledge.diagnosis.diagnose import diagnose

    with progress() as show:
        result = diagnose(run, artefact, json_path=json_path, data=data, progress=show)
    columns = ("layer", "own SQNR dB", "SQNR dB", "fall dB", "cosine", "range / needed", "clipped", "dead channels")
    render(Table(columns, [_layer(layer) for layer in result.layers], f"{result.artefact}: layers, worst first"))
    guesses = ("if this were the fault", "answers differ by", "first convolution dB")
    same = ("nothing", f"{result.distance:.2g}", "")
    render(Table(guesses, [same, *map(_guess, result.hypotheses)], f"n = {result.images} calibration images"))
    if result.moves:
        rows = [(move.expected, move.got, str(move.images)) for move in result.moves]
        render(Table(("model", "file", "images"), rows, f"changed of {result.validation_images} validation images"))
    say(f"{result.cause}: {result.sentence}")


def _layer(layer: LayerError) -> tuple[str, ...]:
    return (
        layer.name,
        f"{layer.own_sqnr_db:.1f}",
        f"{layer.sqnr_db:.1f}",
        f"{layer.fall_db:+.1f}",
        f"{layer.cosine:.4f}",
        "–" if layer.range_ratio is None else f"{layer.range_ratio:.2f}",
        "–" if layer.clipped is None else f"{layer.clipped:.2%}",
        f"{layer.dead_channels} / {layer.channels}",
    )


def _guess(guess: Hypothesis) -> tuple[str, ...]:
    first_layer = guess.first_layer_sqnr_db
    return guess.what, f"{guess.distance:.2g}", "" if first_layer is None else f"{first_layer:.1f}"
