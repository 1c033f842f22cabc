"""`tledge report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.display import table
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
    from tledge.reporting.report import COLUMNS

    table(COLUMNS, [row.cells for row in result.rows])
    if result.hosts is not None:
        table(result.hosts.header, result.hosts.rows, title="p50 ms here and there")
    for note in result.notes:
        click.echo(note)
    click.echo(f"Files: {result.run.exports}, report: {result.run.report}")
