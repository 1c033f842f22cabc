"""What commands say and runs hold, as snapshots: moving code must change none of it.

Help is compared as it is. Of a small run, of an optimized one, of a search and of a selection there are two snapshots:

- *structure*, compared everywhere: keys, types, lengths, words, and numbers that follow from settings alone;
- *values*, compared on processors of one kind: every number and the SHA-256 of every model file. Kernels differ between
  processors and round differently, so a training on another kind ends in other bits.

After a change that is meant: `python -m pytest tests/integration/test_snapshots.py --snapshot-update`, then read the
difference. The same command records the values of a kind of processor that has none yet.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import platform
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.amber import AmberSnapshotExtension
from syrupy.location import PyTestLocation

from tests.conftest import write_digits
from tledge.cli import group

RECIPES = (
    "onnx-float32",
    "onnx-int8",
    "onnx-int8-full-range",
    "tflite-dynamic",
    "tflite-float16",
    "tflite-float32",
    "tflite-int8",
)
SMALL_RECIPES = ("onnx-float32", "onnx-int8", "tflite-int8")
DOCUMENTS = (
    "run/files",
    "run/run.json",
    "run/labels.txt",
    "run/split.csv",
    "run/history.csv",
    "run/calibration.json",
    *(f"run/export/{recipe}.json" for recipe in RECIPES),
    "run/check.json",
    "run/predictions.csv",
    "run/bench.json",
    "run/report.md",
    "small/files",
    "small/run.json",
    *(f"small/export/{recipe}.json" for recipe in SMALL_RECIPES),
    "found/run.json",
    "found/search.json",
    "select.json",
)

# Patterns of dotted paths in JSON; an item of a list is called `item`, and `*` crosses dots.
# The clock, the load, the machine and the date decide these: only their types are compared, everywhere.
MEASURED = (
    *("created", "versions.*", "machine.*", "seconds", "*_seconds", "timings_s.*", "data.path"),
    *("busy_cores_before", "conditions.looks", "conditions.looks_with_other_work"),
    *("latency_ms.*", "p50_interval_95.*", "speedup_interval_95.*", "samples_ms.item.item", "speedup_vs_keras"),
    *("load_ms", "first_ms", "peak_rss_mb", "model_rss_mb"),
    *("own_latency.p??_ms", "own_latency.speedup", "final_latency.p??_ms", "final_latency.speedup"),
    "pareto_front",  # latencies count there
)
# A number on some machines and null on others, even on one machine from day to day.
PERHAPS_MEASURED = (
    *("conditions.before.*", "conditions.after.*", "conditions.clock_mhz", "conditions.drift"),
    *("conditions.other_cores", "conditions.stolen_cores", "energy_source", "energy_j", "energy_interval_95"),
)
# Arithmetic decides these, as it does every float: only their types are in the structure.
COMPUTED = (
    *("size_bytes", "gzip_bytes", "best_epoch", "lost", "won", "confusion.item.item"),
    *("ranks.*.item", "multiply_adds", "parameters", "trainable_parameters"),
    *("gates.item.note", "best_depth", "domain.confused", "domain.notes"),
)
# Texts with computed numbers in them.
TELLING = ("reason", "notes.item", "why_*", "directory")
# Floats that follow from settings alone.
CHOSEN = ("settings.*", "split.*_fraction", "gates.item.limit")

LATENCY_COLUMNS = (
    *("p50 ms", "p50 95 %", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB", "model MB"),
    *("speed-up", "speed-up (95 %)"),
)
NUMBER = re.compile(r"(?<![\w.])[+−-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")
DIGEST = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{16}|(?<=-)[0-9a-f]{8})\b")


# --- the runs, made once ---------------------------------------------------------------------------------------------


def _own_process(root: Path, name: str) -> None:
    """Every job has caches of its own, and a name that is not that of pytest, which would get into `command`."""
    os.environ["XDG_DATA_HOME"], os.environ["XDG_CACHE_HOME"] = str(root / name / "data"), str(root / name / "cache")
    sys.argv = ["snapshots"]


def _train(root: Path) -> None:
    _own_process(root, "user-train")
    import tledge

    tledge.train(root / "digits", technique="feature-extraction", out=root / "run", image_size=32, epochs=20)
    _settle(root / "run")


def _settle(run: Path) -> None:
    """Write a run's Keras file anew without what differs between two savings; put its digest into `run.json`.

    Keras writes the time and the addresses of objects into the file, and its digest goes into every artefact.
    """
    old = run / "model.keras"
    new = old.with_suffix(".settled")
    with zipfile.ZipFile(old) as before, zipfile.ZipFile(new, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name == "metadata.json":
                content = json.dumps(json.loads(content) | {"date_saved": "2000-01-01@00:00:00"}).encode()
            elif name == "config.json":
                content = re.sub(rb'("shared_object_id": )\d+', rb"\g<1>0", content)
            after.writestr(zipfile.ZipInfo(name), content)
    manifest, (was, now) = run / "run.json", map(_sha256, (old, new))
    text = manifest.read_text()
    assert f'"model_sha256": "{was}"' in text
    manifest.write_text(text.replace(was, now))
    new.replace(old)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _select(root: Path) -> None:
    _own_process(root, "user-select")
    import tledge

    candidates = ["vgg16-imagenet", "random"]
    tledge.select(root / "digits", out=root / "select.json", image_size=32, images=12, candidates=candidates)


def _judge(root: Path) -> None:
    _own_process(root, "user-judge")
    import tledge

    run = root / "run"
    tledge.export(run, recipes=RECIPES)
    tledge.check(run, max_drop=1.0)
    tledge.bench(run, rounds=2, samples=2, warmup=0, threads=1)
    tledge.report(run)


def _shrink(root: Path) -> None:
    _own_process(root, "user-shrink")
    import tledge

    tledge.optimize(root / "run", out=root / "small", method="low-rank", speedup=4, pictures=12, epochs=1)
    _settle(root / "small")
    tledge.export(root / "small", recipes=SMALL_RECIPES)


def _search(root: Path) -> None:
    """The first candidate holds the goal, and with its TFLite file alone, so that no latency decides the choice."""
    _own_process(root, "user-search")
    import tledge

    goal = "size < 14.80 MB, drop <= 0.6"
    tledge.search(root / "run", goal, out=root / "found", threads=1, epochs=0, time_budget=0.05)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `run`, `small`, `found` and `select.json`.

    Processes of their own, since Keras counts the layers that a process made, and names go into files: what was
    tested before must not change them. Two at a time, since half of the work runs on one core.
    """
    pytest.importorskip("tensorflow")
    root = tmp_path_factory.mktemp("snapshots")
    write_digits(root / "digits", 20)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as pool:
        for jobs in ((_train, _select), (_judge, _shrink, _search)):
            for started in [pool.submit(job, root) for job in jobs]:
                started.result()
    yield root
    shutil.rmtree(root, ignore_errors=True)


# --- what is left of a file for a comparison -------------------------------------------------------------------------


def _any(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}") for pattern in patterns)


def _type(value: object) -> str:
    return "<null>" if value is None else f"<{type(value).__name__}>"


def _hidden(text: str) -> str:
    """A text without digests and numbers."""
    return NUMBER.sub("<n>", _without_digests(text))


def _without_digests(text: str) -> str:
    return DIGEST.sub(lambda found: f"<hex{len(found[0])}>", text)


def _normalised(value: Any, structure: bool, path: str = "") -> Any:
    if _any(path, PERHAPS_MEASURED):
        return "<measured or null>"
    if _any(path, MEASURED) or (structure and _any(path, COMPUTED)):
        return _type(value)
    if isinstance(value, dict):
        return {
            _without_digests(key) if structure else key: _normalised(inner, structure, f"{path}.{key}".lstrip("."))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_normalised(inner, structure, f"{path}.item") for inner in value]
    if structure and isinstance(value, float) and not _any(path, CHOSEN):
        return "<float>"
    if structure and isinstance(value, str):
        return _hidden(value) if _any(path, TELLING) else _without_digests(value)
    return value


def _steady(notes: list[str]) -> list[str]:
    """Notes that do not depend on what else the machine does."""
    return [note for note in notes if "rounds are too few" in note]


def _json(file: Path, structure: bool) -> str:
    content = json.loads(file.read_text())
    if file.name in ("bench.json", "search.json"):
        content["notes"] = _steady(content["notes"])
    if file.name == "search.json":
        for measured in (each for candidate in content["candidates"] for each in candidate["files"]):
            # Latencies decide which other files are measured to the end.
            if measured["recipe"] != content["chosen"]["recipe"]:
                measured["final_latency"] = "<measured or null>"
    text = json.dumps(_normalised(content, structure), indent=1, ensure_ascii=False)
    # Lists of single values on one line: a confusion matrix is read more easily so.
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def _table(file: Path, structure: bool) -> str:
    text = file.read_text()
    if file.name == "history.csv":
        return text.splitlines()[0]
    if file.name == "predictions.csv":
        header, *_ = rows = list(csv.reader(io.StringIO(text)))
        text = "".join(",".join(row[: header.index("p(reference)")]) + "\n" for row in rows)
    if not structure:
        return text
    rows = list(csv.reader(io.StringIO(text)))
    if file.name == "predictions.csv":
        return "\n".join([",".join(rows[0]), *(",".join(row[:2]) for row in rows[1:])])
    return _without_digests(text)


def _report(file: Path, structure: bool) -> str:
    bench = json.loads((file.parent / "bench.json").read_text())
    machine = bench["environment"]["machine"]
    noise = {f"- {note}" for note in bench["notes"]} - {f"- {note}" for note in _steady(bench["notes"])}
    lines: list[str] = []
    columns: list[bool] | None = None
    for line in file.read_text().splitlines():
        if line in noise:
            continue
        if not line.startswith("| "):
            columns = None
        elif columns is None:  # the header
            columns = [cell.strip(" |") in LATENCY_COLUMNS for cell in line.split(" | ")]
        elif line.startswith("| seconds |"):
            line = NUMBER.sub("<n>", line)
        else:
            cells = zip(line.split(" | "), columns, strict=True)
            line = " | ".join(NUMBER.sub("<n>", cell) if measured else cell for cell, measured in cells)
        lines.append(line)
    text = "\n".join(lines)
    text = text.replace(f"{machine['cpu']} ({', '.join(machine['cpu_flags'])})", "<machine>")
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:+]+", "<date>", text)
    text = re.sub(r"; tledge \d[^;\n]*", "; <versions>", text)
    return _hidden(text) if structure else text


def _files(run: Path, structure: bool) -> str:
    """Every file of a run; in the values with the SHA-256 of those that hold neither times nor dates."""
    lines = []
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        lasting = path.suffix in (".keras", ".onnx", ".tflite", ".csv", ".txt")
        # Of answers the classes are compared by themselves; probabilities differ between processors.
        lasting = lasting and path.name not in ("history.csv", "predictions.csv")
        digest = _sha256(path) if lasting and not structure else "<file>"
        lines.append(f"{path.relative_to(run).as_posix()} {digest}")
    return "\n".join(lines)


def _document(root: Path, name: str, structure: bool) -> str:
    file = root / name
    if file.name == "files":
        text = _files(file.parent, structure)
    elif file.suffix == ".json":
        text = _json(file, structure)
    elif file.suffix == ".csv":
        text = _table(file, structure)
    elif file.suffix == ".md":
        text = _report(file, structure)
    else:
        text = file.read_text()
    return text.replace(str(root), "<root>")


# --- the kind of processor -------------------------------------------------------------------------------------------


@cache
def processor_kind() -> str:
    """What decides which kernels run and how they share out their sums: maker, widest instructions, cores."""
    import cpuinfo

    info = cpuinfo.get_cpu_info()
    maker = str(info.get("vendor_id_raw", "unknown")).lower()
    flags = set(info.get("flags", ()))
    widest = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()}-{maker}-{widest[-1] if widest else 'plain'}-{cores}-cores"


class ValuesExtension(AmberSnapshotExtension):
    """A folder for every kind of processor.

    Outside `__snapshots__`, of which syrupy calls every file unused that this machine does not read, and removes it in
    an update.
    """

    @classmethod
    def dirname(cls, *, test_location: PyTestLocation) -> str:
        return str(_values_folder(Path(test_location.filepath)) / processor_kind())


def _values_folder(test_file: Path) -> Path:
    return test_file.parent / "__values__"


# --- the tests -------------------------------------------------------------------------------------------------------


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _commands(inner, (*path, name))


@pytest.mark.parametrize("path", _commands(group), ids=lambda path: " ".join(("tledge", *path)))
def test_help(path: tuple[str, ...], snapshot: SnapshotAssertion) -> None:
    # Wider than any terminal that a test runs in, and always the same.
    shown = CliRunner().invoke(group, [*path, "--help"], prog_name="tledge", terminal_width=100)
    assert shown.exit_code == 0
    assert shown.output == snapshot


@pytest.mark.parametrize("name", DOCUMENTS)
def test_structure(name: str, runs: Path, snapshot: SnapshotAssertion) -> None:
    assert _document(runs, name, structure=True) == snapshot


@pytest.fixture
def values(request: pytest.FixtureRequest, snapshot: SnapshotAssertion) -> SnapshotAssertion:
    folder, kind = _values_folder(request.path), processor_kind()
    if not (folder / kind).is_dir() and not request.config.getoption("update_snapshots"):
        recorded = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "none"
        pytest.skip(
            f"no values are recorded for {kind} (recorded: {recorded}); on a commit that is known to be good, "
            f"`python -m pytest {request.path.name} --snapshot-update` here records them in {folder.name}/{kind}"
        )
    return snapshot.use_extension(ValuesExtension)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_values(name: str, runs: Path, values: SnapshotAssertion) -> None:
    assert _document(runs, name, structure=False) == values
