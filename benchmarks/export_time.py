"""How long does writing six files take, checks included, against a plain script without any?

    python benchmarks/export_time.py RUN [ROUNDS] > RESULTS.csv

Three commands in processes of their own, one after the other, ROUNDS times: `tledge export` of the six default recipes
into a fresh copy of RUN; the same and two recipes more (the difference is their price); and what a person would write:
Keras model, four runs of TFLiteConverter, tf2onnx, quantize_static, on the same calibration images, nothing verified.
"""

from __future__ import annotations

import csv
import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tledge.conversion.recipe import DEFAULT_RECIPES
from tledge.core.dependencies import require_tensorflow
from tledge.runs.images import TrainingSamples
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run

CALIBRATION_IMAGES = 100
MIXED = """format = "tflite"
precision = "int8"
[calibration]
images = 100
[quantization]
float_layers = ["prediction"]
"""


def plain(run_path: Path, folder: Path) -> None:
    """Write the six files as the tools' own guides do."""
    tf, keras = require_tensorflow()
    run = open_run(run_path)
    model = keras.models.load_model(run.model, compile=False)
    images, _ = TrainingSamples(run, read_manifest(run)).take(CALIBRATION_IMAGES)
    pixels = [image[np.newaxis].astype(np.float32) for image in images]
    for precision in ("float32", "float16", "dynamic", "int8"):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision == "int8":
            converter.representative_dataset = lambda: ([image] for image in pixels)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        (folder / f"{precision}.tflite").write_bytes(converter.convert())
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="image")]
    function = tf.function(lambda x: model(x, training=False), input_signature=signature)
    exported = folder / "float32.onnx"
    tf2onnx = importlib.import_module("tf2onnx")
    tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=str(exported))
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    remaining = iter(pixels)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """onnxruntime insists on a subclass of its reader."""

        def get_next(self) -> dict[str, Any] | None:
            image = next(remaining, None)
            return None if image is None else {"image": image}

    quantization.quantize_static(str(exported), str(folder / "int8.onnx"), Reader(), per_channel=True)


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a command in a process of its own."""
    program = (
        "import resource, subprocess, sys, time; started = time.perf_counter();"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True);"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024;"
        "print(time.perf_counter() - started, peak) if done.returncode == 0 else sys.exit(done.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, peak_mb = done.stdout.split()
    return float(seconds), float(peak_mb)


def main() -> None:
    """Print one line per command and round."""
    if sys.argv[1] == "--plain":
        plain(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    run, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("round", "command", "seconds", "peak_mb"))
    for number in range(1, rounds + 1):
        for name in ("tledge", "tledge-two-more", "plain"):
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / "run"
                shutil.copytree(run, copy, ignore=shutil.ignore_patterns("export", "calibration.json"))
                if name == "plain":
                    command = [sys.executable, __file__, "--plain", str(copy), folder]
                else:
                    mixed = Path(folder) / "tflite-int8-mixed.toml"
                    mixed.write_text(MIXED)
                    further = ["onnx-int8-full-range", str(mixed)] if name == "tledge-two-more" else []
                    recipes = [*DEFAULT_RECIPES, *further]
                    command = [sys.executable, "-m", "tledge", "export", str(copy)]
                    command += [word for recipe in recipes for word in ("--recipe", recipe)]
                seconds, peak_mb = measured(command)
            writer.writerow((number, name, f"{seconds:.1f}", f"{peak_mb:.0f}"))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
