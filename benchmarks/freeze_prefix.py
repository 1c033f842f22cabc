"""Technique freeze with kept activations against a plain `model.fit` of the same frozen model, same epochs.

    python benchmarks/freeze_prefix.py DATA [IMAGE_SIZE_PX] [EPOCHS] [CUT]

CUT is the last frozen layer, block4_pool unless given. Both start from the same weights and split; the kept
activations' own computation counts. On a processor with bfloat16 both run a second time with `--compute bfloat16`;
ratios are to plain training in float32.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tledge.core.types import ComputeType
from tledge.model.compute import lacking
from tledge.training import fit, techniques
from tledge.training.head import start_head
from tledge.training.settings import TrainSettings
from tledge.training.task import Training, TrainingTask
from tledge.training.train import train

KEPT = techniques.fit_on_activations


def timed(data: Path, settings: TrainSettings, fit_function: Any) -> tuple[float, float, float]:
    """Seconds of the training alone and of the whole command, and the validation accuracy of the best epoch."""
    techniques.fit_on_activations = fit_function
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        manifest = train(data, settings, Path(folder) / "run", lambda *_: None).manifest
        whole_s = time.perf_counter() - started
    return manifest.timings_s["train"], whole_s, manifest.training.val_accuracy


def plainly(task: TrainingTask) -> Training:
    """The same two steps on the pixels: the head on its own, then all layers that are not frozen."""
    start_head(task)
    return fit.fit_on_pixels(task)


def main() -> None:
    """Print times and ratios as CSV."""
    data = Path(sys.argv[1])
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 10
    cut = sys.argv[4] if len(sys.argv) > 4 else "block4_pool"
    computes: tuple[ComputeType, ...] = ("float32",) if lacking("bfloat16") else ("float32", "bfloat16")
    print("image_size_px,epochs,freeze_until,compute,activations,train_s,command_s,ratio_to_plain_float32,val_accuracy")
    plain_s = 0.0
    for compute in computes:
        settings = TrainSettings(
            "freeze", image_size=size, epochs=epochs, patience=epochs, freeze_until=cut, compute=compute
        )
        for kind, function in (("plain", plainly), ("kept", KEPT)):
            train_s, whole_s, accuracy = timed(data, settings, function)
            plain_s = plain_s or train_s
            found = f"{train_s:.1f},{whole_s:.1f},{plain_s / train_s:.2f},{accuracy:.4f}"
            print(f"{size},{epochs},{cut},{compute},{kind},{found}", flush=True)


if __name__ == "__main__":
    main()
