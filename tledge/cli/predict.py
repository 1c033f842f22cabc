"""`tledge predict`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.options import options_of
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say_json
from tledge.runtimes.declared import Declarations


@click.command("predict")
@click.argument("artefact", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@options_of(declared=Declarations)
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Classes to show per image.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(artefact: Path, images: tuple[Path, ...], declared: Declarations, top: int, as_json: bool) -> None:
    """Classify every IMAGE with ARTEFACT (.tflite, .onnx, .keras, .h5, a SavedModel directory, or a run)."""
    from tledge.runtimes.predict import predict

    predictions = predict(artefact, images, top, declared)
    if as_json:
        answers = [
            {"image": str(p.image), "classes": [{"label": label, "probability": share} for label, share in p.ranking]}
            for p in predictions
        ]
        say_json(answers)
        return
    rows = [(str(p.image), ", ".join(f"{label} {share:.3f}" for label, share in p.ranking)) for p in predictions]
    render(Table(("image", "classes, best first"), rows))
