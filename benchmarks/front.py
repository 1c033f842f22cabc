"""How small and fast `tledge optimize` gets a model, and what that costs: enough images to tell, one command.

    python benchmarks/front.py WORK --out RESULTS.csv [--set NAME[:PX]|RUN]... [--point OPTIONS]... [--peer NAME]...

A point is what `tledge optimize` is told, such as "--speedup 12 --size-ratio 17.5"; the run's own `tflite-int8` comes
first. A peer is an int8 model that another tool makes of the same run, one of those of `peers.py`, which says what has
to be installed for it. "efficientnet-lite0 --budget ..." is a point of that peer's net, fine-tuned and adopted, in the
place of the run. A set is a finished run with its own split, or one of these, trained by `feature-extraction`:

- `photos`: the photographs of ../shared/photos, five folds: each image is tested once, one fold validates (n = 164);
- `digits`: scikit-learn's, five folds (n = 1,797);
- `fashion`: Fashion-MNIST, 480 images a class to train on, 120 to validate, 500 of the test set's to test (n = 5,000),
  from Debian's package `dataset-fashion-mnist` or any folder of its IDX files (`--fashion`).

A drop is that of the int8 file from the Keras model on the *test* images of all folds together, with Tango's interval;
`val_drop` is the same on validation images, by which to choose between points. Every trial is a `tledge optimize` in a
process of its own. What it gave stays in WORK, so an interrupted call goes on (its minutes are then
those since it went on), another point or set joins what is there, and `--fold` makes some folds of several calls.
Latency is measured at the end, all points of a set in the same rounds.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from peer_recipes import FLOAT_NET
from peer_rows import Candidate, Pixels, asked, subject_of
from peers import PEERS as TOOLS
from peers import made, model_in, write_data

from tledge.benchmark.measure import REFERENCE, measure_watched
from tledge.benchmark.settings import BenchSettings
from tledge.cli.progress import progress
from tledge.compression.flat import multiply_adds
from tledge.core.dependencies import require_tensorflow
from tledge.core.environment import available_cores, cpu
from tledge.core.files import write_csv, write_json
from tledge.data.listing import ImageFile
from tledge.data.scan import list_images
from tledge.pipeline import write_digits
from tledge.runs.images import data_root
from tledge.runs.manifest import Manifest, read_manifest
from tledge.runs.rundir import RunDir, open_run
from tledge.stats.metrics import proportion
from tledge.stats.paired import Hits, paired_drop

FOLDS = 5
SIDES_PX = {"photos": 224, "digits": 64, "fashion": 64}
POINTS = (
    "--size-ratio 5",
    "--speedup 12 --size-ratio 10",
    "--speedup 12 --size-ratio 15.5",
    "--speedup 12 --size-ratio 25",
)
RECIPE = "tflite-int8"
PEERS = {peer.name: peer for peer in TOOLS}
NET = "efficientnet-lite0"
QAT_EPOCHS = 3
_PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "photos"
_FASHION = Path("/usr/share/datasets/fashion-mnist")
_TRAIN, _VAL, _TEST = 480, 120, 500  # of a class, where the set says which images test
COLUMNS = (
    *("set", "image_size_px", "point", "folds", "size_bytes", "times_smaller", "multiply_adds", "p50_ms"),
    *("speedup_vs_keras", "speedup_low_95", "speedup_high_95", "n", "reference_accuracy", "accuracy", "drop"),
    *("drop_low_95", "drop_high_95", "lost", "won", "val_n", "val_drop", "minutes", "other_cores", "threads", "cpu"),
)
_LATENCY = ("p50_ms", "speedup_vs_keras", "speedup_low_95", "speedup_high_95", "other_cores", "threads")


@dataclass(frozen=True)
class Trial:
    """What one point gave in one fold: which test images its file and the Keras model before it get right, and more."""

    hits: list[bool]
    reference_hits: list[bool]
    size_bytes: int
    reference_bytes: int
    multiply_adds: int | None  # of a peer's model nobody counts them
    val_drop: float
    val_n: int
    minutes: float


def subsets(files: tuple[ImageFile, ...], fold: int) -> Iterator[tuple[ImageFile, str]]:
    """Images of one fold with the subset of each; those of a class in an order of chance that is always the same."""
    groups: dict[tuple[str, str | None], list[ImageFile]] = defaultdict(list)
    for file in files:
        groups[file.label, file.subset].append(file)
    for (_, given), members in groups.items():
        for place, index in enumerate(np.random.default_rng(0).permutation(len(members))):
            if given is None:
                subset = {fold: "test", (fold + 1) % FOLDS: "val"}.get(place % FOLDS, "train")
            elif given == "test":
                subset = "test" if place < _TEST else ""
            else:
                subset = "train" if place < _TRAIN else "val" if place < _TRAIN + _VAL else ""
            if subset:
                yield members[index], subset


def tledge(*arguments: object) -> None:
    """One command in a process of its own; how it ends is its own message."""
    if subprocess.run([sys.executable, "-m", "tledge", *map(str, arguments)], check=False).returncode:
        raise click.ClickException(f"tledge {arguments[0]} failed")


def trained(source: Path, fold: int, side_px: int, folder: Path) -> Path:
    """The run of one fold, made unless it is there."""
    run = folder / "run"
    if not run.exists():
        listing = list_images(source)
        shutil.rmtree(folder / "images", ignore_errors=True)
        for file, subset in subsets(listing.files, fold):
            target = folder / "images" / subset / file.label / Path(file.path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to((listing.root / file.path).resolve())
        technique = ("--technique", "feature-extraction", "--image-size", side_px)
        # A copy in another fold would be trained and tested: it stays where it tests.
        tledge("train", folder / "images", "--out", run, *technique, "--drop-duplicates")
    return run


def answers(run: RunDir, manifest: Manifest, path: Path) -> tuple[Hits, Hits]:
    """Which test and which validation images a model gets right."""
    found = []
    for subset in ("test", "val"):
        pixels = Pixels(run, manifest, subset)
        candidate = asked(Candidate(path.name, "tledge", (), (path,)), pixels, available_cores())
        if candidate.answers is None:
            raise click.ClickException(f"{path} cannot be asked")
        found.append(candidate.answers.argmax(axis=1) == pixels.labels)
    return found[0], found[1]


def reference_answers(run: RunDir, manifest: Manifest, record: Path) -> tuple[Hits, Hits]:
    """The same of the Keras model, asked once."""
    if not record.is_file():
        test, val = answers(run, manifest, run.model)
        write_json(record, {"test": test.tolist(), "val": val.tolist()})
    kept = json.loads(record.read_text())
    return np.asarray(kept["test"], np.bool_), np.asarray(kept["val"], np.bool_)


def tried(point: str, run_path: Path, folder: Path) -> Trial:
    """What a point gives in a fold, made unless it is there."""
    record = folder / "trial.json"
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        original = open_run(run_path)
        manifest = read_manifest(original)
        test, val = reference_answers(original, manifest, run_path.with_name("reference.json"))
        began = time.monotonic()
        if point in PEERS:
            files, work = peer_model(PEERS[point], original, manifest, folder).files, None
            minutes = (time.monotonic() - began) / 60
        else:
            out, options = folder / "run" if point else run_path, point.removeprefix(NET + " ")
            if not out.exists():
                begun = run_path if options == point else adopted(original, manifest, folder_of(NET, folder.parent))
                tledge("optimize", begun, "--out", out, *shlex.split(options))
            tledge("export", out, "--recipe", RECIPE)
            result = open_run(out)
            files = (next(each for each in result.artefacts() if each.stem == RECIPE),)
            _, keras = require_tensorflow()
            work = multiply_adds(keras.models.load_model(result.model, compile=False))
            minutes = read_manifest(result).timings_s.get("optimize", 0.0) / 60
        hits, val_hits = answers(original, manifest, files[0])
        trial = Trial(
            hits=hits.tolist(),
            reference_hits=test.tolist(),
            size_bytes=sum(path.stat().st_size for path in files),
            reference_bytes=original.model.stat().st_size,
            multiply_adds=work,
            val_drop=float(val.mean() - val_hits.mean()),
            val_n=len(val),
            minutes=round(minutes, 2),
        )
        write_json(record, asdict(trial))
    return Trial(**json.loads(record.read_text()))


def adopted(original: RunDir, manifest: Manifest, folder: Path) -> Path:
    """Another net's run on the images of the original, made unless it is there."""
    run = folder / "run"
    if not run.exists():
        net = peer_model(PEERS[NET], original, manifest, folder).path.with_name(FLOAT_NET)
        where = ("--data", data_root(original, manifest), "--out", run)
        tledge("adopt", net, *where, "--input", "0..255", "--drop-duplicates")
    if read_manifest(open_run(run)).data_fingerprint != manifest.data_fingerprint:
        raise click.ClickException(f"expected the images of {original.path} in {run}, but it has others")
    return run


def peer_model(peer: Candidate, run: RunDir, manifest: Manifest, folder: Path) -> Candidate:
    """Another tool's model of a run; made in `folder`, unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data.npz"
    if not data.is_file():
        write_data(data, Pixels(run, manifest, "train"), manifest)
    found = made(peer, run, data, folder / "model", QAT_EPOCHS)
    if found.status != "ok":
        raise click.ClickException(f"{peer.name}: {found.status}")
    return found


def folder_of(point: str, fold: Path) -> Path:
    """Where a point of a fold stays."""
    return fold / (re.sub(r"[^\w.]+", "-", point).strip("-") or RECIPE)


def file_of(point: str, fold: Path) -> Path:
    """The model file that a tried point made in a fold."""
    folder = folder_of(point, fold)
    if point in PEERS:
        return model_in(folder / "model")
    run = open_run(folder / "run" if point else fold / "run")
    return next(path for path in run.artefacts() if path.stem == RECIPE)


def row(point: str, trials: list[Trial]) -> dict[str, object]:
    """The numbers of one point, over its folds."""
    hits = np.concatenate([np.asarray(each.hits, np.bool_) for each in trials])
    reference = np.concatenate([np.asarray(each.reference_hits, np.bool_) for each in trials])
    drop, accuracy = paired_drop(reference, hits), proportion(int(hits.sum()), len(hits))
    work = [each.multiply_adds for each in trials if each.multiply_adds is not None]
    size, val_n = float(np.mean([each.size_bytes for each in trials])), sum(each.val_n for each in trials)
    return dict.fromkeys(COLUMNS, "") | {
        "point": point or RECIPE,
        "folds": len(trials),
        "size_bytes": round(size),
        "times_smaller": round(float(np.mean([each.reference_bytes for each in trials])) / size, 1),
        "multiply_adds": round(np.mean(work)) if work else "",
        "n": drop.n,
        "reference_accuracy": round(float(reference.mean()), 4),
        "accuracy": round(accuracy.value, 4),
        "drop": round(drop.value, 4),
        "drop_low_95": round(drop.low, 4),
        "drop_high_95": round(drop.high, 4),
        "lost": drop.lost,
        "won": drop.won,
        "val_n": val_n,
        "val_drop": round(sum(each.val_drop * each.val_n for each in trials) / val_n, 4),
        "minutes": round(float(np.mean([each.minutes for each in trials])), 1),
    }


def latencies(points: tuple[str, ...], fold: Path, rounds: int) -> list[dict[str, object]]:
    """p50 of every point's file in one fold, in the same rounds, after that of the Keras model."""
    settings = BenchSettings(available_cores(), rounds=rounds)
    candidates = [Candidate(str(number), "", (), (file_of(point, fold),)) for number, point in enumerate(points)]
    keras = Candidate(REFERENCE, "keras", (), (open_run(fold / "run").model,))
    with progress() as show:
        measured = measure_watched([subject_of(each) for each in (keras, *candidates)], settings, show)
    busy = measured.conditions.other_cores
    found: list[dict[str, object]] = []
    for each in measured.measurements[1:]:
        low, high = each.speedup_interval_95 or ("", "")
        numbers = (each.latency_ms["p50"], each.speedup_vs_keras, low, high, busy, each.threads)
        found.append(dict(zip(_LATENCY, numbers, strict=True)))
    return found


def source_of(name: str, work: Path, photos: Path, fashion: Path) -> Path:
    """Where the labelled images of a set are."""
    if name != "digits":
        return {"photos": photos, "fashion": fashion}[name]
    digits = work / "digits-images"
    if not digits.exists():
        write_digits(digits)
    return digits


def linked(run: RunDir, work: Path) -> tuple[str, int, tuple[int, ...]]:
    """Put a finished run where the one fold of a set is; name and side of that set."""
    side_px = read_manifest(run).image_size_px
    if not isinstance(side_px, int):
        raise click.ClickException(f"expected a run of square images, but {run.path} takes {side_px}")
    place = work / f"{run.path.name}-{side_px}" / "fold-0" / "run"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(run.path.resolve())
    return run.path.name, side_px, (0,)


def table(name: str, points: tuple[str, ...], folds: tuple[int, ...], rounds: int, **where: Path) -> list[list[object]]:
    """All rows of one set."""
    work = where["work"]
    if Path(name).is_dir():
        name, side_px, folds = linked(open_run(Path(name)), work)
        source = Path()
    else:
        name, _, side = name.partition(":")
        side_px, source = int(side or SIDES_PX[name]), source_of(name, **where)
        if name == "fashion":
            folds = folds[:1]  # the set itself says which images test
    folders = [work / f"{name}-{side_px}" / f"fold-{fold}" for fold in folds]
    rows = []
    for point in points:
        trials = []
        for fold, folder in zip(folds, folders, strict=True):
            run = trained(source, fold, side_px, folder)
            trials.append(tried(point, run, folder_of(point, folder)))
        rows.append(row(point, trials) | {"set": name, "image_size_px": side_px, "cpu": cpu()[0]})
        click.echo(json.dumps({key: rows[-1][key] for key in COLUMNS if rows[-1][key] != ""}))
    for found, speed in zip(rows, latencies(points, folders[0], rounds) if rounds else [{}] * len(rows), strict=True):
        found.update(speed)
    return [[found[column] for column in COLUMNS] for found in rows]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="CSV")
@click.option("--set", "names", multiple=True, default=tuple(SIDES_PX), show_default=True, metavar="NAME[:PX]|RUN")
@click.option("--point", "points", multiple=True, default=POINTS, show_default=True, metavar="OPTIONS")
@click.option("--peer", "peers", multiple=True, type=click.Choice(tuple(PEERS)))
@click.option("--fold", "folds", multiple=True, type=click.IntRange(0, FOLDS - 1), default=tuple(range(FOLDS)))
@click.option("--rounds", default=10, show_default=True, help="Of latency, 5 inferences each; 0: no latency.")
@click.option("--photos", default=_PHOTOS, type=click.Path(path_type=Path), help="Where they are.")
@click.option("--fashion", default=_FASHION, type=click.Path(path_type=Path), help="Where its IDX files are.")
def main(
    work: Path,
    out: Path,
    names: tuple[str, ...],
    points: tuple[str, ...],
    peers: tuple[str, ...],
    folds: tuple[int, ...],
    rounds: int,
    photos: Path,
    fashion: Path,
) -> None:
    """Try every point on every fold of every set, and write one line for each point and set."""
    work.mkdir(parents=True, exist_ok=True)
    lines: list[list[object]] = []
    for name in names:
        lines += table(name, ("", *points, *peers), folds, rounds, work=work, photos=photos, fashion=fashion)
        write_csv(out, COLUMNS, lines)


if __name__ == "__main__":
    main()
