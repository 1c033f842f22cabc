"""Many images through `tledge train --technique freeze`, against Keras's own way with the same model.

    python benchmarks/train_throughput.py FOLDER [N ...] [--compute float32] > RESULTS.csv

FOLDER gets N PNG files of 64 px each unless it has them: Fashion-MNIST's 70,000 pictures (Debian's package
`dataset-fashion-mnist`) in random order, then the first ones mirrored and moved by a pixel. Both sides divide them
alike in size (60 % to train on, 20 % to validate), read the same files in a process of its own after one pass over
them, and freeze VGG16 up to block4_pool. `images_per_s` counts training and validation images of an epoch. Keras's side
is `image_dataset_from_directory`, prefetched, and `fit`; with bfloat16, the default where the processor has it, both
sides compute in it.

`first` of tledge is all that it does until its first epoch is over: decoding, frozen layers, the head alone, the epoch
itself. `later` is its second epoch. `peak_mb` (2^20 bytes) is the most memory of the process that is not a mapped file.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageOps

import tledge
from tledge.core.types import ComputeType
from tledge.data.scan import list_images
from tledge.model.compute import lacking

COUNTS = (10_000, 100_000)
SIDE_PX, BATCH = 64, 64
SOURCE = Path("/usr/share/datasets/fashion-mnist")
COLUMNS = ("n", "side", "compute", "step", "seconds", "images_per_s", "peak_mb")


def make(folder: Path, count: int) -> None:
    """Write the pictures, no two alike."""
    listing = list_images(SOURCE)
    order = np.random.default_rng(0).permutation(len(listing.files))
    for number in range(count):
        file = listing.files[order[number % len(order)]]
        picture: Image.Image = Image.open(listing.root / file.path)
        if number >= len(order):
            picture = ImageOps.mirror(picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0)))
        name = folder / file.label / f"{number:06d}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR).save(name, compress_level=1)


class Peak:
    """The most memory of this process that is not a mapped file, looked at ten times a second."""

    def __init__(self) -> None:
        self.mb = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            self.mb = max(self.mb, int(status.split("RssAnon:")[1].split()[0]) / 1024)
            time.sleep(0.1)


def with_tledge(data: Path, compute: ComputeType) -> None:
    """Print rows of the steps of `tledge train`."""
    peak, began = Peak(), time.perf_counter()
    done: dict[str, float] = {}
    epochs: list[float] = []

    def told(what: str, count: int, _: int) -> None:
        done[what] = time.perf_counter()
        if what == "training" and count > len(epochs):
            epochs.append(time.perf_counter())

    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        run = tledge.train(
            data,
            out=Path(folder) / "run",
            technique="freeze",
            image_size=SIDE_PX,
            batch_size=BATCH,
            epochs=2,
            patience=2,
            compute=compute,
            progress=told,
        )
    images = run.manifest.split.images
    count = images["train"] + images["val"]
    steps = {
        "decode": done["decoding"] - began,
        "frozen": done["frozen layers"] - done["decoding"],
        "first": epochs[0] - began,
        "later": epochs[1] - epochs[0],
        "command": time.perf_counter() - began,
    }
    for step, seconds in steps.items():
        _row("tledge", compute, step, seconds, count, peak.mb)


def with_keras(data: Path, compute: ComputeType) -> None:
    """Print the rows of two epochs of `fit`."""
    import keras
    import tensorflow as tf

    from tledge.model.vgg16 import CONV_LAYERS, FC1_UNITS
    from tledge.model.weights import resolve

    peak, began = Peak(), time.perf_counter()
    if compute != "float32":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    every = sum(1 for _ in data.glob("*/*.png"))
    size = (SIDE_PX, SIDE_PX)
    train, rest = keras.utils.image_dataset_from_directory(
        data, image_size=size, batch_size=BATCH, validation_split=0.4, subset="both", seed=0, verbose=False
    )
    val = rest.take(len(rest) // 2)
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(SIDE_PX, SIDE_PX, 3))
    trunk = resolve("imagenet")
    assert trunk is not None
    for name in CONV_LAYERS:
        base.get_layer(name).set_weights(list(trunk.tensors[name]))
    for layer in base.layers:
        layer.trainable = layer.name.startswith("block5")
    pixels = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = keras.layers.Flatten()(base(keras.applications.vgg16.preprocess_input(pixels)))
    x = keras.layers.Dense(FC1_UNITS, activation="relu")(x)
    model = keras.Model(pixels, keras.layers.Dense(10, activation="softmax", dtype="float32")(x))
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    ends: list[float] = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
    model.fit(
        train.prefetch(tf.data.AUTOTUNE),
        validation_data=val.prefetch(tf.data.AUTOTUNE),
        epochs=2,
        callbacks=[watch],
        verbose=0,
    )
    count = int(0.8 * every)
    _row("keras", compute, "first", ends[0] - began, count, peak.mb)
    _row("keras", compute, "later", ends[1] - ends[0], count, peak.mb)


SIDES = {"tledge": with_tledge, "keras": with_keras}


def _row(side: str, compute: ComputeType, step: str, seconds: float, count: int, peak_mb: float) -> None:
    print(json.dumps([side, compute, step, round(seconds, 1), round(count / seconds), round(peak_mb)]), flush=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("counts", nargs=-1, type=click.IntRange(min=100), metavar="[N]...")
@click.option("--compute", type=click.Choice(("float32", "bfloat16")), help="Default: bfloat16 where there is.")
@click.option("--side", type=click.Choice(tuple(SIDES)), hidden=True, help="Measure FOLDER in this process.")
def main(folder: Path, counts: tuple[int, ...], compute: ComputeType | None, side: str | None) -> None:
    """Print one row per number of images, side and step."""
    compute = compute or ("float32" if lacking("bfloat16") else "bfloat16")
    if side is not None:
        SIDES[side](folder, compute)
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for count in counts or COUNTS:
        data = folder / str(count)
        if not data.is_dir():
            make(data, count)
        for path in data.glob("*/*.png"):
            path.read_bytes()
        for name in SIDES:
            command = [sys.executable, __file__, str(data), "--side", name, "--compute", compute]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for line in done.stdout.splitlines():
                if line.startswith("["):
                    writer.writerow([count, *json.loads(line)])
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
