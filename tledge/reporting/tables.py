"""Results as tables: one model that every renderer takes, and one place that says how a number is written.

A cell is text already, written by the functions below, so that the terminal and Markdown cannot differ in digits.
Escaping is the renderers' work: a cell holds names of classes and files as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = "–"
"""What stands in a cell where there is no value."""

VERDICTS = {"pass": "pass", "fail": "FAIL", "undecided": "undecided"}
"""How verdicts are written: a failure stands out in any renderer."""


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header of the same length; `title` is empty where the surroundings say enough."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


def share(value: float, low: float, high: float) -> str:
    """A share in 0..1, such as an accuracy, with its interval."""
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


def difference(value: float, low: float, high: float) -> str:
    """A difference of shares, such as a drop, with its interval."""
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def ratio(value: float, low: float, high: float) -> str:
    """A ratio, such as a speed-up, with its interval."""
    return f"{value:.2f}x ({low:.2f}–{high:.2f})"


def span(low: float, high: float) -> str:
    """An interval alone."""
    return f"{low:.2f}–{high:.2f}"


def number(value: float | None, digits: int) -> str:
    """A number with so many decimals, or a dash."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def megabytes(size_bytes: int | None, digits: int) -> str:
    """Bytes in units of 10^6, or a dash."""
    return NOTHING if size_bytes is None else f"{size_bytes / 1e6:.{digits}f}"
