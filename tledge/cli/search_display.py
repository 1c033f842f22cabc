"""What `tledge optimize --goal` prints."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.display import progress, share, table

if TYPE_CHECKING:
    from tledge.compression.search.numbers import FileNumbers
    from tledge.compression.search.search import SearchResult, SearchSettings
    from tledge.deployment.hosts.host import Access
    from tledge.stats.goal import Goal


def search_and_show(run: Path, settings: SearchSettings, out: Path, access: Access, data: Path | None) -> int:
    """Search, print every candidate and the choice; returns the exit code: 1 if nothing holds the goal."""
    from tledge.compression.search.search import search

    with progress() if sys.stderr.isatty() else nullcontext(_silent) as show:
        result = search(
            run,
            settings,
            out,
            access=access,
            data=data,
            progress=show,
            tell=lambda line: click.echo(f"tledge: {line}", err=True),
        )
    _print_table(result)
    for note in result.notes:
        click.echo(f"Note: {note}")
    return _print_choice(result, out)


def _silent(what: str, done: int, total: int) -> None:
    """Off a terminal a line per candidate is enough."""


def _print_table(result: SearchResult) -> None:
    original = result.original_accuracy
    by_p90 = result.goal.on("p90") is not None
    header = ("candidate", "file", "front", "goal", "accuracy (95 %)", "drop", "MB", "p50 ms")
    files = [file for record in result.records for file in record.files]
    rows = [_row(result, file, by_p90) for file in files]
    title = f"{result.goal}; n = {original.n} validation images, original {original.value:.3f}; "
    table((*header, *(["p90 ms"] if by_p90 else []), "speed-up"), rows, title=title + result.measured_on)
    click.echo("* on the Pareto front: no other file is as good in accuracy, size and p50 and better in one of them.")
    if any(file.final_latency is None for file in files):
        click.echo("° measured while the search ran; the others at its end, in the same rounds.")
    for record in result.records:
        if record.error is not None:
            click.echo(f"Failed: {record.name}: {record.error}")
    for reason in dict.fromkeys(reason for _, reason in result.left_out):
        names = [name for name, other in result.left_out if other == reason]
        click.echo(f"Not tried: {', '.join(names)}: {reason}")


def _row(result: SearchResult, file: FileNumbers, by_p90: bool) -> tuple[str, ...]:
    latency = file.latency
    return (
        file.candidate,
        file.recipe,
        "*" if file in result.front else "",
        _verdict(result.goal, file),
        share(file.accuracy.value, file.accuracy.low, file.accuracy.high),
        f"{file.drop:+.3f}",
        f"{file.size_bytes / 1e6:.3f}",
        f"{latency.p50_ms:.2f}" + ("" if file.final_latency else " °"),
        *([f"{latency.p90_ms:.2f}"] if by_p90 else []),
        "–" if latency.speedup is None else f"{latency.speedup:.1f}x",
    )


def _verdict(goal: Goal, file: FileNumbers) -> str:
    missed = goal.missed(file.values())
    return f"misses {', '.join(missed)}" if missed else "pass"


def _print_choice(result: SearchResult, out: Path) -> int:
    if result.chosen is not None:
        best = result.chosen
        lost = f"{best.lost} of {best.accuracy.n} images lost, {best.won} won"
        click.echo(f"Chosen: {best.recipe} of {best.candidate}, written to {out} ({lost}).")
        for condition in result.goal.conditions:
            click.echo(f"  {condition.verdict(best.values()[condition.metric])}")
        click.echo(
            "Its validation accuracy was used to choose it and flatters it; the unbiased figure is that of the test "
            f"subset: tledge check {shlex.quote(str(out))}"
        )
        return 0
    click.echo(f"FAIL: no file holds {result.goal}; {out} was not written.")
    if result.nearest is not None:
        click.echo(f"Nearest: {result.nearest.recipe} of {result.nearest.candidate}:")
        for condition in result.goal.conditions:
            click.echo(f"  {condition.verdict(result.nearest.values()[condition.metric])}")
    click.echo(f"All candidates, each a whole run, are in {os.path.relpath(result.folder.path)}; it may be deleted.")
    return 1
