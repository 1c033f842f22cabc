"""What the activation ranges of a run's integer files should be: those of its calibration images, or learned ones."""

from __future__ import annotations

from collections.abc import Mapping

from tledge.conversion.artefacts import RunArtefact
from tledge.conversion.calibration import Range
from tledge.conversion.kept_calibration import RunCalibrations
from tledge.core.progress import Steps
from tledge.model.ranges import learned_ranges
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import RunDir

CALIBRATION_IMAGES = 100
"""What the built-in recipes calibrate on: taken for files of which no more is known."""


def calibration_images(artefact: RunArtefact) -> int:
    """How many images calibrate a file."""
    return CALIBRATION_IMAGES if artefact.calibration_images is None else artefact.calibration_images


def expected_ranges(
    artefact: RunArtefact, run: RunDir, manifest: Manifest, calibrations: RunCalibrations, progress: Steps
) -> tuple[Mapping[str, Range], int]:
    """Least and largest output by layer, and the number of images behind them.

    They come from the float model, not from a converter, so that they say whether a file was made of the right images.

    Args:
        artefact: the file in question.
        run: its run.
        manifest: the run's.
        calibrations: of the run.
        progress: called with (images done, images in all) while ranges are measured.

    Raises:
        RunError, DataError: no such ranges are kept, and training images are missing or changed.
    """
    if artefact.ranges == "qat":
        learned = learned_ranges(run, manifest)
        return {} if learned is None else learned.limits, 0
    return calibrations.layers(calibration_images(artefact), artefact.calibration_method, progress)
