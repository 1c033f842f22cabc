"""Results on a terminal, or in the log of a job."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tledge.core.escaping import json_text, terminal
from tledge.reporting.tables import Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_STYLES = {
    "FAIL": "bold red",
    "missing": "bold red",
    "damaged": "bold red",
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
            say(block)


def say(line: str, *, err: bool = False) -> None:
    """Print one line, escaped: what is in it may come from anywhere."""
    write(terminal(line) + "\n", err=err)


def say_json(content: Any) -> None:
    """Print JSON."""
    write(json_text(content) + "\n")


def write(text: str, *, err: bool = False) -> None:
    """Write text that is escaped already. Not by click, which writes UTF-8 to a stream that says it is ASCII."""
    stream = sys.stderr if err else sys.stdout
    stream.write(text)
    stream.flush()


def as_rich(table: Table, *, on_terminal: bool) -> RichTable:
    """The table as rich has it; plain lines around it where there is no terminal."""
    from rich import box
    from rich.table import Column
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text is no markup: a class may be called [bold].
    header = [Column(Text(terminal(cell))) for cell in table.header]
    title = Text(terminal(table.title)) if table.title else None
    shown = RichTable(*header, title=title, box=box.ROUNDED if on_terminal else box.ASCII2)
    for row in table.rows:
        shown.add_row(*(Text(terminal(cell), _STYLES.get(cell, "")) for cell in row))
    return shown


def _print_table(table: Table) -> None:
    from rich.console import Console

    on_terminal = sys.stdout.isatty()
    console = Console(width=None if on_terminal else _LOG_COLUMNS, highlight=False)
    # Written like all the rest: rich itself ends the process with 1 where nobody reads on.
    with console.capture() as printed:
        console.print(as_rich(table, on_terminal=on_terminal))
    write(printed.get())
