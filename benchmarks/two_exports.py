"""Are the files of one export as fast as those of another?

    python benchmarks/two_exports.py BEFORE AFTER > RESULTS.csv

BEFORE and AFTER are folders of files of equal names, say those that two versions wrote of one run. Both files of a pair
are open in this process and take turns, on one thread, one inference each, every other time the later one first. Time
is taken by two clocks: `wall` is the latency, `processor` leaves out the waiting for a core, for machines that have
other work. The least of all turns is what other work disturbs least; the ratio of the medians has a bootstrap interval.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np

from tledge.core.environment import cpu, versions
from tledge.core.image_size import height_width
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier
from tledge.stats.latency import ratio_interval

COLUMNS = (
    *("file", "identical", "size_bytes_before", "size_bytes_after", "clock", "n", "least_ms_before", "least_ms_after"),
    *("least_ratio", "p50_ms_before", "p50_ms_after", "p50_ratio", "low_95", "high_95"),
    *("cpu", "cpu_flags", "litert", "onnxruntime"),
)


CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def turns(pair: tuple[Path, Path], rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds of every inference of two files, by each clock."""
    classifiers = [open_classifier(path, MODEL_OF_A_RUN, 1) for path in pair]
    shape = (1, *height_width(classifiers[0].image_size_px), 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for classifier in classifiers:
        classifier.prepare(pixels)
        for _ in range(2):
            classifier.invoke()
    measured: dict[str, tuple[list[float], list[float]]] = {clock: ([], []) for clock in CLOCKS}
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            started = [now() for now in CLOCKS.values()]
            classifiers[which].invoke()
            ended = [now() for now in CLOCKS.values()]
            for clock, before, after in zip(CLOCKS, started, ended, strict=True):
                measured[clock][which].append(1000 * (after - before))
    return measured


@click.command()
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", default=30, show_default=True, help="Inferences of each file.")
def main(before: Path, after: Path, rounds: int) -> None:
    """Write one line per file and clock as CSV to stdout."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    (name, flags), installed = cpu(), versions()
    for later in sorted(path for path in after.iterdir() if path.suffix in (".tflite", ".onnx")):
        pair = (before / later.name, later)
        sizes = [path.stat().st_size for path in pair]
        identical = pair[0].read_bytes() == later.read_bytes()
        for clock, (first, second) in turns(pair, rounds).items():
            ratio = ratio_interval([[one] for one in second], [[one] for one in first])
            writer.writerow(
                [
                    *(later.name, identical, *sizes, clock, rounds),
                    *(f"{min(first):.2f}", f"{min(second):.2f}", f"{min(second) / min(first):.4f}"),
                    *(f"{number:.2f}" for number in (np.median(first), np.median(second))),
                    *(f"{number:.4f}" for number in (ratio.value, ratio.low, ratio.high)),
                    *(name, " ".join(flags), installed["ai-edge-litert"], installed["onnxruntime"]),
                ]
            )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
