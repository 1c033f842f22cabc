"""`tledge report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.options import run_argument

if TYPE_CHECKING:
    from tledge.reporting.report import Report


@click.command("report")
@run_argument
def command(run: Path) -> None:
    """Show RUN as one table, and write its report.md."""
    from tledge.reporting.report import report

    print_report(report(run))


def print_report(result: Report) -> None:
    """Print the table, its notes and where the files are."""
    from tledge.reporting.terminal import render

    files = f"Files: {result.run.exports}, report: {result.run.report}"
    render(result.table, *([] if result.hosts is None else [result.hosts]), *result.notes, files)
