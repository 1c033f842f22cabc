"""Was an int8 file calibrated on the run's images? Its ranges tell, even where its answers do not suffer yet."""

from __future__ import annotations

from tledge.conversion.artefacts import RunArtefact
from tledge.core.errors import DataError, MissingDependencyError, RunError
from tledge.core.progress import Steps
from tledge.diagnosis.calibration_ranges import CalibrationRanges
from tledge.diagnosis.layers import Range
from tledge.diagnosis.verdict import ranges_off
from tledge.evaluation.gates.evidence import RangeFit
from tledge.formats.activation_probe import read_points

_PROBED = (".tflite", ".onnx")


def fit_ranges(artefact: RunArtefact, ranges: CalibrationRanges, progress: Steps) -> RangeFit | str | None:
    """Compare the ranges in a file with those that the run's calibration images need, or that training learned.

    Args:
        artefact: a file of the run.
        ranges: of the run.
        progress: called with (images done, images in all) while the model's ranges are worked out.

    Returns:
        How they fit; None for a file without integer activations; a sentence where that cannot be known.
    """
    path = artefact.path
    if path.suffix.lower() not in _PROBED:
        return f"{path.name}: calibration is not checked, since the ranges of {path.suffix} files cannot be read"
    try:
        points = read_points(path)
        if all(point.range is None for point in points):
            return None
        expected, images = ranges.of(artefact, progress)
    except (DataError, MissingDependencyError, RunError) as error:
        return f"{path.name}: its calibration is not checked: {error}"
    if len(points) != len(expected):
        return f"{path.name}: its layers are not those of the run's model, so its calibration is not checked"
    ratios = {
        name: _width(point.range) / max(_width(wanted), 1e-12)
        for point, (name, wanted) in zip(points, expected.items(), strict=True)
        if point.range is not None and wanted is not None
    }
    worst = max(ratios, key=lambda name: max(ratios[name], 1 / max(ratios[name], 1e-12)), default="")
    return RangeFit(ranges_off(list(ratios.values())), len(ratios), images, worst, ratios.get(worst, 1.0))


def _width(limits: Range) -> float:
    return limits[1] - limits[0]
