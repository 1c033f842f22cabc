"""`tledge report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.options import data_option, run_argument
from tledge.cli.progress import note

if TYPE_CHECKING:
    from tledge.reporting.report import Report


@click.command("report")
@run_argument
@data_option
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write events for TensorBoard.",
)
@click.option("--mlflow", is_flag=True, help="Log the run to MLflow, where its MLFLOW_TRACKING_URI says.")
def command(run: Path, data: Path | None, show: bool, tensorboard: Path | None, mlflow: bool) -> None:
    """Show RUN as one table, and write its page report.html, report.md and MODEL_CARD.md.

    What only you know about the model (licence, intended use, limits) stands in model_card.toml in RUN.
    """
    from tledge.core.dependencies import require_installed
    from tledge.reporting.report import report

    for package in [*(["tensorboard"] if tensorboard else []), *(["mlflow"] if mlflow else [])]:
        require_installed(package)
    result = report(run, data=data)
    print_report(result)
    if tensorboard is not None:
        from tledge.reporting.trackers.tensorboard import to_tensorboard

        to_tensorboard(result, tensorboard)
        click.echo(f"TensorBoard: tensorboard --logdir {tensorboard}")
    if mlflow:
        from tledge.reporting.trackers.mlflow import to_mlflow

        click.echo(f"MLflow: {to_mlflow(result)}")
    if show:
        _open(result.run.page)


def print_report(result: Report) -> None:
    """Print the table, its notes and where the files are."""
    from tledge.reporting.terminal import render

    files = f"Files: {result.run.exports}, report: {result.run.page} (as text: {result.run.report.name})"
    render(result.table, *([] if result.hosts is None else [result.hosts]), *result.notes, files)


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        note(f"note: found no browser to open; the page is {page.absolute()}")
