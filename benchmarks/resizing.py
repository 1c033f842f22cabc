"""Accuracy where apps resize in other ways, with and without random resizers in training.

Usage: python benchmarks/resizing.py PHOTOS CSV [--seed N]... [--set NAME]...

PHOTOS is a data folder; two more sets are made here, of pictures of other shapes than the input: scikit-learn's digits
on wide and tall canvases, and shapes under fine stripes, 400 pixels wide or high. Technique freeze, three ways to train
(plain; augmented without random resizers; augmented with them), each exported as tflite-int8 and asked by `tledge check
--resize-robustness` on its test images. Rows are added to CSV as they come; what is there is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageDraw

import tledge

HEADER = (
    *("set", "image_size_px", "training", "seed", "model", "resized_by"),
    *("n", "accuracy", "drop", "drop_low", "drop_high", "lost", "won"),
)
ARMS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"augment": False},
    "augment, own way only": {"augment": True},
    "augment": {"augment": True},
}
EPOCHS = 10


@dataclass(frozen=True)
class DataSet:
    """A data folder and the size to train at."""

    name: str
    folder: Path
    image_size_px: int


def main() -> None:
    """Train, export, check, one row for each model and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--set", action="append", choices=("photos", "digits", "shapes"))
    args = parser.parse_args()
    there = set()
    if args.csv.is_file():
        with args.csv.open(newline="") as stream:
            there = {(row["set"], row["training"], int(row["seed"])) for row in csv.DictReader(stream)}
    else:
        with args.csv.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerow(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        sets = [
            DataSet("photos", args.photos, 96),
            DataSet("digits", digits(Path(folder) / "digits"), 48),
            DataSet("shapes", shapes(Path(folder) / "shapes"), 64),
        ]
        for seed in args.seed or (0, 1, 2):
            for data in sets:
                for arm in ARMS:
                    if data.name in (args.set or (data.name,)) and (data.name, arm, seed) not in there:
                        rows = list(measured(data, arm, seed, Path(folder) / f"{data.name} {arm} {seed}"))
                        with args.csv.open("a", newline="") as stream:
                            csv.writer(stream, lineterminator="\n").writerows(rows)
                        print(data.name, arm, seed, [row[5:8] for row in rows if row[4] == "tflite-int8"], flush=True)


def measured(data: DataSet, arm: str, seed: int, run: Path) -> Iterator[tuple[Any, ...]]:
    """One training and what its model and its int8 file answer."""
    with contextlib.ExitStack() as stack:
        if arm == "augment, own way only":
            stack.enter_context(patch("tledge.training.train.other_resizers", lambda _: {}))
        tledge.train(
            data.folder,
            technique="freeze",
            out=run,
            image_size=data.image_size_px,
            epochs=EPOCHS,
            test_fraction=0.4,
            seed=seed,
            **ARMS[arm],
        )
    tledge.export(run, recipes=["tflite-int8"])
    checked = tledge.check(run, max_drop=1, on_undecided="pass", resize_robustness=True)
    own = {"reference": checked.reference_accuracy, checked.artefacts[0].name: checked.artefacts[0].accuracy}
    ways = {"reference": checked.reference_resized, checked.artefacts[0].name: checked.artefacts[0].resized}
    for model, accuracy in own.items():
        about = (data.name, data.image_size_px, arm, seed, model)
        yield (*about, "as trained", accuracy.n, f"{accuracy.value:.4f}", "", "", "", "", "")
        for way in ways[model]:
            drop = way.drop
            numbers = (f"{each:.4f}" for each in (way.accuracy.value, drop.value, drop.low, drop.high))
            yield (*about, way.resizer, accuracy.n, *numbers, drop.lost, drop.won)


def digits(folder: Path) -> Path:
    """400 handwritten digits, enlarged twentyfold and put somewhere on a canvas of 160 x 240 or 240 x 160 pixels."""
    from sklearn.datasets import load_digits

    found, rng = load_digits(), np.random.default_rng(0)
    for label in range(10):
        target = folder / str(label)
        target.mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(found.target == label)[:40]):
            pixels = np.round(found.images[index] * (255 / 16)).astype(np.uint8)
            digit = Image.fromarray(pixels).resize((140, 140), Image.Resampling.BICUBIC)
            width, height = (240, 160) if number % 2 else (160, 240)
            canvas = Image.new("L", (width, height), int(rng.integers(0, 60)))
            canvas.paste(digit, (int(rng.integers(0, width - 139)), int(rng.integers(0, height - 139))))
            canvas.save(target / f"{number:03d}.png")
    return folder


def shapes(folder: Path) -> Path:
    """300 discs, wide ellipses, squares, wide rectangles and triangles in colours, under stripes of one pixel."""
    rng = np.random.default_rng(0)
    for kind in ("disc", "ellipse", "square", "rectangle", "triangle"):
        (folder / kind).mkdir(parents=True)
        for number in range(60):
            width, height = (400, int(rng.integers(220, 320))) if number % 2 else (int(rng.integers(220, 320)), 400)
            picture = Image.new("RGB", (width, height), tuple(map(int, rng.integers(60, 200, 3))))
            half = int(rng.integers(50, 90))
            across, down = (int(half * 1.2), int(half / 1.2)) if kind in ("ellipse", "rectangle") else (half, half)
            x, y = (int(rng.integers(side // 2 - 30, side // 2 + 30)) for side in (width, height))
            box, colour = (x - across, y - down, x + across, y + down), tuple(map(int, rng.integers(0, 256, 3)))
            draw = ImageDraw.Draw(picture)
            if kind in ("disc", "ellipse"):
                draw.ellipse(box, colour)
            elif kind == "triangle":
                draw.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], colour)
            else:
                draw.rectangle(box, colour)
            stripes = 40 * ((np.arange(width)[None] + np.arange(height)[:, None] * int(rng.integers(0, 3))) % 2)
            pixels = np.asarray(picture, np.int64) + stripes[:, :, None] + rng.normal(0, 10, (height, width, 1))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / kind / f"{number:03d}.png")
    return folder


if __name__ == "__main__":
    main()
