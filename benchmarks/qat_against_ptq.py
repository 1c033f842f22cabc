"""What int8 costs with calibrated ranges and what it costs after quantization-aware training.

    python benchmarks/qat_against_ptq.py FOLDER RUN... > RESULTS.csv

Every run (say, a narrow pruned net) is exported to float32 and int8 as it is, then goes through `--method qat` into
FOLDER and is exported to int8 again. Accuracies are those of the written files on the run's test subset; the drop is
against the float32 file of the same net, with its interval, since the question is what rounding costs.
`onnx-int8-full-range` has 8-bit weights, as the training rounds them, `onnx-int8` 7.

The nets of the stored result are scikit-learn's digits (`tledge.pipeline.write_digits`), narrowed:

    tledge train digits --technique feature-extraction --image-size 64 --out DG
    tledge optimize DG --method filters --speedup 160 --image-size 64 --last-layer none --out DG-160    # also 80, 40
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from tledge.compression.methods.qat import QatSettings
from tledge.compression.optimize import optimize
from tledge.conversion.export import export
from tledge.evaluation.check import check
from tledge.evaluation.settings import CheckSettings
from tledge.formats.operators import COUNTERS
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run
from tledge.stats.paired import Hits, paired_drop

RECIPES = ("tflite-float32", "tflite-int8", "onnx-int8-full-range", "onnx-int8")


def hits_of(run: Path, recipes: tuple[str, ...]) -> dict[str, Hits]:
    """Which test images each exported file gets right."""
    export(run, recipes)
    found = check(run, CheckSettings(on_undecided="pass"))
    return {item.name: np.asarray(item.predicted) == found.images.labels for item in found.artefacts}


def main() -> None:
    """Print one line per run and file."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ("run", "int8_ranges", "artefact", "n", "accuracy", "float32_accuracy", "drop", "low", "high", "int8_layers")
    )
    for run in map(Path, sys.argv[2:]):
        trained = folder / f"{run.name}-qat"
        if not trained.exists():
            optimize(run, QatSettings(seed=read_manifest(open_run(run)).seed), trained, lambda *_: None)
        plain = hits_of(run, RECIPES)
        learned = hits_of(trained, RECIPES[1:])
        for ranges, where, hits in (("calibration", run, plain), ("qat", trained, learned)):
            for name in RECIPES[1:]:
                drop = paired_drop(plain["tflite-float32"], hits[name])
                path = next(path for path in open_run(where).artefacts() if path.stem == name)
                ops = COUNTERS[path.suffix](path)
                numbers = (hits[name].mean(), plain["tflite-float32"].mean(), drop.value, drop.low, drop.high)
                layers = f"{ops.int8_matrix_ops}/{ops.matrix_ops}"
                writer.writerow((run.name, ranges, name, drop.n, *(f"{value:.4f}" for value in numbers), layers))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
