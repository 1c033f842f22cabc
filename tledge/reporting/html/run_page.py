"""report.html: a run as one page to look at."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tledge.core.environment import Machine
from tledge.core.errors import RunError
from tledge.core.image_size import short_text
from tledge.data.decode import stored_size
from tledge.diagnosis.diagnosis_json import read_diagnoses
from tledge.reporting.hosts import name_of
from tledge.reporting.html import run_figures
from tledge.reporting.html.figures import Figure, Series
from tledge.reporting.html.images import Gallery, gallery
from tledge.reporting.html.render import render
from tledge.reporting.html.search_page import search_content
from tledge.reporting.model_card import ModelCard
from tledge.reporting.rows import FileRow
from tledge.reporting.shipping import shipping
from tledge.reporting.tables import NOTHING, Table
from tledge.runs.bench_json import BenchFile, HostMachine
from tledge.runs.check_json import CheckFile
from tledge.runs.images import data_root
from tledge.runs.manifest import Manifest, Parent, read_split
from tledge.runs.predictions import read_predictions
from tledge.runs.rundir import RunDir, sidecar_of

if TYPE_CHECKING:
    from tledge.reporting.report import Report

_MOST_CONFUSION_CLASSES = 14
_MOST_PAIRS = 20
_MOST_SIZES = 500


@dataclass(frozen=True)
class FileLine:
    """A file of the table: its row, how its marks look, and the way to it from the page, empty where it is gone."""

    row: FileRow
    series: Series
    href: str


@dataclass(frozen=True)
class ConfusionCell:
    """Images of a true class that a model named so: their number, that less the reference's, their share, 0..1."""

    count: int
    difference: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """The confusion of one model: a line for each true class."""

    name: str
    lines: tuple[tuple[ConfusionCell, ...], ...]

    @property
    def changes(self) -> int:
        """Images that moved from one cell to another, against the reference."""
        return sum(cell.difference for line in self.lines for cell in line if cell.difference > 0)


def run_page(result: Report, everywhere: BenchFile | None, card: ModelCard) -> str:
    """The page.

    Args:
        result: what the report knows.
        everywhere: bench.json, other machines included; None where there is none.
        card: the model card.

    Raises:
        RunError: a file of the run is malformed.
    """
    run, manifest, rows, check = result.run, result.manifest, result.rows, result.check
    pictures, no_pictures = _pictures(run, check)
    sizes, no_sizes = _sizes(run, manifest)
    confusions = [] if check is None else _confusions(check)
    return render(
        "run.html.j2",
        {
            "title": f"{run.path.absolute().name}: {result.what}",
            "name": run.path.absolute().name,
            "what": result.what,
            "manifest": manifest,
            "size_px": short_text(manifest.image_size_px),
            "ships": shipping(run, rows, check),
            "files": _lines(run, rows),
            "check": check,
            "bench": result.bench,
            "figures": list(_figures(result, everywhere)),
            "confusions": [one for one in confusions if one.name == "reference" or one.changes],
            "alike": [one.name for one in confusions if one.name != "reference" and not one.changes],
            "confused": None if check is None else _confused_pairs(check),
            "gallery": pictures,
            "no_gallery": no_pictures,
            "notes": result.notes,
            "gates": None if check is None else _gates(check),
            "split": _split_table(manifest),
            "sizes": sizes,
            "no_sizes": no_sizes,
            "environment": _environment(manifest, check, everywhere),
            "commands": list(_commands(run, manifest, rows, result.bench)),
            "lineage": _lineage(manifest, rows),
            "card": card,
            "search": None if result.search is None else search_content(result.search),
        },
    )


def _lines(run: RunDir, rows: Sequence[FileRow]) -> list[FileLine]:
    paths = {sidecar_of(path).stem: path for path in run.artefacts()}
    lines = []
    for row in rows:
        path = run.reference if row.sidecar is None else paths.get(row.name)
        href = path.relative_to(run.path).as_posix() if path is not None and path.is_file() else ""
        lines.append(FileLine(row, run_figures.series_of(row), href))
    return lines


def _figures(result: Report, everywhere: BenchFile | None) -> Iterator[Figure]:
    rows, check = result.rows, result.check
    bench = result.bench
    settings = ""
    if bench is not None and bench.settings is not None:
        settings = f"{bench.settings.threads} threads, batch {bench.settings.batch}."
    models = [] if check is None else run_figures.models_of(check, rows)
    looks = {row.sidecar.sha256: run_figures.series_of(row) for row in rows if row.sidecar is not None}
    diagnoses = [(looks[one.sha256], one) for one in read_diagnoses(result.run) if one.sha256 in looks]
    found = [
        run_figures.accuracy_against_latency(rows),
        run_figures.accuracy_against_size(rows),
        run_figures.latency_distributions(run_figures.measured_here(rows), settings),
        run_figures.hosts_figure(rows, Series(f"here, {settings.rstrip('.')}", 0, "cross")),
        None if check is None else run_figures.recall_per_class(check.classes, models),
        run_figures.resizing_figure(models),
        run_figures.layers_figure(diagnoses),
        *run_figures.training_curves(result.run.history, result.manifest),
    ]
    return (figure for figure in found if figure is not None)


def _confusions(check: CheckFile) -> list[Confusion]:
    """Of the reference and of every file; none of so many classes that nobody could read them."""
    if len(check.classes) > _MOST_CONFUSION_CLASSES:
        return []
    before = check.reference.confusion
    models = [("reference", before), *((item.name, item.confusion) for item in check.artefacts)]
    return [
        Confusion(
            name,
            tuple(
                tuple(
                    ConfusionCell(count, count - other, count / max(sum(line), 1))
                    for count, other in zip(line, others, strict=True)
                )
                for line, others in zip(matrix, before, strict=True)
            ),
        )
        for name, matrix in models
    ]


def _confused_pairs(check: CheckFile) -> Table | None:
    """What is taken for what most often, by the reference and by each file."""
    matrices = [check.reference.confusion, *(item.confusion for item in check.artefacts)]
    size = len(check.classes)
    pairs = [(true, named) for true in range(size) for named in range(size) if true != named]
    counted = [(max(matrix[true][named] for matrix in matrices), true, named) for true, named in pairs]
    most = sorted((item for item in counted if item[0]), key=lambda item: -item[0])[:_MOST_PAIRS]
    if not most:
        return None
    rows = [
        (check.classes[true], check.classes[named], *(str(matrix[true][named]) for matrix in matrices))
        for _, true, named in most
    ]
    return Table(("true class", "named", "reference", *(item.name for item in check.artefacts)), rows)


def _gates(check: CheckFile) -> Table:
    judged = [(item.name, item) for item in check.artefacts]
    judged += [(f"{item.name} on {name_of(host)}", item) for host in check.hosts for item in host.artefacts]
    rows = [
        (
            name,
            gate.name,
            NOTHING if gate.value is None else f"{gate.value:.4g}",
            NOTHING
            if gate.interval_95 is None or gate.interval_95[1] is None
            else f"{gate.interval_95[0]:.4g} to {gate.interval_95[1]:.4g}",
            f"{gate.limit:.4g}",
            str(gate.n or NOTHING),
            gate.verdict,
            gate.note,
        )
        for name, item in judged
        for gate in item.gates
    ]
    return Table(("file", "gate", "value", "95 %", "limit", "n", "verdict", "note"), rows)


def _pictures(run: RunDir, check: CheckFile | None) -> tuple[Gallery | None, str]:
    """The images, or why there are none."""
    if check is None:
        return None, "No file was checked: run `tledge check`."
    is_its_own = run.predictions.is_file() and check.wrote(run.predictions)
    predictions = read_predictions(run.predictions) if is_its_own else None
    if predictions is None or len(predictions.paths) != check.n:
        return None, f"{run.predictions.name} is not that of the last check: run `tledge check` again."
    root = run.data if run.data is not None else run.path.resolve() / check.data_root
    return gallery(root.resolve(), check, predictions), ""


def _split_table(manifest: Manifest) -> Table:
    subsets = list(manifest.split.images)
    per_class = manifest.split.images_per_class
    rows = [(name, *(f"{per_class.get(one, {}).get(name, 0):,}" for one in subsets)) for name in manifest.classes]
    return Table(("class", *subsets), [*rows, ("all", *(f"{count:,}" for count in manifest.split.images.values()))])


def _sizes(run: RunDir, manifest: Manifest) -> tuple[Table | None, str]:
    """Sizes of the images as they are stored, or why they are not known; of many images an even sample."""
    try:
        root, rows = data_root(run, manifest), read_split(run)
    except RunError as error:
        return None, str(error)
    step = max(1, -(-len(rows) // _MOST_SIZES))
    found = [size for row in rows[::step] if (size := stored_size(root / row.path)) is not None]
    if not found:
        return None, f"None of the images is in {root}."
    heights, widths = (sorted(values) for values in zip(*found, strict=True))
    middle = len(found) // 2
    cells = [("least", heights[0], widths[0]), ("median", heights[middle], widths[middle])]
    cells.append(("largest", heights[-1], widths[-1]))
    title = f"Stored sizes in pixels, of {len(found):,} of {len(rows):,} images; the model takes "
    title += short_text(manifest.image_size_px)
    return Table(("", "height", "width"), [(name, str(height), str(width)) for name, height, width in cells], title), ""


def _environment(manifest: Manifest, check: CheckFile | None, bench: BenchFile | None) -> Table:
    """Where and with what each stage ran."""
    rows = [
        _stage(
            "adopted" if manifest.origin == "adopted" else "trained",
            manifest.created,
            manifest.machine,
            manifest.versions,
        )
    ]
    if check is not None:
        rows.append(_stage("checked", check.created, check.machine, check.versions))
        rows += [
            _stage(f"checked on {host.on}", check.created, host.environment.machine, host.environment.versions)
            for host in check.hosts
        ]
    if bench is not None and bench.environment is not None:
        rows.append(_stage("measured", bench.created, bench.environment.machine, bench.environment.versions))
    for there in () if bench is None else bench.hosts:
        rows.append(
            _stage(f"measured on {there.on}", there.created, there.environment.machine, there.environment.versions)
        )
    return Table(("", "when", "machine", "versions"), rows)


def _stage(what: str, created: str, machine: Machine | HostMachine, versions: dict[str, str]) -> tuple[str, ...]:
    parts = (machine.cpu or machine.architecture, f"{machine.cores} cores", machine.system)
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return what, created[:16].replace("T", " "), ", ".join(part for part in parts if part), listed


def _commands(run: RunDir, manifest: Manifest, rows: Sequence[FileRow], bench: BenchFile | None) -> Iterator[str]:
    """What was typed first, then what makes the files and their numbers again."""
    name = shlex.quote(run.path.absolute().name)
    yield manifest.command
    recipes = [row.name for row in rows if row.sidecar is not None]
    if recipes:
        yield f"tledge export {name} {' '.join(f'--recipe {shlex.quote(recipe)}' for recipe in recipes)}"
        yield f"tledge check {name}"
    if bench is not None and bench.settings is not None:
        settings = bench.settings
        provider = f" --provider {settings.provider}" if settings.provider else ""
        yield (
            f"tledge bench {name} --threads {settings.threads} --batch {settings.batch} --rounds {settings.rounds} "
            f"--samples {settings.samples}{provider}"
        )
    yield f"tledge report {name}"


def _lineage(manifest: Manifest, rows: Sequence[FileRow]) -> Table:
    """From the data and weights to each file, by SHA-256."""
    found = [("data", "", manifest.data_fingerprint)]
    if manifest.weights.digest is not None:
        found.append(("weights", manifest.weights.source, manifest.weights.digest))
    step: Parent | None = manifest.parent
    earlier = []
    while step is not None:
        what = "" if step.optimization is None else str(step.optimization.get("method"))
        earlier.append(("run before", what, step.model_sha256 or "not kept"))
        step = step.parent
    found += reversed(earlier)
    if manifest.reference_sha256 != manifest.model_sha256:
        found.append(("reference", "what the files are compared with", manifest.reference_sha256))
    method = "" if manifest.optimization is None else str(manifest.optimization.get("method"))
    found.append(("model", method, manifest.model_sha256))
    for row in rows:
        if row.sidecar is not None:
            made = f"recipe {row.sidecar.lineage.recipe}, {row.sidecar.lineage.recipe_sha256[:12]}"
            current = "" if row.sidecar.source_sha256 == manifest.model_sha256 else "; made from another model"
            found.append((row.name, made + current, row.sidecar.sha256))
    return Table(("what", "how", "SHA-256"), found)
