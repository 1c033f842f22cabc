"""The page of `tledge compare`: files of several runs in the same figures, and what changed per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tledge.reporting.compare import ComparedFile, RunComparison
from tledge.reporting.html import run_figures
from tledge.reporting.html.figures import Figure, Series
from tledge.reporting.html.render import render
from tledge.reporting.rows import FileRow
from tledge.reporting.tables import NOTHING, Table

_COLOURS = 6


@dataclass(frozen=True)
class _Look:
    """How marks of a file look where several runs stand side by side: colour by run, shape by precision."""

    runs: tuple[str, ...]

    def of(self, file: ComparedFile) -> Series:
        """The look of one file."""
        own = run_figures.series_of(file.row)
        return Series(file.row.name, 1 + self.runs.index(file.run) % _COLOURS, own.shape)


def compare_page(result: RunComparison) -> str:
    """The page."""
    look = _Look(result.runs)
    files = list(result.files)
    return render(
        "compare.html.j2",
        {
            "title": result.title,
            "over": result.over,
            "runs": [Series(run, look.of(_first(files, run)).colour) for run in result.runs],
            "table": replace(result.tables[0], title=""),
            "hosts": result.tables[1] if len(result.tables) > 1 else None,
            "notes": result.notes,
            "figures": _figures(result, files, look),
            "changed": _changed_per_class(files) if result.accuracy_comparable else None,
            "accuracy_comparable": result.accuracy_comparable,
            "latency_comparable": result.latency_comparable,
        },
    )


def _first(files: Sequence[ComparedFile], run: str) -> ComparedFile:
    return next(file for file in files if file.run == run)


def _figures(result: RunComparison, files: Sequence[ComparedFile], look: _Look) -> list[Figure]:
    rows = [replace(file.row, name=f"{file.row.name}, {file.run}") for file in files]
    of_row = {id(row): file for row, file in zip(rows, files, strict=True)}

    def of(row: FileRow) -> Series:
        return look.of(of_row[id(row)])

    def images(row: FileRow) -> str:
        return of_row[id(row)].images

    def conditions(row: FileRow) -> str:
        return f"{images(row)}; {of_row[id(row)].conditions}"

    models = [(replace(of(row), name=row.name), row.checked) for row in rows if row.checked is not None]
    classes = list(models[0][1].recall) if models and result.accuracy_comparable else []
    found = [
        run_figures.accuracy_against_latency(rows, of, conditions),
        run_figures.accuracy_against_size(rows, of, images),
        run_figures.latency_distributions([(of(row), row.name, row.measured) for row in rows if row.measured], ""),
        _hosts(result, files, rows, look),
        run_figures.recall_per_class(classes, models),
        run_figures.resizing_figure(models),
    ]
    return [figure for figure in found if figure is not None]


def _hosts(result: RunComparison, files: Sequence[ComparedFile], rows: Sequence[FileRow], look: _Look) -> Figure | None:
    """Latency on other machines: of one run in the colours that its machines have in the other figures."""
    if result.over == "run":
        return run_figures.hosts_figure(rows, Series("here, where each run was measured", 0, "cross"))
    looks = {file.run: Series(file.run, look.of(file).colour) for file in files}
    return run_figures.hosts_figure([file.row for file in files], looks[result.runs[0]], looks)


def _changed_per_class(files: Sequence[ComparedFile]) -> Table | None:
    """Recall of each class, of files that several runs have: that of the first run, and how far others are from it."""
    columns: list[str] = []
    found: list[list[str]] = []
    classes: list[str] = []
    for name in dict.fromkeys(file.row.name for file in files):
        same = [file for file in files if file.row.name == name and file.row.checked is not None]
        if len(same) < 2:
            continue
        first, *others = same
        assert first.row.checked is not None
        base = first.row.checked.recall
        classes = classes or list(base)
        columns.append(f"{name}, {first.run}")
        found.append([_recall(base.get(one)) for one in classes])
        for other in others:
            assert other.row.checked is not None
            recall = other.row.checked.recall
            columns.append(other.run)
            found.append([_change(base.get(one), recall.get(one)) for one in classes])
    if not columns:
        return None
    return Table(("class", *columns), [(one, *(column[at] for column in found)) for at, one in enumerate(classes)])


def _recall(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _change(before: float | None, after: float | None) -> str:
    return NOTHING if before is None or after is None else f"{after - before:+.3f}"
