"""The calibrations of a run, kept in calibration.json so that export, check and diagnose measure none twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar

from msgspec.structs import replace

from tledge.conversion.calibration import PIXELS, Calibration, Range, calibrate
from tledge.conversion.sidecar import CalibrationFacts
from tledge.core.errors import RunError
from tledge.core.progress import Steps, silent_steps
from tledge.core.records import Document, Record, read_record, write_record
from tledge.core.types import CalibrationMethod
from tledge.model.graph import Graph
from tledge.model.inference import PIXEL_OFFSET
from tledge.model.ranges import Extent
from tledge.runs.images import TrainingSamples, sample_digest
from tledge.runs.manifest import Manifest
from tledge.runs.rundir import RunDir


class KeptRanges(Record, frozen=True, kw_only=True):
    """Ranges on one sample of training images.

    `layers` has the pixels that the first convolution reads and the output of every convolution and dense layer, after
    its ReLU; `tensors` has every tensor that a quantizer may round. `ranges_sha256` is over both (`digest_of_ranges`);
    entries of earlier versions have none.
    """

    ranges_sha256: str | None = None
    sample_sha256: str
    images: int
    method: CalibrationMethod
    layers: dict[str, Extent]
    tensors: dict[str, Extent]


class CalibrationFile(Document, frozen=True, kw_only=True):
    """calibration.json: activation ranges of a run's model."""

    REMEDY: ClassVar[str] = "delete it; the next export measures again"

    model_sha256: str
    calibrations: tuple[KeptRanges, ...]


def digest_of_ranges(kept: KeptRanges) -> str:
    """SHA-256 over all ranges of an entry, in hex."""
    lines = [
        f"{part}\t{name}\t{extent.min!r}\t{extent.max!r}\n"
        for part, extents in (("layers", kept.layers), ("tensors", kept.tensors))
        for name, extent in sorted(extents.items())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class RunCalibrations:
    """Activation ranges of a run's model on samples of its training images.

    Args:
        run: the run.
        manifest: its manifest.
        graph: makes what `inference_graph` returns for the run's model; called when something has to be measured.
        samples: where the training images come from.
    """

    def __init__(
        self, run: RunDir, manifest: Manifest, graph: Callable[[], Graph], samples: TrainingSamples | None = None
    ) -> None:
        self._run, self._manifest = run, manifest
        self._make_graph = graph
        self._given = samples
        self._made: dict[tuple[int, CalibrationMethod], Calibration] = {}

    @cached_property
    def _graph(self) -> Graph:
        return self._make_graph()

    @cached_property
    def _samples(self) -> TrainingSamples:
        return self._given or TrainingSamples(self._run, self._manifest)

    def of(
        self, images: int, method: CalibrationMethod = "min-max", progress: Steps = silent_steps
    ) -> tuple[Calibration, CalibrationFacts]:
        """Ranges of every tensor, for quantizers, and what the sidecar says about them.

        Args:
            images: how many training images to take, at most.
            method: see `calibrate`.
            progress: called with (images done, images in all) while ranges are measured.

        Raises:
            DataError: one of the images is gone, changed or unreadable.
        """
        sample, digest = self._samples.take(images)
        if (images, method) not in self._made:
            kept = self._find(digest, method)
            known = None if kept is None else _limits(kept.tensors)
            made = calibrate(self._graph, sample, method, known, progress)
            self._made[images, method] = made
            if made.ranges != known:
                self._keep(digest, len(sample), method, made)
        facts = CalibrationFacts(images=len(sample), sha256=digest, subset="train", method=method)
        return self._made[images, method], facts

    def layers(
        self, images: int, method: CalibrationMethod = "min-max", progress: Steps = silent_steps
    ) -> tuple[Mapping[str, Range], int]:
        """Ranges by layer as `KeptRanges.layers`, and the number of images behind them.

        Raises:
            RunError, DataError: none are kept, and training images are missing or changed.
        """
        digest, used = sample_digest(self._run, self._manifest, images)
        if (kept := self._find(digest, method)) is not None:
            return _limits(kept.layers), used
        made, _ = self.of(images, method, progress)
        return self._by_layer(made), used

    def _by_layer(self, made: Calibration) -> dict[str, Range]:
        first = PIXEL_OFFSET if PIXEL_OFFSET in made.ranges else PIXELS
        layers = {name: made.ranges[call.name] for name, call in self._graph.activated.items()}
        return {first: made.ranges[first], **layers}

    def _find(self, digest: str, method: CalibrationMethod) -> KeptRanges | None:
        return next((k for k in self._kept() if (k.sample_sha256, k.method) == (digest, method)), None)

    def _kept(self) -> tuple[KeptRanges, ...]:
        """Empty if they are another model's or not legible, since they can be measured again."""
        try:
            content = read_record(self._run.calibration, CalibrationFile)
        except RunError:
            return ()
        if content.model_sha256 != self._manifest.model_sha256:
            return ()
        # An entry that was changed is measured again, like one that is not there.
        return tuple(kept for kept in content.calibrations if kept.ranges_sha256 in (None, digest_of_ranges(kept)))

    def _keep(self, digest: str, images: int, method: CalibrationMethod, made: Calibration) -> None:
        new = KeptRanges(
            sample_sha256=digest,
            images=images,
            method=method,
            layers=_extents(self._by_layer(made)),
            tensors=_extents(made.ranges),
        )
        new = replace(new, ranges_sha256=digest_of_ranges(new))
        others = [k for k in self._kept() if (k.sample_sha256, k.method) != (digest, method)]
        content = CalibrationFile(model_sha256=self._manifest.model_sha256, calibrations=(*others, new))
        write_record(self._run.calibration, content)


def _limits(extents: Mapping[str, Extent]) -> dict[str, Range]:
    return {name: (extent.min, extent.max) for name, extent in extents.items()}


def _extents(limits: Mapping[str, Range]) -> dict[str, Extent]:
    return {name: Extent(min=low, max=high) for name, (low, high) in limits.items()}
