"""Was an int8 file calibrated on the run's images? Its ranges tell, even where its answers do not suffer yet."""

from __future__ import annotations

from tledge.conversion.artefacts import RunArtefact
from tledge.conversion.calibration import Range
from tledge.conversion.kept_calibration import RunCalibrations
from tledge.core.errors import DataError, MissingDependencyError, RunError
from tledge.core.progress import Steps
from tledge.diagnosis.expected_ranges import expected_ranges
from tledge.diagnosis.verdict import ranges_off
from tledge.evaluation.gates.evidence import RangeFit
from tledge.formats.activation_probe import read_points
from tledge.model.inference import PIXEL_OFFSET, load_graph
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import RunDir

_PROBED = (".tflite", ".onnx")


class RangeCheck:
    """Compares the ranges in files of a run with those that its calibration images need, or that training learned."""

    def __init__(self, run: RunDir, manifest: Manifest) -> None:
        self._run, self._manifest = run, manifest
        self._calibrations = RunCalibrations(run, manifest, lambda: load_graph(run.model))

    def fit(self, artefact: RunArtefact, progress: Steps) -> RangeFit | str | None:
        """How a file's ranges fit.

        Args:
            artefact: a file of the run.
            progress: called with (images done, images in all) while the model's ranges are measured.

        Returns:
            How they fit; None for a file without integer activations; a sentence where that cannot be known.
        """
        path = artefact.path
        if path.suffix.lower() not in _PROBED:
            return f"{path.name}: calibration is not checked, since the ranges of {path.suffix} files cannot be read"
        if not artefact.is_integer:
            return None
        try:
            expected, images = expected_ranges(artefact, self._run, self._manifest, self._calibrations, progress)
            # Learned ranges have none for the pixels under the name that files have them by.
            points = read_points(path, tuple(expected) if artefact.ranges != "qat" else (PIXEL_OFFSET, *expected))
        except (DataError, MissingDependencyError, RunError) as error:
            return f"{path.name}: its calibration is not checked: {error}"
        ratios = {
            name: _width(point.range) / max(_width(point.widened(expected[name])), 1e-12)
            for name, point in points.items()
            if name in expected and point.range is not None
        }
        if not ratios:
            return f"{path.name}: its layers are not those of the run's model, so its calibration is not checked"
        worst = max(ratios, key=lambda name: max(ratios[name], 1 / max(ratios[name], 1e-12)))
        return RangeFit(ranges_off(list(ratios.values())), len(ratios), images, worst, ratios[worst])


def _width(limits: Range) -> float:
    return limits[1] - limits[0]
