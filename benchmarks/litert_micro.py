"""What the micro-int8 files of runs need in LiteRT Micro, and how their answers to test images differ from LiteRT's.

Usage: python benchmarks/litert_micro.py RUN... > benchmarks/results/litert_micro.csv
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np

from tledge.core.environment import machine, versions
from tledge.runs.images import run_images
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier
from tledge.runtimes.litert_micro import measure_arena
from tledge.runtimes.options import RuntimeOptions

COLUMNS = (
    *("run", "side_px", "n", "flash_bytes", "arena_bytes", "activation_bytes", "persistent_bytes"),
    *("accuracy_micro", "accuracy_litert", "classes_that_differ", "images_that_differ", "largest_difference"),
    *("mean_difference", "ms_micro", "ms_litert", "litert", "tflite_micro", "cpu"),
)
RUNTIMES = {"micro": RuntimeOptions(micro=True), "litert": RuntimeOptions()}


def row(folder: Path) -> tuple[object, ...]:
    run = open_run(folder)
    path = run.exports / "micro-int8.tflite"
    manifest = read_manifest(run)
    images = run_images(run, manifest, (manifest.image_size_px,))
    n = len(images.labels)
    pixels = images.stores[manifest.image_size_px].take(np.arange(n))
    answers, ms, step = {}, {}, 0.0
    for name, options in RUNTIMES.items():
        classifier = open_classifier(path, MODEL_OF_A_RUN, threads=1, options=options)
        started = time.perf_counter()
        answers[name] = classifier.predict(pixels)
        ms[name] = 1e3 * (time.perf_counter() - started) / n
        step = classifier.output_step
    difference = np.abs(answers["micro"] - answers["litert"])
    named = {name: found.argmax(axis=1) for name, found in answers.items()}
    arena = measure_arena(path)
    return (
        *(run.path.name, manifest.image_size_px, n, path.stat().st_size),
        *(arena.bytes, arena.activations, arena.persistent),
        *(f"{(named[name] == images.labels).mean():.4f}" for name in RUNTIMES),
        *(int((named["micro"] != named["litert"]).sum()), int((difference.max(axis=1) > step / 2).sum())),
        *(f"{difference.max():.4f}", f"{difference.mean():.5f}", *(f"{ms[name]:.2f}" for name in RUNTIMES)),
        *(versions()["ai-edge-litert"], versions()["tflite-micro"], machine().cpu),
    )


if __name__ == "__main__":
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row(Path(folder)) for folder in sys.argv[1:])
