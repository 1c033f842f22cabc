"""Results as Markdown; cells and titles are escaped here, other texts by those who put them into lines."""

from __future__ import annotations

from collections.abc import Sequence

from tledge.core.escaping import markdown
from tledge.reporting.tables import Table


def table_lines(table: Table) -> list[str]:
    """A table, line by line; its title is left to headings around it."""
    return [_row(table.header), _row(["---"] * len(table.header)), *(_row(row) for row in table.rows)]


def section(title: str, table: Table, *paragraphs: str) -> list[str]:
    """A heading, a table and paragraphs, each followed by an empty line."""
    return [f"## {markdown(title)}", "", *table_lines(table), "", *(line for text in paragraphs for line in (text, ""))]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown, cells)) + " |"
