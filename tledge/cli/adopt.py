"""`tledge adopt`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from tledge.adoption.settings import AdoptSettings
from tledge.cli.options import options_of, out_option
from tledge.cli.progress import print_notes, progress
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say


@click.command("adopt")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Labelled images, one folder a class.")
@out_option
@options_of(settings=AdoptSettings)
def command(model: Path, data: Path, out: Path, settings: AdoptSettings) -> None:
    """Make a run of MODEL, a finished Keras classifier (.keras, .h5 or a SavedModel of Keras 2).

    The run's reference takes RGB pixels of 0..255 and gives probabilities: --input says what the model itself takes.
    """
    from tledge.adoption.adopt import adopt

    with progress() as show:
        adopted = adopt(model, data, settings, out, show)
    print_notes(adopted.notes)
    manifest = adopted.manifest
    images = manifest.split.images
    rows = [
        ("images", ", ".join(f"{subset} {count}" for subset, count in images.items())),
        ("classes", ", ".join(manifest.classes)),
        ("takes", adopted.form),
        ("validation accuracy", f"{manifest.training.val_accuracy:.3f} (n = {images['val']})"),
        ("run", str(out)),
    ]
    render(Table(("adopted", model.name), rows))
    say(f"Next: tledge export {shlex.quote(str(out))}")
