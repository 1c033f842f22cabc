"""Results on a terminal, or in the log of a job."""

from __future__ import annotations

import sys

import click

from tledge.reporting.tables import Table

_STYLES = {
    "FAIL": "bold red",
    "missing": "bold red",
    "pass": "green",
    "ok": "green",
    "note": "yellow",
    "undecided": "yellow",
}
# Wide enough for every table: a log has no width of its own.
_LOG_COLUMNS = 200


def render(*blocks: Table | str) -> None:
    """Print tables and lines, one after the other; colours only on a terminal."""
    for block in blocks:
        if isinstance(block, Table):
            _print_table(block)
        else:
            click.echo(block)


def _print_table(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    on_terminal = sys.stdout.isatty()
    shown = RichTable(*table.header, title=table.title or None, box=box.ROUNDED if on_terminal else box.ASCII2)
    for row in table.rows:
        # Text is no markup: a class may be called [bold].
        shown.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
    Console(width=None if on_terminal else _LOG_COLUMNS, highlight=False).print(shown)
