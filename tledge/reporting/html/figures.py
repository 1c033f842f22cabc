"""What a figure shows, as places of marks and lines: templates draw it as SVG, nothing here knows colours.

The numbers come from the rows that tables are made of (`tledge.reporting.rows`) and are only placed here. Every figure
has the table of its numbers beside it. Why no plotting library: docs/design.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tledge.reporting.html.scales import Scale, linear, positive
from tledge.reporting.tables import Table

WIDTH = 480
_TOP, _RIGHT, _BOTTOM, _LEFT = 24, 16, 42, 50
_ROW_LEFT, _ROW_TOP = 136, 8
_PLOT_HEIGHT = 310
_ROW_HEIGHT = 22
_DODGE = 3.2
_LONGEST_ROW_NAME = 17  # fits a phone, whose text is larger against the figure
_CHARACTER = 7.2
_LINE = 13


@dataclass(frozen=True)
class Series:
    """How marks of one kind look: the number of a colour, a shape, and what the legend calls them."""

    name: str
    colour: int = 0
    shape: str = "circle"


@dataclass(frozen=True)
class Mark:
    """A mark at a place; `hollow` where the verdict is not a pass, `tip` is what a pointer over it shows."""

    x: float
    y: float
    series: Series
    tip: str
    hollow: bool = False


@dataclass(frozen=True)
class Stroke:
    """A line in SVG's path syntax; `kind` is one of the classes of the style sheet."""

    d: str
    kind: str
    colour: int = 0


@dataclass(frozen=True)
class Label:
    """Text at a place; `anchor` is start, middle or end, `full` the whole of a text that was cut."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    full: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure: what it is called, what it shows in words, and where everything stands.

    `x_ticks` and `y_ticks` are places with their texts, `bands` places of the lines between rows.
    """

    name: str
    title: str
    about: str
    table: Table
    height: float
    x_label: str
    x_ticks: tuple[tuple[float, str], ...]
    left: float = _LEFT
    top: float = _TOP
    bottom: float = _BOTTOM
    width: float = WIDTH
    right: float = _RIGHT
    y_label: str = ""
    y_ticks: tuple[tuple[float, str], ...] = ()
    bands: tuple[float, ...] = ()
    marks: tuple[Mark, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    labels: tuple[Label, ...] = ()
    legend: tuple[Series, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Point:
    """A value with its interval on two axes; intervals are None where there are none.

    Only points of the same `conditions` are compared: each kind has a front of its own.
    """

    name: str
    series: Series
    x: float
    y: float
    tip: str
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    hollow: bool = False
    conditions: str = ""


def scatter(
    name: str,
    title: str,
    about: str,
    points: Sequence[Point],
    table: Table,
    *,
    x_label: str,
    y_label: str,
    legend: Sequence[Series] = (),
    x_limit: float | None = None,
    y_limit: float | None = None,
) -> Figure:
    """Accuracy against a cost, with intervals, and the front of what nothing else beats in both."""
    costs = [value for p in points for value in (p.x, *(p.x_interval or ()))]
    costs += [] if x_limit is None else [x_limit]
    heights = [value for p in points for value in (p.y, *(p.y_interval or ()))]
    heights += [] if y_limit is None else [y_limit]
    x = positive(costs, _LEFT, WIDTH - _RIGHT)
    y = linear(heights, _PLOT_HEIGHT - _BOTTOM, _TOP, within=(0.0, 1.0))
    strokes = [
        *(
            Stroke(f"M{x(p.x)} {y(p.y_interval[0])}V{y(p.y_interval[1])}", "whisker", p.series.colour)
            for p in points
            if p.y_interval
        ),
        *(
            Stroke(f"M{x(p.x_interval[0])} {y(p.y)}H{x(p.x_interval[1])}", "whisker", p.series.colour)
            for p in points
            if p.x_interval
        ),
    ]
    kinds = [[p for p in points if p.conditions == kind] for kind in dict.fromkeys(p.conditions for p in points)]
    strokes[:0] = [
        Stroke(_staircase(pareto(kind), x, y), "front", kind[0].series.colour if len(kinds) > 1 else 0)
        for kind in kinds
        if len(kind) > 1
    ]
    if x_limit is not None:
        strokes.insert(0, _upright(x(x_limit), _TOP, _PLOT_HEIGHT))
    if y_limit is not None:
        strokes.insert(0, Stroke(f"M{_LEFT} {y(y_limit)}H{WIDTH - _RIGHT}", "limit"))
    marks = tuple(Mark(x(p.x), y(p.y), p.series, p.tip, p.hollow) for p in points)
    return Figure(
        name,
        title,
        about,
        table,
        _PLOT_HEIGHT,
        x_label,
        x.ticks(),
        y_label=y_label,
        y_ticks=y.ticks(),
        marks=marks,
        strokes=tuple(strokes),
        labels=_beside(marks, [p.name for p in points]),
        legend=tuple(legend),
    )


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other one beats, cheapest first: as cheap and as high, and better in one of the two."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def _upright(at: float, top: float, height: float) -> Stroke:
    """A line from the top of a plot down to its axis."""
    return Stroke(f"M{at} {top}V{height - _BOTTOM}", "limit")


def _staircase(front: Sequence[Point], x: Scale, y: Scale) -> str:
    first, *others = front
    steps = "".join(f"H{x(p.x)}V{y(p.y)}" for p in others)
    return f"M{x(first.x)} {_PLOT_HEIGHT - _BOTTOM}V{y(first.y)}{steps}H{WIDTH - _RIGHT}"


def _beside(marks: Sequence[Mark], names: Sequence[str]) -> tuple[Label, ...]:
    """A name at each mark where there is room; without room it is left to the table and to the pointer."""
    taken = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    labels = []
    for mark, name in zip(marks, names, strict=True):
        text = _cut(name, 26)
        width = _CHARACTER * len(text)
        for dx, dy, anchor in (
            *((9, 4, "start"), (-9, 4, "end")),
            *((0, -10, "middle"), (0, 19, "middle")),
            *((7, -8, "start"), (7, 16, "start"), (-7, -8, "end"), (-7, 16, "end")),
        ):
            at_x, at_y = mark.x + dx, mark.y + dy
            left = at_x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = (left, at_y - 9, left + width, at_y + 3)
            inside = box[0] >= _LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and box[3] <= _PLOT_HEIGHT - _BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                labels.append(Label(at_x, at_y, text, anchor, name))
                break
    return tuple(labels)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def lines(
    name: str,
    title: str,
    about: str,
    curves: Sequence[tuple[Series, Sequence[tuple[float, float]]]],
    table: Table,
    *,
    x_label: str,
    y_label: str,
    within: tuple[float, float] | None = None,
    x_mark: float | None = None,
    names: Mapping[float, str] | None = None,
) -> Figure:
    """Curves over epochs or layers; `x_mark` is a place that was chosen, such as the best epoch.

    Where places have `names`, each has a mark that says its own.
    """
    places = [x for _, curve in curves for x, _ in curve]
    x = Scale(min(places), max(max(places), min(places) + 1), _LEFT, WIDTH - _RIGHT)
    y = linear([value for _, curve in curves for _, value in curve], _PLOT_HEIGHT - _BOTTOM, _TOP, within=within)
    strokes = [
        Stroke("M" + "L".join(f"{x(at)} {y(value)}" for at, value in curve), f"line {series.shape}", series.colour)
        for series, curve in curves
    ]
    if x_mark is not None:
        strokes.insert(0, _upright(x(x_mark), _TOP, _PLOT_HEIGHT))
    marks = [
        Mark(x(at), y(value), series, f"{series.name}: {value:.4g} at {names[at] if names else format(at, 'g')}")
        for series, curve in curves
        for at, value in curve
        if names or len(curve) == 1
    ]
    whole = tuple((place, text) for place, text in x.ticks() if float(text).is_integer())
    return Figure(
        name,
        title,
        about,
        table,
        _PLOT_HEIGHT,
        x_label,
        whole,
        y_label=y_label,
        y_ticks=y.ticks(),
        strokes=tuple(strokes),
        marks=tuple(marks),
        legend=tuple(series for series, _ in curves),
    )


@dataclass(frozen=True)
class RowValue:
    """A value in a row, with its interval where it has one."""

    series: Series
    value: float
    tip: str
    interval: tuple[float, float] | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Row:
    """A line of a figure of rows: its name, single values, and samples (rounds of them) that stand as dots."""

    name: str
    values: tuple[RowValue, ...]
    samples: Sequence[Sequence[float]] = ()
    colour: int = 0


def rows_figure(
    name: str,
    title: str,
    about: str,
    rows: Sequence[Row],
    table: Table,
    *,
    x_label: str,
    scale: str = "positive",
    legend: Sequence[Series] = (),
    row_height: float = _ROW_HEIGHT,
    zero: bool = False,
) -> Figure:
    """A row for each thing, and in it what is known of it along one axis.

    Args:
        name, title, about, table: of the figure.
        rows: from top to bottom.
        x_label: of the axis.
        scale: `positive` (latencies), `share` (0..1) or `linear`.
        legend: what marks stand for.
        row_height: of one row.
        zero: whether a line stands at 0.
    """
    values = [v for row in rows for one in row.values for v in (one.value, *(one.interval or ()))]
    values += [v for row in rows for samples in row.samples for v in samples]
    most = max(len(row.values) for row in rows)
    row_height = max(row_height, _DODGE * most + 10)
    height = _ROW_TOP + row_height * len(rows) + _BOTTOM
    start, end = _ROW_LEFT, WIDTH - _RIGHT
    if scale == "positive":
        x = positive(values, start, end)
    else:
        x = linear([*values, *([0.0] if zero else [])], start, end, within=(0.0, 1.0) if scale == "share" else None)
    marks: list[Mark] = []
    strokes: list[Stroke] = [_upright(x(0), _ROW_TOP, height)] if zero else []
    labels: list[Label] = []
    for number, row in enumerate(rows):
        top = _ROW_TOP + number * row_height
        middle = round(top + row_height / 2, 1)
        labels.append(Label(start - 8, middle + 4, _cut(row.name, _LONGEST_ROW_NAME), "end", row.name))
        if row.samples:
            strokes.append(Stroke(_dots(row.samples, x, top + 3, top + row_height - 3), "samples", row.colour))
        for index, one in enumerate(row.values):
            # Equal values would hide one another.
            y = round(middle + _DODGE * (index - (len(row.values) - 1) / 2), 1)
            if one.interval is not None:
                low, high = map(x, one.interval)
                strokes.append(Stroke(f"M{low} {y}H{high}", "whisker", one.series.colour))
            marks.append(Mark(x(one.value), y, one.series, one.tip, one.hollow))
    return Figure(
        name,
        title,
        about,
        table,
        height,
        x_label,
        x.ticks(),
        left=start,
        top=_ROW_TOP,
        bands=tuple(_ROW_TOP + row_height * number for number in range(len(rows) + 1)),
        marks=tuple(marks),
        strokes=tuple(strokes),
        labels=tuple(labels),
        legend=tuple(legend),
    )


def _dots(rounds: Sequence[Sequence[float]], x: Scale, top: float, bottom: float) -> str:
    """Every sample as a dot, a line of dots for each round from top to bottom: a drift is then seen as a slope."""
    step = (bottom - top) / len(rounds)
    dots: dict[str, None] = {}
    for number, samples in enumerate(rounds):
        y = round(top + (number + 0.5) * step, 1)
        dots |= dict.fromkeys(f"M{x(sample)} {y}h0" for sample in samples)
    return "".join(dots)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def distinct(series: Iterable[Series]) -> tuple[Series, ...]:
    """Each once, in the order in which they are met."""
    return tuple(dict.fromkeys(series))
