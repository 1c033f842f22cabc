"""Technique freeze with kept activations against a plain `model.fit` of the same frozen model, same epochs.

    python benchmarks/freeze_prefix.py DATA [IMAGE_SIZE_PX] [EPOCHS] [CUT]

CUT is the last frozen layer, block4_pool unless given. Both start from the same weights and split; the kept
activations' own computation counts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tledge.techniques.freeze as freeze
from tledge.stages.train import train
from tledge.stages.train_settings import TrainSettings
from tledge.techniques import fit


def timed(data: Path, settings: TrainSettings, fit_function: Any) -> tuple[float, float]:
    """Seconds of the training alone, and the validation accuracy of its best epoch."""
    freeze.fit_on_activations = fit_function  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        manifest = train(data, settings, Path(folder) / "run", lambda *_: None).manifest
        print(f"  whole command {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return manifest.timings_s["train"], manifest.training["val_accuracy"]


def main() -> None:
    """Print both times and the ratio as CSV."""
    data = Path(sys.argv[1])
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 10
    cut = sys.argv[4] if len(sys.argv) > 4 else "block4_pool"
    settings = TrainSettings("freeze", image_size=size, epochs=epochs, patience=epochs, freeze_until=cut)
    kept_s, kept_accuracy = timed(data, settings, fit.fit_on_activations)
    plain_s, plain_accuracy = timed(data, settings, fit.fit_on_pixels)
    print("image_size_px,epochs,freeze_until,kept_s,plain_s,ratio,kept_val_accuracy,plain_val_accuracy")
    ratio = plain_s / kept_s
    print(f"{size},{epochs},{cut},{kept_s:.1f},{plain_s:.1f},{ratio:.2f},{kept_accuracy:.4f},{plain_accuracy:.4f}")


if __name__ == "__main__":
    main()
