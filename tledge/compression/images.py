"""A run's model with its training and validation images, at whatever size a model takes, for its optimization."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tledge.compression.flat import flat, input_size
from tledge.compression.legacy_distill import DistillationData, examples
from tledge.compression.study import ShrinkData, Study
from tledge.compression.unlabelled import UnlabelledPictures
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import RunError
from tledge.core.image_size import ImageSize
from tledge.core.progress import Progress
from tledge.core.types import Json, Labels, Subset
from tledge.data.pixels import PixelStore
from tledge.data.resizers import resizer_of
from tledge.data.split import SplitRow
from tledge.runs.images import data_root, require_images
from tledge.runs.manifest import Manifest, read_split
from tledge.runs.rundir import RunDir

if TYPE_CHECKING:
    import keras


class RunImages:
    """The images of a run and, when first needed, its models; what was found out about its own model is kept.

    Args:
        run: the run.
        manifest: its manifest.
        unlabelled: further pictures to learn from; None for none.

    Raises:
        RunError: no training or no validation images, or the folder is gone.
        DataError: one of them is gone, or another one in a folder that was said anew.
    """

    def __init__(self, run: RunDir, manifest: Manifest, unlabelled: UnlabelledPictures | None = None) -> None:
        self.rows: tuple[SplitRow, ...] = read_split(run)
        self.root: Path = data_root(run, manifest)
        self._unlabelled = unlabelled
        self._run = run
        self._classes = manifest.classes
        self._resizer = resizer_of(manifest.resize)
        self._train, self._val = self._part("train"), self._part("val")
        if min(len(self._train[0]), len(self._val[0])) == 0:
            raise RunError(f"expected training and validation images in {run.split}, but one is empty; train again")
        require_images(run, self.root, [row for row in self.rows if row.subset != "test"])
        self._original: keras.Model | None = None
        self._model: keras.Model | None = None
        self._studies: dict[tuple[int, int | None], Study] = {}

    def record(self) -> Json:
        """What a manifest says of images beyond the run's own; empty where there are none."""
        return {} if self._unlabelled is None else self._unlabelled.record()

    def model(self) -> keras.Model:
        """The run's own model as a flat net, loaded once; nobody may change it."""
        if self._model is None:
            self._model = flat(_load(self._run.model))
        return self._model

    def study(self, model: keras.Model, seed: int, pictures: int | None) -> Study:
        """What pruning needs to know about a model; of the run's own model it is kept for the next call."""
        data = self.data(input_size(model))
        if self._model is None or model is not self._model:
            return Study(model, data, seed, pictures)
        if (seed, pictures) not in self._studies:
            self._studies[seed, pictures] = Study(model, data, seed, pictures)
        return self._studies[seed, pictures]

    def data(self, size_px: ImageSize) -> ShrinkData:
        """The images at a size; there is no place for the test subset."""
        further = None if self._unlabelled is None else self._unlabelled.pixels
        return ShrinkData(self._store(size_px), self._train, self._val, further)

    def distillation_data(self, size_px: ImageSize, seed: int, progress: Progress) -> DistillationData:
        """Images at a size, and the original's answers to them at its own size."""
        progress("asking the original", 0, 1)
        if self._original is None:
            self._original = _load(self._run.reference)
        originals = self._store(input_size(self._original))
        found = examples(self._original, originals, self.data(size_px), seed)
        progress("asking the original", 1, 1)
        return found

    def _store(self, size_px: ImageSize) -> PixelStore:
        paths, digests = [self.root / row.path for row in self.rows], [row.sha256 for row in self.rows]
        return PixelStore(paths, size_px, sha256=digests, resizer=self._resizer)

    def _part(self, subset: Subset) -> tuple[Labels, Labels]:
        chosen = [index for index, row in enumerate(self.rows) if row.subset == subset]
        labels = [self._classes.index(self.rows[index].label) for index in chosen]
        return np.asarray(chosen, np.int64), np.asarray(labels, np.int64)


def _load(path: Path) -> keras.Model:
    _, keras = require_tensorflow()
    return keras.models.load_model(path, compile=False, safe_mode=True)
