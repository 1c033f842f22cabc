"""What goes to stderr: progress of long work, as a bar on a terminal and quiet lines elsewhere, and notes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from tledge.core.progress import LOGGER, Progress

_SIGN_OF_LIFE_S = 60.0


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on a terminal; elsewhere one quiet line per part of the work. Stages' own lines are shown too."""
    spoken, level = _Spoken(), LOGGER.level
    LOGGER.addHandler(spoken)
    LOGGER.setLevel(logging.INFO)
    try:
        if sys.stderr.isatty():
            with _bar() as show:
                yield show
        else:
            yield _Lines().show
    finally:
        LOGGER.removeHandler(spoken)
        LOGGER.setLevel(level)


class _Spoken(logging.Handler):
    """Lines of stages on stderr, above a bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"tledge: {record.getMessage()}", err=True)


def print_notes(notes: Sequence[str]) -> None:
    """Say on stderr what a person should know about the data or the weights."""
    for note in notes:
        click.echo(f"tledge: note: {note}", err=True)


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
            click.echo(f"tledge: {what} ({total})", err=True)
        elif done == total and not self._is_done:
            click.echo(f"tledge: {what} done, {now - self._started:.1f} s", err=True)
            self._is_done = True
        elif done < total and now - self._last >= _SIGN_OF_LIFE_S:
            click.echo(f"tledge: {what}, {done} of {total}, {now - self._started:.1f} s", err=True)
        else:
            return
        self._last = now


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, object] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            elif done == 0:
                bar.reset(tasks[what])  # type: ignore[arg-type]
            bar.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield show
