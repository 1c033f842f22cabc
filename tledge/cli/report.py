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
def command(run: Path, data: Path | None, show: bool) -> None:
    """Show RUN as one table, and write its page report.html, report.md and MODEL_CARD.md.

    What only you know about the model (licence, intended use, limits) stands in model_card.toml in RUN.
    """
    from tledge.reporting.report import report

    result = report(run, data=data)
    print_report(result)
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
