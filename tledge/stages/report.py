"""Stage 5: one table and one page about a run, from the files its stages wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tledge.errors import RunError
from tledge.files import read_json, write_text
from tledge.manifest import Manifest, optimizations, read_manifest
from tledge.rundir import RunDir, open_run
from tledge.types import Json

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
    """What is known of a run; `check` and `bench` are None until those stages ran."""

    run: RunDir
    manifest: Manifest
    rows: tuple[Row, ...]
    check: Json | None
    bench: Json | None
    notes: tuple[str, ...]


def report(run_path: Path) -> Report:
    """Put together what is known of a run and write `report.md`.

    Raises:
        RunError: the run or one of its files is missing or malformed.
    """
    run = open_run(run_path)
    try:
        result, page = _compose(run)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"expected complete {run.check.name}, {run.bench.name} and sidecars in {run.path}, but one is not "
            f"({error!r}); run check and bench again"
        ) from None
    write_text(run.report, page)
    return result


def _compose(run: RunDir) -> tuple[Report, str]:
    manifest = read_manifest(run)
    check = read_json(run.check) if run.check.is_file() else None
    bench = read_json(run.bench) if run.bench.is_file() else None
    sidecars = [read_json(path) for path in run.sidecars()]
    notes = tuple(_search_notes(run) + _notes(manifest, sidecars, check, bench))
    result = Report(run, manifest, _rows(run, sidecars, check, bench), check, bench, notes)
    return result, _markdown(result, sidecars)


def _rows(run: RunDir, sidecars: Sequence[Json], check: Json | None, bench: Json | None) -> tuple[Row, ...]:
    checked = {item["sha256"]: item for item in check["artefacts"]} if check else {}
    measured = {item["sha256"]: item for item in bench["results"]} if bench else {}
    reference = next((item for item in measured.values() if item["name"] == "keras"), None)
    accuracy = _accuracy(check["reference"]) if check else "–"
    size = f"{run.reference.stat().st_size / 1e6:.1f}" if run.reference.is_file() else "–"
    rows = [Row((REFERENCE_ROW, "–", accuracy, "–", "–", size, "–", *_latency(reference)), "–")]
    for sidecar in sidecars:
        item = checked.get(sidecar["sha256"])
        status = "not checked" if item is None else _STATUS[item["verdict"]]
        rows.append(
            Row(
                (
                    sidecar["name"],
                    status,
                    "–" if item is None else _accuracy(item),
                    "–" if item is None else f"{item['accuracy_drop']:+.3f}",
                    "–" if item is None else f"{item['agreement']:.3f}",
                    f"{sidecar['size_bytes'] / 1e6:.1f}",
                    f"{sidecar['gzip_bytes'] / 1e6:.1f}" if "gzip_bytes" in sidecar else "–",
                    *_latency(measured.get(sidecar["sha256"])),
                ),
                status,
            )
        )
    return tuple(rows)


def _accuracy(item: Json) -> str:
    low, high = item["accuracy_interval_95"]
    return f"{item['accuracy']:.3f} ({low:.3f}–{high:.3f})"


def _latency(item: Json | None) -> tuple[str, str]:
    if item is None:
        return "–", "–"
    speedup = item["speedup_vs_keras"]
    return f"{item['latency_ms']['p50']:.1f}", "–" if speedup is None else f"{speedup:.2f}x"


def _search_notes(run: RunDir) -> list[str]:
    if not run.search.is_file():
        return []
    search = read_json(run.search)
    return [
        f"Chosen for the goal {search['goal']} among {len(search['candidates'])} candidates by their accuracy on "
        f"validation images, which flatters it; the test subset of `tledge check` is unbiased ({run.search.name})."
    ]


def _notes(manifest: Manifest, sidecars: Sequence[Json], check: Json | None, bench: Json | None) -> list[str]:
    notes = []
    if check:
        notes.append(f"Accuracy: n = {check['n']} images, interval: Wilson, 95 %; drop is reference minus artefact.")
        shown = {item["sha256"] for item in check["artefacts"]}
        if any(sidecar["sha256"] not in shown for sidecar in sidecars):
            notes.append("Some artefacts are not in the last check: run `tledge check` again.")
        for item in check["artefacts"]:
            notes += [
                f"{_STATUS[gate['verdict']]} {item['name']}: {gate['name']} is "
                f"{'–' if gate['value'] is None else format(gate['value'], '.4g')}, limit {gate['limit']:.4g}"
                f"{', ' if gate['note'] else ''}{gate['note']}."
                for gate in item["gates"]
                if gate["verdict"] != "pass"
            ]
    if bench:
        settings, machine = bench["settings"], bench["environment"]["machine"]
        notes.append(
            f"Latency: batch {settings['batch']}, {settings['threads']} threads, {manifest.image_size_px} px, "
            f"n = {settings['rounds'] * settings['samples']} in {settings['rounds']} interleaved rounds, "
            f"{settings['warmup']} warm-up runs before each; {machine['cpu']} "
            f"({', '.join(machine['cpu_flags']) or 'no telling flags'})."
        )
        notes += bench["notes"]
    methods = [step["method"] for step in optimizations(manifest)]
    if compressible := [method for method in ("prune", "cluster") if method in methods]:
        notes.append(
            f"This model went through {' → '.join(methods)}: what {' and '.join(compressible)} gained shows only in "
            "the compressed size (gzip, level 9); zeros and repeated values at any place change neither the size of "
            "the file as it is nor the latency."
        )
    return notes


def _markdown(result: Report, sidecars: Sequence[Json]) -> str:
    manifest = result.manifest
    lines = [
        f"# {result.run.path.absolute().name}: VGG16, {manifest.technique}",
        "",
        *_table(COLUMNS, [row.cells for row in result.rows]),
        "",
        *(f"- {note}" for note in result.notes),
        "",
        *_training_section(manifest),
        *(_recall_section(result.check) if result.check else []),
        *(_bench_section(result.bench) if result.bench else []),
        *_artefact_section(sidecars),
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
    images, training, weights = manifest.split["images"], manifest.training, manifest.weights
    rows = [
        ("classes", f"{len(manifest.classes)}: {', '.join(manifest.classes)}"),
        ("images", ", ".join(f"{subset} {count}" for subset, count in images.items())),
        ("data fingerprint", manifest.data_fingerprint),
        ("weights", f"{weights['source']}, SHA-256 of the 26 tensors {weights['digest'] or '–'}"),
        ("head", manifest.head),
        ("trainable parameters", f"{training['trainable_parameters']:,}"),
        ("epochs", f"{training['epochs']}, best {training['best_epoch']}"),
        ("validation accuracy", f"{training['val_accuracy']:.3f} (n = {images['val']})"),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in manifest.timings_s.items())),
    ]
    return ["## Training", "", *_table(("what", "value"), rows), ""]


def _recall_section(check: Json) -> list[str]:
    names = ["reference", *(item["name"] for item in check["artefacts"])]
    recalls = [check["reference"]["recall"], *(item["recall"] for item in check["artefacts"])]
    rows = [(name, *("–" if r[name] is None else f"{r[name]:.3f}" for r in recalls)) for name in check["classes"]]
    return ["## Recall per class", "", *_table(("class", *names), rows), ""]


def _bench_section(bench: Json) -> list[str]:
    header = ("model", "p50 ms", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB", "model MB", "speed-up (95 %)")
    rows = [
        (
            item["name"],
            *(f"{item['latency_ms'][key]:.2f}" for key in ("p50", "p90", "p99")),
            f"{item['load_ms']:.1f}",
            f"{item['first_ms']:.1f}",
            f"{item['peak_rss_mb']:.0f}",
            f"{item['model_rss_mb']:.0f}",
            _speedup(item),
        )
        for item in bench["results"]
    ]
    explained = "Peak MB is the whole process; model MB is what loading and running added to the imported runtime."
    return ["## Latency and memory", "", *_table(header, rows), "", explained, ""]


def _speedup(item: dict[str, Any]) -> str:
    if item["speedup_vs_keras"] is None:
        return "–"
    low, high = item["speedup_interval_95"]
    return f"{item['speedup_vs_keras']:.2f}x ({low:.2f}–{high:.2f})"


def _artefact_section(sidecars: Sequence[Json]) -> list[str]:
    rows = [
        (
            item["name"],
            f"{item['input']['dtype']} → {item['output']['dtype']}",
            f"{item['int8_op_share']:.2f}",
            f"{item['verification']['max_probability_difference']:.2g}",
            item["sha256"][:16],
        )
        for item in sidecars
    ]
    header = ("artefact", "input → output", "int8 share of ops", "max difference at export", "SHA-256")
    return ["## Artefacts", "", *_table(header, rows), ""] if rows else []


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), line(["---"] * len(header)), *(line(row) for row in rows)]
