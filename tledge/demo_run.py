"""The main job on data that every installation has: scikit-learn's handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tledge.core.dependencies import require, require_installed
from tledge.core.progress import Progress
from tledge.pipeline import PipelineResult, run_pipeline
from tledge.runs.rundir import require_vacant
from tledge.training.settings import TrainSettings

DATA_FOLDER = "digits"
RUN_FOLDER = "run"
IMAGE_SIZE_PX = 64
_LARGEST_VALUE = 16.0


def demo(out: Path, progress: Progress) -> PipelineResult:
    """Write the digits as PNG files into `out/digits` and make `out/run` from them.

    The 1,797 digits are 8 x 8 pixels with values 0 to 16 (Alpaydin and Kaynak, 1998), real scans of 43 people's
    handwriting.

    Raises:
        RunError: `out/run` exists.
    """
    require_vacant(out / RUN_FOLDER)
    for package in ("tensorflow", "sklearn"):
        require_installed(package)
    write_digits(out / DATA_FOLDER)
    settings = TrainSettings("feature-extraction", image_size=IMAGE_SIZE_PX)
    return run_pipeline(out / DATA_FOLDER, settings, out / RUN_FOLDER, progress=progress)


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits as `folder/<digit>/<number>.png`, 8 x 8 grey."""
    digits = require("sklearn.datasets").load_digits()
    for index, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        target = folder / str(label)
        target.mkdir(parents=True, exist_ok=True)
        pixels = np.round(values * (255 / _LARGEST_VALUE)).astype(np.uint8)
        Image.fromarray(pixels).save(target / f"{index:04d}.png")
