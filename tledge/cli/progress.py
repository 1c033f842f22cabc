"""What goes to stderr: progress of long work, as a bar on a terminal and quiet lines elsewhere, and notes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from tledge.core.escaping import visible
from tledge.core.progress import LOGGER, Progress
from tledge.reporting.tables import Table
from tledge.reporting.terminal import as_rich, say

_SIGN_OF_LIFE_S = 60.0


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on a terminal; elsewhere one quiet line per part of the work. Stages' own lines are shown too."""
    with _lines_of_stages():
        if sys.stderr.isatty():
            with _bar() as (show, _):
                yield show
        else:
            yield _Lines().show


@contextmanager
def progress_below_a_table() -> Iterator[tuple[Progress, Callable[[Table], None]]]:
    """The same on a terminal, with the table above the bar that was shown last."""
    with _lines_of_stages(), _bar() as both:
        yield both


@contextmanager
def _lines_of_stages() -> Iterator[None]:
    spoken, level = _Spoken(), LOGGER.level
    LOGGER.addHandler(spoken)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(spoken)
        LOGGER.setLevel(level)


class _Spoken(logging.Handler):
    """Lines of stages on stderr, above a bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def print_notes(notes: Sequence[str]) -> None:
    """Say on stderr what a person should know about the data or the weights."""
    for one in notes:
        note(f"note: {one}")


def note(line: str) -> None:
    """Say one line on stderr, escaped."""
    say(f"tledge: {line}", err=True)


class _Lines:
    """One line when a part begins, one a minute at most while it goes on, and one when it is done."""

    def __init__(self) -> None:
        self._part = ""
        self._started = self._last = 0.0
        self._is_done = False

    def show(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._part:
            self._part, self._started, self._is_done = what, now, False
            note(f"{what} ({total})")
        elif done == total and not self._is_done:
            note(f"{what} done, {now - self._started:.1f} s")
            self._is_done = True
        elif done < total and now - self._last >= _SIGN_OF_LIFE_S:
            note(f"{what}, {done} of {total}, {now - self._started:.1f} s")
        else:
            return
        self._last = now


@contextmanager
def _bar() -> Iterator[tuple[Progress, Callable[[Table], None]]]:
    from rich.console import Console, RenderableType
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

    class BarBelowTable(Bar):
        table: RenderableType | None = None

        def get_renderables(self) -> Iterable[RenderableType]:
            if self.table is not None:
                yield self.table
            yield from super().get_renderables()

    with BarBelowTable(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, object] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(visible(what)), total=total)
            elif done == 0:
                bar.reset(tasks[what])  # type: ignore[arg-type]
            bar.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        def show_table(table: Table) -> None:
            bar.table = as_rich(table, on_terminal=True)
            bar.refresh()

        yield show, show_table
