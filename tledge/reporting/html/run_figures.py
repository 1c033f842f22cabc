"""The figures of a run and of several runs side by side, from the rows that their tables are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tledge.diagnosis.diagnosis_json import DiagnosisFile
from tledge.reporting.hosts import name_of
from tledge.reporting.html.figures import Figure, Point, Row, RowValue, Series, lines, rows_figure, scatter
from tledge.reporting.rows import REFERENCE, FileRow
from tledge.reporting.tables import NOTHING, Table, difference, megabytes, number, share, span
from tledge.runs.bench_json import HostTiming, Measurement
from tledge.runs.check_json import CheckedArtefact, CheckedReference, CheckedResizing, CheckFile
from tledge.runs.history import read_history
from tledge.runs.manifest import Manifest

_COLOURS = {"tflite": 1, "onnx": 2}
_SHAPES = {"float32": "circle", "float16": "square", "dynamic": "up", "int8": "diamond", "int8x16": "down"}
_SAMPLE_ROW_HEIGHT = 34.0
_MOST_CLASSES = 30


def series_of(row: FileRow) -> Series:
    """Colour by format, shape by precision; the reference is neither."""
    if row.sidecar is None:
        return Series(row.name, 0, "cross")
    return Series(row.name, _COLOURS.get(row.sidecar.format, 3), _SHAPES.get(row.sidecar.precision, "circle"))


Look = Callable[[FileRow], Series]
"""How the marks of a file look."""

Conditions = Callable[[FileRow], str]
"""Under which conditions a file's numbers were taken: only those of the same can be compared."""


def _the_same(_row: FileRow) -> str:
    return ""


def is_hollow(row: FileRow) -> bool:
    """Whether marks of a file say that it did not pass a check."""
    return row.sidecar is not None and not (isinstance(row.checked, CheckedArtefact) and row.checked.verdict == "pass")


def legend_of(rows: Sequence[FileRow]) -> tuple[Series, ...]:
    """What the marks of these files look like."""
    return tuple(series_of(row) for row in rows)


def accuracy_against_latency(
    rows: Sequence[FileRow], look: Look = series_of, conditions: Conditions = _the_same
) -> Figure | None:
    """None where no file was both checked and measured."""
    known = [row for row in rows if row.checked is not None and row.measured is not None]
    if not known:
        return None
    points = []
    for row in known:
        assert row.checked is not None
        assert row.measured is not None
        p50 = row.measured.latency_ms["p50"]
        points.append(_point(row, look(row), p50, row.measured.p50_interval_95, f"{p50:.2f} ms", conditions(row)))
    return scatter(
        "latency",
        "Accuracy against latency",
        "Each mark is a file: higher is more accurate, further left is faster. Lines through a mark are 95 % "
        "intervals, the stepped line joins the files that no other one beats in both.",
        points,
        _numbers(known),
        x_label="p50, ms",
        y_label="accuracy",
    )


def accuracy_against_size(
    rows: Sequence[FileRow], look: Look = series_of, conditions: Conditions = _the_same
) -> Figure | None:
    """None where nothing was checked."""
    known = [row for row in rows if row.checked is not None and row.size_bytes is not None]
    if not known:
        return None
    points = [
        _point(row, look(row), row.size_bytes / 1e6, None, f"{megabytes(row.size_bytes, 2)} MB", conditions(row))
        for row in known
        if row.size_bytes is not None
    ]
    return scatter(
        "size",
        "Accuracy against size",
        "Each mark is a file: higher is more accurate, further left is smaller. The line through a mark is the 95 % "
        "interval of its accuracy, the stepped line joins the files that no other one beats in both.",
        points,
        _numbers(known),
        x_label="size, MB",
        y_label="accuracy",
    )


def _point(
    row: FileRow, series: Series, x: float, interval: tuple[float, float] | None, cost: str, conditions: str
) -> Point:
    assert row.checked is not None
    return Point(
        series.name,
        series,
        x,
        row.checked.accuracy,
        f"{row.name}: accuracy {row.accuracy}, {cost}",
        interval,
        row.checked.accuracy_interval_95,
        is_hollow(row),
        conditions,
    )


def _numbers(rows: Sequence[FileRow]) -> Table:
    return Table(
        ("file", "accuracy (95 %)", "size MB", "p50 ms", "p50 95 %"),
        [
            (
                row.name,
                row.accuracy,
                megabytes(row.size_bytes, 2),
                row.p50_ms(2),
                NOTHING if row.measured is None else span(*row.measured.p50_interval_95),
            )
            for row in rows
        ],
    )


def latency_distributions(
    measured: Sequence[tuple[Series, str, Measurement | HostTiming]], settings: str
) -> Figure | None:
    """Every sample of every file; None where nothing was measured."""
    if not measured:
        return None
    rows = [
        Row(
            name,
            (
                RowValue(
                    series,
                    item.latency_ms["p50"],
                    f"{name}: p50 {item.latency_ms['p50']:.2f} ms",
                    item.p50_interval_95,
                ),
            ),
            item.samples_ms,
            series.colour,
        )
        for series, name, item in measured
    ]
    table = Table(
        ("file", "n", "least", "p50", "p50 95 %", "p90", "p99"),
        [
            (
                name,
                str(item.n),
                *(f"{item.latency_ms[key]:.2f}" for key in ("min", "p50")),
                span(*item.p50_interval_95),
                number(item.latency_ms["p90"], 2),
                number(item.latency_ms["p99"], 2),
            )
            for _, name, item in measured
        ],
        "ms",
    )
    return rows_figure(
        "samples",
        "Every latency that was measured",
        "Each dot is one inference; a file's dots stand in as many lines as there were rounds, the first on top, so a "
        f"drift is a slope. The mark is p50 with its 95 % interval. {settings}",
        rows,
        table,
        x_label="ms",
        row_height=_SAMPLE_ROW_HEIGHT,
    )


def training_curves(history: Path, manifest: Manifest) -> Iterator[Figure]:
    """Loss and accuracy by epoch, of an optimized run for each method; nothing of an adopted run, trained elsewhere."""
    epochs = read_history(history)
    methods = list(dict.fromkeys(method for method, _ in epochs))
    best = manifest.training.best_epoch if methods == [""] else 0
    for name, title in (("loss", "Loss"), ("accuracy", "Accuracy")):
        curves = []
        for place, method in enumerate(methods):
            for column, what, shape in ((name, "training", "circle"), (f"val_{name}", "validation", "dashed")):
                curve = [(each["epoch"], each[column]) for of, each in epochs if of == method and column in each]
                colour = 1 + place % 6 if method else 1 + (what == "validation")
                if curve:
                    curves.append((Series(f"{method}, {what}" if method else what, colour, shape), curve))
        if not curves:
            continue
        columns = [column for column in (name, f"val_{name}") if any(column in each for _, each in epochs)]
        rows = [(method, f"{each['epoch']:.0f}", *(number(each.get(c), 4) for c in columns)) for method, each in epochs]
        kept = "; the upright line is the epoch that was kept" if best else ""
        yield lines(
            f"training-{name}",
            f"{title} while training",
            f"{title} by epoch on training and validation images{kept}.",
            curves,
            Table(("method", "epoch", *columns), rows)
            if methods != [""]
            else Table(("epoch", *columns), [row[1:] for row in rows]),
            x_label="epoch",
            y_label=name,
            within=(0.0, 1.0) if name == "accuracy" else (0.0, float("inf")),
            x_mark=best if 0 < best <= max(each["epoch"] for _, each in epochs) else None,
        )


Model = tuple[Series, CheckedReference | CheckedArtefact]


def models_of(check: CheckFile, rows: Sequence[FileRow]) -> list[Model]:
    """The reference and every file that a check knew, with its look."""
    known = {row.sidecar.sha256: series_of(row) for row in rows if row.sidecar is not None}
    return [
        (Series(REFERENCE, 0, "cross"), check.reference),
        *((known.get(item.sha256, Series(item.name, 3)), item) for item in check.artefacts),
    ]


def recall_per_class(classes: Sequence[str], models: Sequence[Model]) -> Figure | None:
    """A row for each class; of many classes those that files lose most of, against the first model."""
    many = len(classes) > _MOST_CLASSES
    names = sorted(classes, key=lambda name: -_largest_loss(name, models)) if many else classes
    shown = [name for name in names if any(model.recall.get(name) is not None for _, model in models)][:_MOST_CLASSES]
    if not shown:
        return None
    rows = [
        Row(
            name,
            tuple(
                RowValue(series, value, f"{series.name}: {value:.3f} of {name}")
                for series, model in models
                if (value := model.recall.get(name)) is not None
            ),
        )
        for name in shown
    ]
    table = Table(
        ("class", *(series.name for series, _ in models)),
        [(name, *(number(model.recall.get(name), 3) for _, model in models)) for name in classes],
    )
    some = f" The {len(shown)} of {len(classes)} classes that a file loses most of." if many else ""
    return rows_figure(
        "recall",
        "Recall per class",
        f"Share of each class's images that a model names rightly.{some}",
        rows,
        table,
        x_label="recall",
        scale="share",
    )


def _largest_loss(name: str, models: Sequence[Model]) -> float:
    (_, reference), *others = models
    before = reference.recall.get(name)
    after = [value for _, model in others if (value := model.recall.get(name)) is not None]
    return 0.0 if before is None or not after else before - min(after)


def layers_figure(diagnoses: Sequence[tuple[Series, DiagnosisFile]]) -> Figure | None:
    """What each layer loses by itself; None where no file of the run was diagnosed."""
    known = [(series, diagnosis) for series, diagnosis in diagnoses if diagnosis.layers]
    if not known:
        return None
    curves = [
        (series, sorted((float(layer.position), layer.own_sqnr_db) for layer in diagnosis.layers))
        for series, diagnosis in known
    ]
    table = Table(
        ("file", "layer", "own SQNR dB", "SQNR dB"),
        [
            (series.name, layer.name, f"{layer.own_sqnr_db:.1f}", f"{layer.sqnr_db:.1f}")
            for series, diagnosis in known
            for layer in sorted(diagnosis.layers, key=lambda each: each.position)
        ],
    )
    return lines(
        "layers",
        "What each layer loses",
        "Signal to quantization noise of each layer by itself, in the order of the model: lower is worse.",
        curves,
        table,
        x_label="layer",
        y_label="own SQNR, dB",
        names={layer.position: layer.name for _, diagnosis in known for layer in diagnosis.layers},
    )


def resizing_figure(models: Sequence[Model]) -> Figure | None:
    """How much each model loses where an app resizes in another way; None where that was not measured."""
    known = [(series, model) for series, model in models if model.resized]
    if not known:
        return None
    ways = [way.resizer for way in known[0][1].resized]
    rows = [
        Row(
            way,
            tuple(
                RowValue(series, found.accuracy_drop, f"{series.name}: drop {found.accuracy_drop:+.3f}")
                for series, model in known
                if (found := _way(model.resized, way)) is not None
            ),
        )
        for way in ways
    ]
    table = Table(
        ("resized by", "model", "accuracy (95 %)", "drop (95 %)", "lost / won"),
        [
            (
                found.resizer,
                series.name,
                share(found.accuracy, *found.accuracy_interval_95),
                difference(found.accuracy_drop, *found.accuracy_drop_interval_95),
                f"{found.lost} / {found.won}",
            )
            for way in ways
            for series, model in known
            if (found := _way(model.resized, way)) is not None
        ],
    )
    return rows_figure(
        "resizing",
        "Where an app resizes in another way",
        "Drop of each model from its own accuracy with the run's way to resize: further right loses more.",
        rows,
        table,
        x_label="own drop",
        scale="linear",
        zero=True,
    )


def _way(resized: Sequence[CheckedResizing], name: str) -> CheckedResizing | None:
    return next((way for way in resized if way.resizer == name), None)


def hosts_figure(rows: Sequence[FileRow], here: Series, looks: Mapping[str, Series] | None = None) -> Figure | None:
    """p50 here and on other machines; None where no other one measured.

    `looks` are those of other machines, by name and threads, where the page has given them some.
    """
    known = [row for row in rows if row.hosts]
    if not known:
        return None
    places = dict.fromkeys(f"{name_of(host)}, {item.threads} threads" for row in known for host, item in row.hosts)
    looks = {place: Series(place, 1 + index % 6) for index, place in enumerate(places)} | dict(looks or {})
    shown, numbers = [], []
    for row in known:
        values = []
        if row.measured is not None:
            p50, interval = row.measured.latency_ms["p50"], row.measured.p50_interval_95
            values.append(RowValue(here, p50, f"{row.name} {here.name}: {p50:.2f} ms", interval))
        for host, item in row.hosts:
            look = looks[f"{name_of(host)}, {item.threads} threads"]
            p50 = item.latency_ms["p50"]
            values.append(RowValue(look, p50, f"{row.name} on {look.name}: {p50:.2f} ms", item.p50_interval_95))
        numbers += [
            (row.name, value.series.name, f"{value.value:.2f}", span(*value.interval) if value.interval else NOTHING)
            for value in values
        ]
        shown.append(Row(row.name, tuple(values)))
    legend = [*([here] if any(row.measured for row in known) else []), *(looks[place] for place in places)]
    return rows_figure(
        "hosts",
        "Latency here and on other machines",
        "p50 of each file with its 95 % interval.",
        shown,
        Table(("file", "where", "p50 ms", "p50 95 %"), numbers),
        x_label="p50, ms",
        legend=legend,
    )


def measured_here(rows: Sequence[FileRow]) -> list[tuple[Series, str, Measurement | HostTiming]]:
    """Files with what was measured of them on this machine, the reference first."""
    return [(series_of(row), row.name, row.measured) for row in rows if row.measured is not None]
