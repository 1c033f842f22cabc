"""Tables of texts: CSV, TSV and JSONL files; which column is the text, and which the label."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.data.names import shown
from tledge.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_TEXT_NAMES = ("text", "sentence", "review", "comment", "content", "message", "body", "document", "tweet", "title")
_LABEL_NAMES = ("label", "class", "category", "target", "sentiment", "topic", "y")
# Prose has several words a cell; names, numbers and paths do not.
_LEAST_WORDS = 3.0
# Labels repeat; identifiers do not.
_MOST_LABEL_SHARE = 0.2
_SAMPLE = 200


@dataclass(frozen=True)
class TextTable:
    """The texts of a table and their labels: empty where a row has none, None where no column holds labels."""

    text_column: str
    label_column: str | None
    texts: tuple[str, ...]
    labels: tuple[str, ...] | None


def read_table(path: Path) -> TextTable:
    """Read a table and find its columns, first by their names, then by what is in them.

    Args:
        path: .csv, .tsv, .jsonl or .ndjson, UTF-8; a CSV's first line names the columns.

    Raises:
        DataError: unreadable, empty, or without a column of text.
    """
    try:
        columns = _read_jsonl(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _read_csv(path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"expected a table of texts in UTF-8, but {shown(path)} cannot be read ({error})") from None
    if not columns or not next(iter(columns.values())):
        raise DataError(f"expected rows with named columns, but {shown(path)} has none; check the file")
    text = _text_column(columns)
    if text is None:
        raise DataError(
            f"expected a column of text, but {shown(path)} has {', '.join(columns)} with numbers, names or paths; "
            "tledge selects for images and texts"
        )
    label = _label_column({name: cells for name, cells in columns.items() if name != text})
    labels = None if label is None else tuple(columns[label])
    kept = [row for row, cell in enumerate(columns[text]) if cell.strip()]
    return TextTable(
        text,
        label,
        tuple(columns[text][row] for row in kept),
        None if labels is None else tuple(labels[row].strip() for row in kept),
    )


def _read_csv(path: Path) -> dict[str, list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names, rows = reader.fieldnames or (), list(reader)
    return {name: [row.get(name) or "" for row in rows] for name in names if name}


def _read_jsonl(path: Path) -> dict[str, list[str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"expected one JSON object a line in {shown(path)}, but got other values; check the file")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: ["" if row.get(name) is None else str(row[name]) for row in rows] for name in names}


def _text_column(columns: dict[str, list[str]]) -> str | None:
    words = {name: _mean_words(cells) for name, cells in columns.items()}
    named = [name for name in columns if name.strip().lower() in _TEXT_NAMES and words[name] > 1.0]
    if named:
        return max(named, key=words.__getitem__)
    wordiest = max(columns, key=words.__getitem__)
    return wordiest if words[wordiest] >= _LEAST_WORDS else None


def _label_column(columns: dict[str, list[str]]) -> str | None:
    for name in _LABEL_NAMES:
        for column in columns:
            if column.strip().lower() == name:
                return column
    for column, cells in columns.items():
        filled = [cell for cell in cells if cell.strip()]
        if filled and 2 <= len(set(filled)) <= max(2, _MOST_LABEL_SHARE * len(filled)) and _mean_words(filled) < 3:
            return column
    return None


def _mean_words(cells: Sequence[str]) -> float:
    sample = [cell for cell in cells if cell.strip()][:_SAMPLE]
    return sum(len(cell.split()) for cell in sample) / len(sample) if sample else 0.0
