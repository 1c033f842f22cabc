"""Each default file in each runtime that may open it: `python benchmarks/runtime_matrix.py RUN > RESULTS.csv`.

Every line is a file in a runtime: whether it answers there, how far from its answers in LiteRT or onnxruntime on this
machine, over all test images; how many of the operators that it computes work on integers, where the runtime tells; and
its latency as a multiple of that at home, measured in turn. MediaPipe Tasks is left out where it is not installed.
"""

from __future__ import annotations

import csv
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tledge
from tledge.conversion.recipe import DEFAULT_RECIPES
from tledge.core.dependencies import installed
from tledge.core.environment import machine, versions
from tledge.core.errors import ArtefactError
from tledge.core.types import Images, Probabilities
from tledge.runs.images import run_images
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir, open_run
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.options import RuntimeOptions

COLUMNS = (
    *("file", "runtime", "answers", "n", "other_class", "largest_difference", "integer_operators", "times_home"),
    *("samples", "threads", "cpu", "versions"),
)
HOME = {".tflite": "LiteRT", ".onnx": "onnxruntime"}
OTHERS = {"OpenVINO": RuntimeOptions(provider="openvino"), "LiteRT Micro": RuntimeOptions(micro=True)}
ROUNDS, THREADS = 15, 2


@dataclass(frozen=True)
class Cell:
    """One file in one runtime; `refused` is why it does not run there, None for what is not told."""

    runtime: str
    refused: str = ""
    other_class: int | None = None
    largest_difference: float | None = None
    integer_operators: str = ""
    times_home: float | None = None
    samples: int = 0


def native(path: Path, images: Images) -> Iterator[Cell]:
    """The file at home, in OpenVINO and, a .tflite, in LiteRT Micro."""
    home = open_classifier(path, MODEL_OF_A_RUN, threads=THREADS)
    expected, others = home.predict(images), dict[str, ImageClassifier]()
    for name, options in OTHERS.items():
        if options.micro and path.suffix != ".tflite":
            continue
        try:
            others[name] = open_classifier(path, MODEL_OF_A_RUN, threads=THREADS, options=options)
            others[name].predict(images[:1])
        except ArtefactError as error:
            others.pop(name, None)
            yield Cell(name, str(error).replace(str(path), path.name))
    ms = interleaved({"home": home, **others}, images)
    for name, classifier in {HOME[path.suffix]: home, **others}.items():
        told = classifier.computed()
        times = ms["home" if classifier is home else name] / ms["home"]
        integers = "" if told is None or told.integer is None else f"{told.integer} of {told.operators}"
        yield compared(name, classifier.predict(images), expected, integers, times)


def interleaved(classifiers: dict[str, ImageClassifier], images: Images) -> dict[str, float]:
    """Median milliseconds of one image, all in turn."""
    found: dict[str, list[float]] = {name: [] for name in classifiers}
    for number in range(ROUNDS + 2):
        for name, classifier in classifiers.items():
            classifier.prepare(images[:1])
            started = time.perf_counter()
            classifier.invoke()
            if number > 1:  # the first two warm up
                found[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(ms) for name, ms in found.items()}


def compared(
    runtime: str, found: Probabilities, expected: Probabilities, integers: str = "", times: float | None = None
) -> Cell:
    other = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
    return Cell(runtime, "", other, float(np.abs(found - expected).max()), integers, times, ROUNDS if times else 0)


def in_mediapipe(path: Path, images: Images) -> Cell:
    """The file in MediaPipe Tasks' image classifier, which takes pictures of any size and the file's own labels."""
    tasks, vision = (importlib.import_module(f"mediapipe.tasks.python{part}") for part in ("", ".vision"))
    mediapipe: Any = importlib.import_module("mediapipe")
    home = open_classifier(path, MODEL_OF_A_RUN)
    options = vision.ImageClassifierOptions(base_options=tasks.BaseOptions(model_asset_path=str(path)))
    with vision.ImageClassifier.create_from_options(options) as classifier:
        rows = []
        for image in images:
            told = classifier.classify(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image))
            scores = {one.category_name: one.score for one in told.classifications[0].categories}
            rows.append([scores[label] for label in home.labels or ()])
    return compared("MediaPipe Tasks", np.asarray(rows, np.float32), home.predict(images))


def in_browser(run: RunDir) -> dict[str, Cell]:
    """Every file in Chromium, by file name: onnxruntime-web for .onnx and LiteRT.js for .tflite."""
    (checked,) = tledge.check(run.path, on=("browser",), max_drop=1.0, on_undecided="pass").hosts
    (measured,) = tledge.bench_on(run.path, "browser", threads=THREADS, rounds=5, samples=3).hosts
    here = tledge.bench(run.path, threads=THREADS, rounds=5, samples=3)
    at_home = {item.sha256: item.latency_ms["p50"] for item in here.measurements}
    there = {item.name: item.latency_ms["p50"] / at_home[item.sha256] for item in measured.entry.results}
    cells = {}
    for item, against in zip(checked.result.artefacts, checked.against_here, strict=True):
        runtime = "onnxruntime-web" if item.name.startswith("onnx") else "LiteRT.js"
        cells[item.name] = Cell(
            runtime, "", against.other_class, against.max_probability_difference, "", there[item.name], 15
        )
    return cells


def main(folder: Path) -> None:
    """Print one line per file and runtime."""
    run = open_run(folder)
    manifest = read_manifest(run)
    images = run_images(run, manifest, (manifest.image_size_px,))
    pixels = images.stores[manifest.image_size_px].take(np.arange(images.n))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    browser = in_browser(run)
    further: list[Callable[[Path, Images], Cell]] = [in_mediapipe] if installed("mediapipe") else []
    for path in (path for path in run.artefacts() if path.stem in DEFAULT_RECIPES):
        cells = [*native(path, pixels), browser[path.stem]]
        cells += [ask(path, pixels) for ask in further if path.suffix == ".tflite"]
        for cell in cells:
            writer.writerow(
                (
                    *(path.stem, cell.runtime, cell.refused or "yes", images.n, cell.other_class),
                    *(text(cell.largest_difference), cell.integer_operators, text(cell.times_home)),
                    *(cell.samples, THREADS, machine().cpu),
                    " ".join(f"{name}-{version}" for name, version in versions().items()),
                )
            )
        sys.stdout.flush()


def text(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
