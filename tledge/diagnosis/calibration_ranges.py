"""What the activation ranges of a run's int8 files should be: those of the images that calibrate them, or learned."""

from __future__ import annotations

from functools import cached_property

from tledge.conversion.artefacts import RunArtefact
from tledge.core.errors import RunError
from tledge.core.progress import Steps
from tledge.core.records import Document, read_record, write_record
from tledge.diagnosis.layers import Range, ReferenceLayers, seen_ranges
from tledge.model.ranges import Extent, learned_ranges
from tledge.runs.images import TrainingSamples, sample_digest
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import RunDir

CALIBRATION_IMAGES = 100
"""What the built-in recipes calibrate on: taken for files of which no more is known."""


class CalibrationFile(Document, frozen=True, kw_only=True):
    """calibration.json: ranges of a model's layers by digest of the images they were seen on."""

    model_sha256: str
    ranges_by_sample: dict[str, dict[str, Extent]]


def calibration_images(artefact: RunArtefact) -> int:
    """How many images calibrate a file."""
    return CALIBRATION_IMAGES if artefact.calibration_images is None else artefact.calibration_images


class CalibrationRanges:
    """Ranges of a run's model on its calibration images, worked out once and kept in the run.

    They come from the float model in Keras, not from a converter, so that they say whether a converter saw the right
    images.
    """

    def __init__(self, run: RunDir, manifest: Manifest, layers: ReferenceLayers | None = None) -> None:
        self._run, self._manifest = run, manifest
        self._loaded = layers

    @cached_property
    def _layers(self) -> ReferenceLayers:
        return self._loaded or ReferenceLayers(self._run.model)

    def of(self, artefact: RunArtefact, progress: Steps) -> tuple[dict[str, Range | None], int]:
        """Least and largest output by layer, in the order of the model, and the number of images behind them.

        Args:
            artefact: the file in question.
            progress: called with (images done, images in all).

        Returns:
            Ranges that contain 0; None for a layer for which quantization-aware training learned none.

        Raises:
            RunError, DataError: no such ranges are kept, and training images are missing or changed.
        """
        if artefact.ranges == "qat":
            learned = learned_ranges(self._run, self._manifest)
            return {name: None if learned is None else learned.limits.get(name) for name in self._layers.names}, 0
        count = calibration_images(artefact)
        digest, used = sample_digest(self._run, self._manifest, count)
        kept = self._kept()
        if digest not in kept:
            images, _ = TrainingSamples(self._run, self._manifest).take(count)
            found = seen_ranges(self._layers, images, progress)
            kept[digest] = dict(zip(self._layers.names, found, strict=True))
            self._keep(kept)
        return dict(kept[digest]), used

    def _kept(self) -> dict[str, dict[str, Range]]:
        """By digest of the sample; empty if they are another model's or not legible, since they can be made anew."""
        path = self._run.calibration
        try:
            content = read_record(path, CalibrationFile)
        except RunError:
            return {}
        if content.model_sha256 != self._manifest.model_sha256:
            return {}
        return {
            digest: {name: (extent.min, extent.max) for name, extent in ranges.items()}
            for digest, ranges in content.ranges_by_sample.items()
        }

    def _keep(self, kept: dict[str, dict[str, Range]]) -> None:
        samples = {
            digest: {name: Extent(min=low, max=high) for name, (low, high) in ranges.items()}
            for digest, ranges in kept.items()
        }
        content = CalibrationFile(model_sha256=self._manifest.model_sha256, ranges_by_sample=samples)
        write_record(self._run.calibration, content)
