"""Stage 5: one table and one page about a run, from the files its stages wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.compression.search.record import SearchFile
from tledge.conversion.sidecar import Sidecar
from tledge.core.escaping import markdown, visible
from tledge.core.files import write_text
from tledge.core.image_size import short_text, sides_text
from tledge.core.records import read_record
from tledge.data.resizers import IN_WORDS
from tledge.reporting.hosts import host_notes, host_section, host_table
from tledge.reporting.markdown import section, table_lines
from tledge.reporting.model_card import as_markdown as card_as_markdown
from tledge.reporting.model_card import model_card
from tledge.reporting.rows import FileRow, rows_of
from tledge.reporting.sections import (
    artefact_section,
    bench_section,
    checked_hosts_section,
    options_section,
    recall_section,
)
from tledge.reporting.tables import NOTHING, VERDICTS, Table, megabytes
from tledge.runs.bench_json import BenchFile, read_bench
from tledge.runs.check_json import CheckFile, read_check
from tledge.runs.manifest import Manifest, optimizations, read_manifest
from tledge.runs.rundir import RunDir, open_run

COLUMNS = (
    "artefact",
    "status",
    "accuracy (95 % interval)",
    "drop",
    "agreement",
    "size MB",
    "gzip MB",
    "p50 ms",
    "speed-up",
)
REFERENCE_ROW = "reference (Keras)"


@dataclass(frozen=True)
class Report:
    """What is known of a run; `check` and `bench` are None until those stages ran, `search` where no goal chose it.

    `hosts` has the latencies on this machine and on others side by side, None where no other was measured.
    """

    run: RunDir
    manifest: Manifest
    rows: tuple[FileRow, ...]
    check: CheckFile | None
    bench: BenchFile | None
    search: SearchFile | None
    hosts: Table | None
    notes: tuple[str, ...]

    @property
    def what(self) -> str:
        """The model in a few words."""
        if self.manifest.origin == "adopted":
            return f"adopted from {self.manifest.weights.requested}"
        return f"VGG16, {self.manifest.technique}"

    @property
    def table(self) -> Table:
        """The one table: a line for the reference, and one for each artefact."""
        return Table(COLUMNS, [_cells(row) for row in self.rows])


def report(run_path: Path, *, data: Path | None = None) -> Report:
    """Put together what is known of a run and write `report.md`, the page `report.html`, and `MODEL_CARD.md`.

    Args:
        run_path: the run.
        data: where its images are now, for the thumbnails of the page; None for where they were.

    Raises:
        RunError, ArtefactError: the run or one of its files is missing or malformed.
        DataError: `data` is no folder, or a damaged archive.
    """
    from tledge.reporting.html.run_page import run_page

    run = open_run(run_path, data)
    result, everywhere = _compose(run)
    card = model_card(run, result.manifest, result.rows, result.check)
    write_text(run.report, _markdown(result, everywhere))
    write_text(run.model_card, card_as_markdown(card))
    write_text(run.page, run_page(result, everywhere, card))
    return result


def _compose(run: RunDir) -> tuple[Report, BenchFile | None]:
    manifest = read_manifest(run)
    check = read_check(run.check)
    everywhere = read_bench(run.bench)
    bench = everywhere if everywhere is not None and everywhere.results else None  # none where only hosts measured
    rows = rows_of(run, check, everywhere)
    sidecars = [row.sidecar for row in rows if row.sidecar is not None]
    search = read_record(run.search, SearchFile) if run.search.is_file() else None
    about = _notes(manifest, sidecars, check, bench)
    notes = (*_notes_on_missing(run), *_search_notes(search), *about, *host_notes(everywhere, sidecars))
    hosts = host_table(everywhere, sidecars)
    return Report(run, manifest, rows, check, bench, search, hosts, notes), everywhere


def _cells(row: FileRow) -> tuple[str, ...]:
    return (
        REFERENCE_ROW if row.sidecar is None else row.name,
        row.status,
        row.accuracy,
        row.drop,
        row.agreement,
        megabytes(row.size_bytes, 1),
        row.gzip_mb,
        row.p50_ms(1),
        row.speedup,
    )


def _notes_on_missing(run: RunDir) -> list[str]:
    notes = []
    if not run.reference.is_file():
        name = run.reference.name
        notes.append(f"{name} is not in this run any more: its size is not known, and `tledge check` needs it.")
    again = f"`tledge export {run.path}` writes it again"
    return notes + [f"The file that {path.name} describes is gone: {again}." for path in run.orphans()]


def _search_notes(search: SearchFile | None) -> list[str]:
    if search is None:
        return []
    return [
        f"Chosen for the goal {search.goal} among {len(search.candidates)} candidates by their accuracy on "
        f"validation images, which flatters it; the test subset of `tledge check` is unbiased (search.json)."
    ]


def _notes(
    manifest: Manifest, sidecars: Sequence[Sidecar], check: CheckFile | None, bench: BenchFile | None
) -> list[str]:
    notes = []
    if check:
        notes.append(f"Accuracy: n = {check.n} images, interval: Wilson, 95 %; drop is reference minus artefact.")
        shown = {item.sha256 for item in check.artefacts}
        if any(sidecar.sha256 not in shown for sidecar in sidecars):
            notes.append("Some artefacts are not in the last check: run `tledge check` again.")
        for item in check.artefacts:
            notes += [
                f"{VERDICTS[gate.verdict]} {item.name}: {gate.name} is "
                f"{NOTHING if gate.value is None else format(gate.value, '.4g')}, limit {gate.limit:.4g}"
                f"{', ' if gate.note else ''}{gate.note}."
                for gate in item.gates
                if gate.verdict != "pass"
            ]
    if bench and bench.settings and bench.environment:
        settings, machine = bench.settings, bench.environment.machine
        notes.append(
            f"Latency: batch {settings.batch}, {settings.threads} threads, "
            f"{f'provider {settings.provider}, ' if settings.provider else ''}{short_text(manifest.image_size_px)} px, "
            f"n = {settings.rounds * settings.samples} in {settings.rounds} interleaved rounds, "
            f"{settings.warmup} warm-up runs and {settings.warmup_ms:g} ms or more before each; "
            f"{machine.cpu} ({', '.join(machine.cpu_flags) or 'no telling flags'})."
        )
        notes += bench.notes
    methods = [step["method"] for step in optimizations(manifest)]
    if compressible := [method for method in ("prune", "cluster") if method in methods]:
        notes.append(
            f"This model went through {' → '.join(methods)}: what {' and '.join(compressible)} gained shows only in "
            "the compressed size (gzip, level 9); zeros and repeated values at any place change neither the size of "
            "the file as it is nor the latency."
        )
    return notes


def _markdown(result: Report, everywhere: BenchFile | None) -> str:
    manifest = result.manifest
    sidecars = [row.sidecar for row in result.rows if row.sidecar is not None]
    lines = [
        f"# {markdown(result.run.path.absolute().name)}: {markdown(result.what)}",
        "",
        *table_lines(result.table),
        "",
        *(f"- {markdown(note)}" for note in result.notes),
        "",
        *_training_section(manifest),
        *(recall_section(result.check) if result.check else []),
        *(checked_hosts_section(result.check) if result.check else []),
        *(bench_section(result.bench) if result.bench else []),
        *options_section(everywhere, sidecars),
        *(host_section(result.hosts) if result.hosts else []),
        *artefact_section(sidecars),
        "## How to use the files",
        "",
        f"Every file takes RGB pixels 0 to 255, {sides_text(manifest.image_size_px)}, in the order "
        f"N, H, W, C (resized {manifest.resize_method}, {IN_WORDS[manifest.resize]}); preprocessing is inside the "
        "model. int8 files take uint8, the others float32. Labels are embedded and in `labels.txt`.",
        "",
        "## Made with",
        "",
        f"`{visible(manifest.command).replace('`', chr(39))}`, seed {manifest.seed}, {markdown(manifest.created)}; "
        + ", ".join(markdown(f"{name} {version}") for name, version in manifest.versions.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def _training_section(manifest: Manifest) -> list[str]:
    images, training, weights = manifest.split.images, manifest.training, manifest.weights
    why = weights.selection or {}
    rows = [
        ("classes", f"{len(manifest.classes)}: {', '.join(manifest.classes)}"),
        ("images", ", ".join(f"{subset} {count}" for subset, count in images.items())),
        ("data fingerprint", manifest.data_fingerprint),
        ("validation accuracy", f"{training.val_accuracy:.3f} (n = {images['val']})"),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in manifest.timings_s.items())),
    ]
    if manifest.origin == "adopted":
        taken = ("model", f"{weights.requested}, SHA-256 {weights.digest}, takes {manifest.settings['form']}")
        return section("Adopted", Table(("what", "value"), [taken, *rows]))
    rows[3:3] = [
        ("weights", f"{weights.source}, SHA-256 of the 26 tensors {weights.digest or '–'}"),
        *((f"why {key}", why[key]) for key in ("weights", "technique") if key in why),
        ("head", str(manifest.head)),
        ("trainable parameters", f"{training.trainable_parameters:,}"),
        ("epochs", f"{training.epochs}, best {training.best_epoch}"),
    ]
    return section("Training", Table(("what", "value"), rows))
