"""Stage 5: one table and one page about a run, from the files its stages wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.compression.search.record import SearchFile
from tledge.conversion.sidecar import Sidecar, read_sidecar
from tledge.core.files import write_text
from tledge.core.records import read_record
from tledge.reporting.hosts import HostTable, host_notes, host_section, host_table
from tledge.reporting.sections import artefact_section, bench_section, options_section, recall_section, table
from tledge.runs.bench_json import BenchFile, Measurement, read_bench
from tledge.runs.check_json import CheckedArtefact, CheckedReference, CheckFile, read_check
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
_STATUS = {"pass": "pass", "fail": "FAIL", "undecided": "undecided"}
REFERENCE_ROW = "reference (Keras)"


@dataclass(frozen=True)
class Row:
    """One line of the table; cells in the order of `COLUMNS`. `status` is one of its cells too."""

    cells: tuple[str, ...]
    status: str


@dataclass(frozen=True)
class Report:
    """What is known of a run; `check` and `bench` are None until those stages ran.

    `hosts` has the latencies on this machine and on others side by side, None where no other was measured.
    """

    run: RunDir
    manifest: Manifest
    rows: tuple[Row, ...]
    check: CheckFile | None
    bench: BenchFile | None
    hosts: HostTable | None
    notes: tuple[str, ...]


def report(run_path: Path) -> Report:
    """Put together what is known of a run and write `report.md`.

    Raises:
        RunError, ArtefactError: the run or one of its files is missing or malformed.
    """
    run = open_run(run_path)
    result, page = _compose(run)
    write_text(run.report, page)
    return result


def _compose(run: RunDir) -> tuple[Report, str]:
    manifest = read_manifest(run)
    check = read_check(run.check)
    everywhere = read_bench(run.bench)
    bench = everywhere if everywhere is not None and everywhere.results else None  # none where only hosts measured
    sidecars = [read_sidecar(path) for path in run.sidecars()]
    notes = tuple(_search_notes(run) + _notes(manifest, sidecars, check, bench) + host_notes(everywhere, sidecars))
    hosts = host_table(everywhere, sidecars)
    result = Report(run, manifest, _rows(run, sidecars, check, bench), check, bench, hosts, notes)
    return result, _markdown(result, sidecars, options_section(everywhere, sidecars))


def _rows(
    run: RunDir, sidecars: Sequence[Sidecar], check: CheckFile | None, bench: BenchFile | None
) -> tuple[Row, ...]:
    checked = {item.sha256: item for item in check.artefacts} if check else {}
    measured = {item.sha256: item for item in bench.results} if bench else {}
    reference = next((item for item in measured.values() if item.name == "keras"), None)
    accuracy = _accuracy(check.reference) if check else "–"
    size = f"{run.reference.stat().st_size / 1e6:.1f}" if run.reference.is_file() else "–"
    rows = [Row((REFERENCE_ROW, "–", accuracy, "–", "–", size, "–", *_latency(reference)), "–")]
    for sidecar in sidecars:
        item = checked.get(sidecar.sha256)
        status = "not checked" if item is None else _STATUS[item.verdict]
        rows.append(
            Row(
                (
                    sidecar.name,
                    status,
                    "–" if item is None else _accuracy(item),
                    "–" if item is None else f"{item.accuracy_drop:+.3f}",
                    "–" if item is None else f"{item.agreement:.3f}",
                    f"{sidecar.size_bytes / 1e6:.1f}",
                    "–" if sidecar.gzip_bytes is None else f"{sidecar.gzip_bytes / 1e6:.1f}",
                    *_latency(measured.get(sidecar.sha256)),
                ),
                status,
            )
        )
    return tuple(rows)


def _accuracy(item: CheckedReference | CheckedArtefact) -> str:
    low, high = item.accuracy_interval_95
    return f"{item.accuracy:.3f} ({low:.3f}–{high:.3f})"


def _latency(item: Measurement | None) -> tuple[str, str]:
    if item is None:
        return "–", "–"
    speedup = item.speedup_vs_keras
    return f"{item.latency_ms['p50']:.1f}", "–" if speedup is None else f"{speedup:.2f}x"


def _search_notes(run: RunDir) -> list[str]:
    if not run.search.is_file():
        return []
    search = read_record(run.search, SearchFile)
    return [
        f"Chosen for the goal {search.goal} among {len(search.candidates)} candidates by their accuracy on "
        f"validation images, which flatters it; the test subset of `tledge check` is unbiased ({run.search.name})."
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
                f"{_STATUS[gate.verdict]} {item.name}: {gate.name} is "
                f"{'–' if gate.value is None else format(gate.value, '.4g')}, limit {gate.limit:.4g}"
                f"{', ' if gate.note else ''}{gate.note}."
                for gate in item.gates
                if gate.verdict != "pass"
            ]
    if bench and bench.settings and bench.environment:
        settings, machine = bench.settings, bench.environment.machine
        notes.append(
            f"Latency: batch {settings.batch}, {settings.threads} threads, {manifest.image_size_px} px, "
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


def _markdown(result: Report, sidecars: Sequence[Sidecar], options: Sequence[str]) -> str:
    manifest = result.manifest
    lines = [
        f"# {result.run.path.absolute().name}: VGG16, {manifest.technique}",
        "",
        *table(COLUMNS, [row.cells for row in result.rows]),
        "",
        *(f"- {note}" for note in result.notes),
        "",
        *_training_section(manifest),
        *(recall_section(result.check) if result.check else []),
        *(bench_section(result.bench) if result.bench else []),
        *options,
        *(host_section(result.hosts) if result.hosts else []),
        *artefact_section(sidecars),
        "## How to use the files",
        "",
        f"Every file takes RGB pixels 0 to 255, {manifest.image_size_px} x {manifest.image_size_px}, in the order "
        f"N, H, W, C (resized {manifest.resize_method}, stretched); preprocessing is inside the model. int8 files take "
        "uint8, the others float32. Labels are embedded and in `labels.txt`.",
        "",
        "## Made with",
        "",
        f"`{manifest.command}`, seed {manifest.seed}, {manifest.created}; "
        + ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
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
        ("weights", f"{weights.source}, SHA-256 of the 26 tensors {weights.digest or '–'}"),
        *((f"why {key}", why[key]) for key in ("weights", "technique") if key in why),
        ("head", manifest.head),
        ("trainable parameters", f"{training.trainable_parameters:,}"),
        ("epochs", f"{training.epochs}, best {training.best_epoch}"),
        ("validation accuracy", f"{training.val_accuracy:.3f} (n = {images['val']})"),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in manifest.timings_s.items())),
    ]
    return ["## Training", "", *table(("what", "value"), rows), ""]
