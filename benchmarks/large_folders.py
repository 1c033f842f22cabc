"""What do many images cost before the first step of a training, and whenever a run is opened later?

    python benchmarks/large_folders.py FOLDER [N ...] > RESULTS.csv

FOLDER gets N different PNG files of 64 px each (handwritten digits with a little noise, ten classes) unless it has
them from an earlier call. Each N is measured in a process of its own, after one pass over the files, so that all are
in the system's cache. Until the first step of a training there are the first three steps; `write` comes behind it; the
others are what `check`, `export` and others begin with. `peak_mb` is the most memory of the process until then, in
units of 2^20 bytes.
"""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tledge.core.environment import machine
from tledge.core.progress import silent
from tledge.data.dataset import decode_and_split, numbered
from tledge.data.modality import images_to_train
from tledge.data.split import SplitRow, data_fingerprint
from tledge.runs.images import run_images
from tledge.runs.manifest import (
    Manifest,
    SplitFacts,
    TrainingFacts,
    WeightsFacts,
    read_manifest,
    read_split,
    split_digest,
    split_facts,
    write_labels,
    write_manifest,
    write_split,
)
from tledge.runs.rundir import RunDir, open_run
from tledge.training.settings import TrainSettings

COUNTS = (10_000, 100_000)
SIDE_PX = 64


def make(folder: Path, count: int) -> None:
    """Write digits with noise, no two alike."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = [
        np.asarray(Image.fromarray((one * 15).astype(np.uint8)).resize((SIDE_PX, SIDE_PX))) for one in digits.images
    ]
    for label in range(10):
        (folder / f"digit {label}").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        which = number % len(pictures)
        noise = np.random.default_rng(number).integers(0, 16, (SIDE_PX, SIDE_PX), np.uint8)
        name = folder / f"digit {digits.target[which]}" / f"{number:06d}.png"
        Image.fromarray(pictures[which] + noise).save(name, compress_level=1)


@contextmanager
def timed(step: str, count: int) -> Iterator[None]:
    """Print a line of the CSV for a step."""
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    csv.writer(sys.stdout, lineterminator="\n").writerow((count, step, f"{seconds:.2f}", f"{peak_mb:.0f}"))
    sys.stdout.flush()


def measure(data: Path, count: int, place: Path) -> None:
    """Go through the steps of `tledge train` that grow with the images, and through those of opening its run."""
    settings = TrainSettings(technique="feature-extraction", image_size=SIDE_PX)
    with timed("list", count):
        listing = images_to_train(data)
    with timed("decode and split", count):
        images, split = decode_and_split(listing, settings.image_size, settings, silent)
    with timed("number", count):
        for subset in ("train", "val"):
            numbered(images, [row for row in split.rows if row.subset == subset], listing.classes)
    run = RunDir(place)
    with timed("write", count):
        write_split(run, split.rows)
        write_labels(run, listing.classes)
        facts = split_facts(split, settings.val_fraction, settings.test_fraction)
        write_manifest(run, _manifest(listing.root, listing.classes, split.rows, facts))
    with timed("open a run", count):
        manifest = read_manifest(open_run(place))
        read_split(run)
    with timed("read its list again", count):
        read_split(run)
    with timed("its test images", count):
        run_images(run, manifest, [SIDE_PX])
    with timed("they moved", count):
        run_images(open_run(place, data), manifest, [SIDE_PX])


def _manifest(root: Path, classes: tuple[str, ...], rows: tuple[SplitRow, ...], facts: SplitFacts) -> Manifest:
    digest = "0" * 64
    training = TrainingFacts(
        epochs=1,
        best_epoch=1,
        val_accuracy=0.5,
        val_loss=0.5,
        trainable_parameters=1,
        prefix_images=0,
        prefix_cached=0,
        prefix_seconds=0.0,
    )
    return Manifest(
        created="",
        command="",
        versions={},
        machine=machine(),
        seed=0,
        technique="feature-extraction",
        head="gap",
        settings={},
        classes=classes,
        image_size_px=SIDE_PX,
        resize_method="bilinear",
        data_root=str(root.resolve()),
        data_fingerprint=data_fingerprint(rows),
        split_sha256=split_digest(rows),
        split=facts,
        weights=WeightsFacts(requested="", source="", digest=None),
        training=training,
        timings_s={},
        model_sha256=digest,
        reference_sha256=digest,
        parent=None,
        optimization=None,
    )


def main() -> None:
    """Print one line per number of images and step."""
    folder, counts = Path(sys.argv[1]), [int(text) for text in sys.argv[2:]] or list(COUNTS)
    if len(counts) > 1:
        csv.writer(sys.stdout, lineterminator="\n").writerow(("n", "step", "seconds", "peak_mb"))
        sys.stdout.flush()
        for count in counts:
            subprocess.run([sys.executable, __file__, str(folder), str(count)], check=True)
        return
    data = folder / str(counts[0])
    if not data.is_dir():
        make(data, counts[0])
    for file in data.rglob("*.png"):
        file.read_bytes()
    with tempfile.TemporaryDirectory() as place:
        measure(data, counts[0], Path(place))


if __name__ == "__main__":
    main()
