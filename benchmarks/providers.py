"""One run's files computed by several providers, in the same rounds: what each took, its answers and its latency.

Usage: python benchmarks/providers.py RUN DATA THREADS > benchmarks/results/providers.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from tledge.benchmark.measure import Subject, measure_watched
from tledge.benchmark.settings import BenchSettings
from tledge.core.environment import machine, versions
from tledge.core.files import sha256_file
from tledge.core.progress import silent
from tledge.core.types import Probabilities
from tledge.runs.images import CheckImages, run_images
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier
from tledge.runtimes.options import RuntimeOptions

COLUMNS = (
    *("file", "provider", "runtime", "n", "accuracy", "largest_difference", "operators", "taken", "integer"),
    *(
        "multiply_adds_integer",
        "p50_ms",
        "p50_low",
        "p50_high",
        "load_ms",
        "peak_mb",
        "samples",
        "threads",
        "other_cores",
    ),
    *("litert", "onnxruntime", "openvino", "cpu"),
)
# The first of each file is its runtime's own choice.
PROVIDERS = {
    "tflite-int8.tflite": ("xnnpack", "openvino"),
    "onnx-int8.onnx": ("cpu", "openvino"),
    "tflite-float32.tflite": ("xnnpack", "openvino"),
    "onnx-float32.onnx": ("cpu", "openvino"),
}


def answers(path: Path, provider: str, images: CheckImages) -> Probabilities:
    classifier = open_classifier(path, MODEL_OF_A_RUN, options=RuntimeOptions(provider=provider))
    return classifier.predict(images.stores[classifier.image_size_px].take(np.arange(images.n)))


def main(folder: Path, data: Path, threads: int) -> None:
    run = open_run(folder, data)
    manifest = read_manifest(run)
    images = run_images(run, manifest, (manifest.image_size_px,))
    pairs = [(run.exports / name, provider) for name, several in PROVIDERS.items() for provider in several]
    subjects = [
        Subject(f"{path.name} {provider}", path, "unknown", sha256_file(path)).given_to(provider)
        for path, provider in pairs
    ]
    measured = measure_watched(subjects, BenchSettings(threads), silent)
    found = {pair: answers(*pair, images) for pair in pairs}
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    packages = versions()
    for (path, provider), item in zip(pairs, measured.measurements, strict=True):
        own, computed = found[path, PROVIDERS[path.name][0]], item.computed
        assert computed is not None  # `given_to` refuses others
        share = computed.multiply_adds_integer
        writer.writerow(
            (
                *(path.name, provider, item.runtime, images.n),
                f"{(found[path, provider].argmax(axis=1) == images.labels).mean():.4f}",
                f"{np.abs(found[path, provider] - own).max():.4f}",
                *(computed.operators, computed.taken, computed.integer, "" if share is None else f"{share:.4f}"),
                *(f"{ms:.2f}" for ms in (item.latency_ms["p50"], *item.p50_interval_95, item.load_ms)),
                *(f"{item.peak_rss_mb:.0f}", item.n, item.threads, measured.conditions.other_cores),
                *(packages[name] for name in ("ai-edge-litert", "onnxruntime", "openvino")),
                machine().cpu,
            )
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
