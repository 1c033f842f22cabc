"""A search for a goal as people read it: the choice and the front first, every candidate where asked for."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from tledge.compression.search.goal import Goal
from tledge.compression.search.numbers import FileNumbers
from tledge.compression.search.search import SearchResult
from tledge.reporting.tables import NOTHING, Table, megabytes, share


def on_screen(result: SearchResult, out: Path, *, verbose: bool = False) -> Iterator[Table | str]:
    """The files on the Pareto front and those chosen or nearest, then the choice and what it takes to trust it.

    Args:
        result: of the search.
        out: where the chosen run was to be written.
        verbose: every file of every candidate, and why others were not tried.
    """
    original = result.original_accuracy
    by_p90 = result.goal.on("p90") is not None
    header = ("candidate", "file", "front", "goal", "accuracy (95 %)", "drop", "MB", "p50 ms")
    files = [file for record in result.records for file in record.files]
    first = [file for file in files if file in result.front or file in (result.chosen, result.nearest)]
    shown = files if verbose else first
    title = f"{result.goal}; n = {original.n} validation images, original {original.value:.3f}; {result.measured_on}"
    by_arena = result.goal.on("arena") is not None
    rows = [_row(result, file, by_p90, by_arena) for file in shown]
    more = [*(["p90 ms"] if by_p90 else []), *(["arena kB"] if by_arena else [])]
    yield Table((*header, *more, "speed-up"), rows, title)
    yield "* on the Pareto front: no other file is as good in accuracy, size and p50 and better in one of them."
    if any(file.final_latency is None for file in shown):
        yield "° measured while the search ran; the others at its end, in the same rounds."
    yield from (f"Failed: {record.name}: {record.error}" for record in result.records if record.error is not None)
    if verbose:
        yield from _not_tried(result)
    elif others := len(files) - len(shown):
        yield f"{others} more files of {len(result.records)} candidates, and what was not tried: --verbose"
    yield from (f"Note: {note}" for note in result.notes)
    yield from _choice(result, out)


def front_so_far(goal: Goal, front: Sequence[FileNumbers]) -> Table:
    """The files that nothing beats while a search goes on."""
    rows = [
        (
            file.candidate,
            file.recipe,
            _verdict(goal, file),
            share(file.accuracy.value, file.accuracy.low, file.accuracy.high),
            megabytes(file.size_bytes, 3),
            f"{file.latency.p50_ms:.2f}",
        )
        for file in front
    ]
    return Table(("candidate", "file", "goal", "accuracy (95 %)", "MB", "p50 ms"), rows, f"So far on the front: {goal}")


def _not_tried(result: SearchResult) -> Iterator[str]:
    for reason in dict.fromkeys(reason for _, reason in result.left_out):
        names = [name for name, other in result.left_out if other == reason]
        yield f"Not tried: {', '.join(names)}: {reason}"


def _row(result: SearchResult, file: FileNumbers, by_p90: bool, by_arena: bool) -> tuple[str, ...]:
    latency = file.latency
    return (
        file.candidate,
        file.recipe,
        "*" if file in result.front else "",
        _verdict(result.goal, file),
        share(file.accuracy.value, file.accuracy.low, file.accuracy.high),
        f"{file.drop:+.3f}",
        megabytes(file.size_bytes, 3),
        f"{latency.p50_ms:.2f}" + ("" if file.final_latency else " °"),
        *([f"{latency.p90_ms:.2f}"] if by_p90 else []),
        *([f"{(file.arena_bytes or 0) / 1e3:.1f}"] if by_arena else []),
        NOTHING if latency.speedup is None else f"{latency.speedup:.1f}x",
    )


def _verdict(goal: Goal, file: FileNumbers) -> str:
    missed = goal.missed(file.values())
    return f"misses {', '.join(missed)}" if missed else "pass"


def _choice(result: SearchResult, out: Path) -> Iterator[str]:
    if result.chosen is not None:
        best = result.chosen
        lost = f"{best.lost} of {best.accuracy.n} images lost, {best.won} won"
        yield f"Chosen: {best.recipe} of {best.candidate}, written to {out} ({lost})."
        for condition in result.goal.conditions:
            yield f"  {condition.verdict(best.values()[condition.metric])}"
        yield (
            "Its validation accuracy was used to choose it and flatters it; the unbiased figure is that of the test "
            f"subset: tledge check {shlex.quote(str(out))}"
        )
        return
    yield f"FAIL: no file holds {result.goal}; {out} was not written."
    if result.nearest is not None:
        yield f"Nearest: {result.nearest.recipe} of {result.nearest.candidate}:"
        for condition in result.goal.conditions:
            yield f"  {condition.verdict(result.nearest.values()[condition.metric])}"
    yield f"All candidates, each a whole run, are in {os.path.relpath(result.folder.path)}; it may be deleted."
