"""`tledge train`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click

from tledge.cli.options import data_argument, options_of, out_option
from tledge.cli.progress import print_notes, progress
from tledge.core.errors import SettingsError
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say
from tledge.runs.unfinished import ResumeSettings
from tledge.training.settings import TrainSettings


@click.command("train")
@data_argument
@out_option
@options_of(settings=TrainSettings, resuming=ResumeSettings)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Train in this many processes here, each on a GPU of its own (untried), or to try what TF_CONFIG does.",
)
def command(data: Path, out: Path, settings: TrainSettings, resuming: ResumeSettings, workers: int) -> int:
    """Train a reference model on the images in DATA (class/*.jpg, or train/ val/ test/ of that shape)."""
    if workers > 1:
        from tledge.cli.workers import train_together, without_workers

        if os.environ.get("TF_CONFIG"):
            raise SettingsError("expected --workers without TF_CONFIG, which names workers too; leave one of them out")
        return train_together(workers, without_workers(sys.argv[1:]))
    from tledge.training.train import train

    with progress() as show:
        trained = train(data, settings, out, show, resuming=resuming)
    print_notes(trained.notes)
    manifest = trained.manifest
    images, training = manifest.split.images, manifest.training
    rows = [
        ("images", ", ".join(f"{subset} {count}" for subset, count in images.items())),
        ("classes", ", ".join(manifest.classes)),
        ("weights", manifest.weights.source),
        ("epochs", f"{training.epochs}, best {training.best_epoch}"),
        ("validation accuracy", f"{training.val_accuracy:.3f} (n = {images['val']})"),
        ("run", str(out)),
    ]
    if chosen := manifest.weights.selection:
        rows += [(f"why {key}", chosen[key]) for key in ("weights", "technique") if key in chosen]
    render(Table((str(manifest.technique), ""), rows))
    say(f"Next: tledge export {shlex.quote(str(out))}")
    return 0
