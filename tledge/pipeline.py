"""The main job, train, export, check, bench and report one after the other; also on data that every machine has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.benchmark.bench import bench
from tledge.benchmark.settings import BenchGrid
from tledge.conversion.export import export
from tledge.conversion.recipe import DEFAULT_RECIPES, load_recipes
from tledge.core.dependencies import require, require_installed
from tledge.core.progress import Progress, silent
from tledge.evaluation.check import check
from tledge.evaluation.results import CheckResult
from tledge.evaluation.settings import TOLERANT, CheckSettings
from tledge.reporting.report import Report, report
from tledge.runs.rundir import require_vacant
from tledge.runs.unfinished import RESUME, ResumeSettings
from tledge.training.settings import TrainSettings
from tledge.training.train import TrainedRun, train

DEMO_FOLDER = Path("tledge-demo")
_DIGITS_FOLDER = "digits"
_RUN_FOLDER = "run"
_DEMO_SIZE_PX = 64
_LARGEST_VALUE = 16.0


@dataclass(frozen=True)
class PipelineResult:
    """What the stages of one `tledge run` returned that a person wants to see."""

    trained: TrainedRun
    checked: CheckResult
    report: Report


def run_pipeline(
    data: Path,
    settings: TrainSettings,
    out: Path,
    *,
    recipes: Sequence[str] = (),
    checking: CheckSettings = TOLERANT,
    threads: int | None = None,
    resuming: ResumeSettings = RESUME,
    progress: Progress = silent,
) -> PipelineResult:
    """Train, export, check, bench and report; the run stays usable if a later stage fails.

    Args:
        data: a folder of images, or an archive of them.
        settings: of the training.
        out: where the run goes.
        recipes: built-in names or TOML files; empty for the default six.
        checking: what the check holds the files against.
        threads: of one inference of the bench; None for all cores.
        resuming: whether to go on with a training that was interrupted.
        progress: called with (what is going on, steps done, steps in all).

    Raises:
        TledgeError: what the stages raise; recipes and bench settings are checked before training begins.
    """
    checking.require_evidence()
    limits = [checking.limits, *(recipe.limits for recipe in load_recipes(tuple(recipes) or DEFAULT_RECIPES))]
    measuring = BenchGrid(() if threads is None else (threads,))
    measuring.each()
    trained = train(data, settings, out, progress, resuming=resuming)
    export(out, recipes, progress=progress)
    # The verdict before the latencies, unless it depends on them.
    measured_first = any("max_latency_ratio" in each for each in limits)
    if measured_first:
        bench(out, measuring, progress=progress)
    checked = check(out, checking, progress=progress)
    if not measured_first:
        bench(out, measuring, progress=progress)
    return PipelineResult(trained, checked, report(out))


def demo(out: Path = DEMO_FOLDER, *, progress: Progress = silent) -> PipelineResult:
    """Do the main job on scikit-learn's handwritten digits: `out/digits` as PNG files, `out/run` made from them.

    Nothing is downloaded. The 1,797 digits are 8 x 8 pixels with values 0 to 16 (Alpaydin and Kaynak, 1998), real
    scans of 43 people's handwriting.

    Raises:
        RunError: `out/run` exists.
    """
    require_vacant(out / _RUN_FOLDER)
    for package in ("tensorflow", "sklearn"):
        require_installed(package)
    write_digits(out / _DIGITS_FOLDER)
    settings = TrainSettings("feature-extraction", image_size=_DEMO_SIZE_PX)
    return run_pipeline(out / _DIGITS_FOLDER, settings, out / _RUN_FOLDER, progress=progress)


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits as `folder/<digit>/<number>.png`, 8 x 8 grey."""
    image = require("PIL.Image")
    digits = require("sklearn.datasets").load_digits()
    for index, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        target = folder / str(label)
        target.mkdir(parents=True, exist_ok=True)
        pixels = np.round(values * (255 / _LARGEST_VALUE)).astype(np.uint8)
        image.fromarray(pixels).save(target / f"{index:04d}.png")
