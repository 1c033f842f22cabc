"""The page of a search for a goal: the front, every trial, what was not tried and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from tledge.compression.search.goal import Goal, parse_goal
from tledge.compression.search.numbers import FileFacts
from tledge.compression.search.record import SearchFile
from tledge.core.files import write_text
from tledge.core.records import read_record
from tledge.reporting.html.figures import Figure, Point, Series, scatter
from tledge.reporting.html.render import render
from tledge.reporting.tables import NOTHING, Table, megabytes, number, share
from tledge.runs.rundir import SearchDir

_LOOKS = {"tflite-int8": ("diamond", 1), "onnx-int8": ("diamond", 2)}


def write_search_page(folder: SearchDir) -> None:
    """Write the page of a search beside its numbers.

    Raises:
        RunError: its numbers cannot be read.
    """
    search = read_record(folder.numbers, SearchFile)
    page = render("search.html.j2", {"title": f"Search: {search.goal}", "search": search_content(search)})
    write_text(folder.page, page)


def search_content(search: SearchFile) -> dict[str, Any]:
    """What templates show of a search."""
    goal = parse_goal(search.goal)
    files = [file for candidate in search.candidates for file in candidate.files]
    left_out = {} if search.left_out is UNSET else search.left_out
    reasons = dict.fromkeys(left_out.values())
    chosen = None if search.chosen is UNSET else search.chosen
    return {
        "facts": search,
        "files": files,
        "chosen": chosen,
        "is_over": search.left_out is not UNSET,
        "figures": [figure for figure in _figures(search, goal, files) if figure is not None],
        "trials": _trials(search),
        "left_out": [(reason, [name for name, why in left_out.items() if why == reason]) for reason in reasons],
        "failed": [candidate for candidate in search.candidates if candidate.error is not None],
        "notes": () if search.notes is UNSET else search.notes,
    }


def _figures(search: SearchFile, goal: Goal, files: list[FileFacts]) -> list[Figure | None]:
    accuracy, drop = goal.on("accuracy"), goal.on("drop")
    least = accuracy.limit if accuracy else None
    if drop is not None and search.original is not None:
        least = max(least or 0.0, search.original.value - drop.limit)
    p50, size = goal.on("p50"), goal.on("size")
    return [
        _front(search, files, "search-latency", "latency", "p50, ms", _p50, p50.limit if p50 else None, least),
        _front(search, files, "search-size", "size", "size, MB", _megabytes, size.limit / 1e6 if size else None, least),
    ]


def _front(
    search: SearchFile,
    files: list[FileFacts],
    name: str,
    cost: str,
    x_label: str,
    cost_of: Callable[[FileFacts], float],
    x_limit: float | None,
    y_limit: float | None,
) -> Figure | None:
    if not files:
        return None
    points = []
    for file in files:
        shape, colour = _LOOKS.get(file.recipe, ("circle", 3))
        points.append(
            Point(
                f"{file.candidate}, {file.recipe}" if file.pareto_front else "",
                Series(file.recipe, colour, shape),
                cost_of(file),
                file.accuracy.value,
                f"{file.candidate}, {file.recipe}: accuracy {file.accuracy.value:.3f}, {cost_of(file):.4g}",
                None,
                (file.accuracy.low, file.accuracy.high),
                not file.holds,
            )
        )
    legend = tuple(dict.fromkeys(point.series for point in points))
    goal_text = " Dashed lines are the goal's limits." if x_limit is not None or y_limit is not None else ""
    return scatter(
        name,
        f"Every trial: accuracy against {cost}",
        f"Accuracy on {search.original.n if search.original else 'the'} validation images; filled marks hold the goal. "
        f"The stepped line joins what no other file beats in both.{goal_text}",
        points,
        _trials(search),
        x_label=x_label,
        y_label="validation accuracy",
        legend=legend,
        x_limit=x_limit,
        y_limit=y_limit,
    )


def _p50(file: FileFacts) -> float:
    return (file.final_latency or file.own_latency).p50_ms


def _megabytes(file: FileFacts) -> float:
    return file.size_bytes / 1e6


def _trials(search: SearchFile) -> Table:
    header = ("candidate", "file", "front", "goal", "accuracy (95 %)", "drop", "MB", "p50 ms", "speed-up", "minutes")
    rows = []
    for candidate in search.candidates:
        for file in candidate.files:
            latency = file.final_latency or file.own_latency
            missed = [verdict.condition for verdict in file.verdicts if not verdict.holds]
            rows.append(
                (
                    file.candidate,
                    file.recipe,
                    "yes" if file.pareto_front else "",
                    f"misses {', '.join(missed)}" if missed else "pass",
                    share(file.accuracy.value, file.accuracy.low, file.accuracy.high),
                    f"{file.drop:+.3f}",
                    megabytes(file.size_bytes, 3),
                    f"{latency.p50_ms:.2f}" + ("" if file.final_latency else " °"),
                    NOTHING if latency.speedup is None else f"{latency.speedup:.1f}x",
                    number(candidate.seconds / 60, 1),
                )
            )
    return Table(header, rows)
