"""Tables of texts: CSV, TSV and JSONL files; which column is the text, and which the label."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tledge.core.errors import DataError
from tledge.core.parsing import parse_json
from tledge.data.names import shown

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_DELIMITERS = ",;\t|"
_TEXT_NAMES = ("text", "sentence", "review", "comment", "content", "message", "body", "document", "tweet", "title")
_LABEL_NAMES = ("label", "class", "category", "target", "sentiment", "topic", "y")
# Prose has several words a cell; names, numbers and paths do not.
_LEAST_WORDS = 3.0
# A column's name is shorter than that; a first line that is already a text is not.
_MOST_WORDS_OF_A_NAME = 10
# Labels repeat; identifiers do not.
_MOST_LABEL_SHARE = 0.2
_SAMPLE = 200
# A cell may hold a book; the csv module's own limit is 131,072 characters.
_LONGEST_CELL = 2**31 - 1


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
        path: .csv, .tsv, .jsonl or .ndjson, UTF-8; a CSV's first line names the columns, with commas, semicolons, tabs
            or bars between them.

    Raises:
        DataError: unreadable, empty, or without a column of text.
    """
    columns = read_columns(path)
    if any(len(name.split()) > _MOST_WORDS_OF_A_NAME for name in columns):
        raise DataError(
            f"expected names of the columns in the first line, but {shown(path)} begins with a text; "
            "put a line such as label,text before it"
        )
    text = _text_column(columns)
    if text is None:
        raise DataError(
            f"expected a column of text, but {shown(path)} has {', '.join(columns)} with numbers, names or paths; "
            f"if these are images, pass their folder, and --labels-from {shown(path)}"
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


def read_columns(path: Path) -> dict[str, list[str]]:
    """Read a table by columns; a row without a cell has an empty one.

    Args:
        path: as of `read_table`.

    Raises:
        DataError: unreadable, or empty.
    """
    try:
        columns = _read_jsonl(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _read_csv(path)
    except UnicodeDecodeError:
        raise DataError(f"expected a table in UTF-8, but {shown(path)} is not; save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(
            f"expected a CSV file, but {shown(path)} cannot be read ({error}); double the quotation marks inside texts"
        ) from None
    except OSError as error:
        raise DataError(
            f"expected a table, but {shown(path)} cannot be read ({error.strerror}); check the file"
        ) from None
    if not columns or not next(iter(columns.values())):
        raise DataError(f"expected rows with named columns, but {shown(path)} has none; check the file")
    return columns


def _read_csv(path: Path) -> dict[str, list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline()
        stream.seek(0)
        # In TSV a quotation mark is one of the text's. In CSV a lone one would swallow the lines up to the next.
        quoting: Literal[0, 3] = csv.QUOTE_NONE if path.suffix.lower() == ".tsv" else csv.QUOTE_MINIMAL
        usual_limit = csv.field_size_limit(_LONGEST_CELL)
        try:
            # The one that finds the most columns; a comma if none finds two.
            delimiter = max(_DELIMITERS, key=lambda one: len(next(csv.reader([first], delimiter=one), ())))
            reader = csv.DictReader(stream, delimiter=delimiter, quoting=quoting, strict=True)
            names, rows = reader.fieldnames or (), list(reader)
        finally:
            csv.field_size_limit(usual_limit)
    return {name: [row.get(name) or "" for row in rows] for name in names if name}


def _read_jsonl(path: Path) -> dict[str, list[str]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            if isinstance(row, dict):
                rows.append({name: "" if value is None else str(value) for name, value in row.items()})
                continue
        except ValueError as error:
            reason = str(error).partition(";")[0]
            raise DataError(
                f"expected one JSON object a line, but line {number} of {shown(path)} cannot be read ({reason}); "
                "correct it"
            ) from None
        raise DataError(
            f"expected one JSON object a line, but line {number} of {shown(path)} holds another value; correct it"
        )
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, "") for row in rows] for name in names}


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
