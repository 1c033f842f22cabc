"""Training images in a fixed order: what calibrates int8 files, verifies exports and is looked at by a diagnosis."""

from __future__ import annotations

import hashlib

import numpy as np

from tledge.core.errors import RunError
from tledge.core.types import Images
from tledge.data.pixels import PixelStore
from tledge.data.split import SplitRow, stratified_sample
from tledge.runs.manifest import Manifest, data_root, read_split
from tledge.runs.rundir import RunDir


class TrainingSamples:
    """Stratified samples of a run's training images, decoded when first needed.

    Raises:
        RunError: the run lists no training images, or their folder is gone.
    """

    def __init__(self, run: RunDir, manifest: Manifest) -> None:
        self._rows = read_split(run, "train")
        if not self._rows:
            raise RunError(f"expected training images in {run.split}, but it lists none; train again")
        self._root = data_root(run, manifest)
        self._size_px = manifest.image_size_px
        self._seed = manifest.seed
        self._decoded: dict[int, tuple[Images, str]] = {}

    def take(self, count: int) -> tuple[Images, str]:
        """A stratified sample of at most `count` images, and the SHA-256 over the files' digests."""
        if count not in self._decoded:
            chosen = _sample(self._rows, count, self._seed)
            paths = [self._root / row.path for row in chosen]
            store = PixelStore(paths, self._size_px, sha256=[row.sha256 for row in chosen])
            self._decoded[count] = store.take(np.arange(len(paths))), _digest(chosen)
        return self._decoded[count]


def sample_digest(run: RunDir, manifest: Manifest, count: int) -> tuple[str, int]:
    """What `TrainingSamples.take` says of its sample, and how many images that has; the images are not needed."""
    chosen = _sample(read_split(run, "train"), count, manifest.seed)
    return _digest(chosen), len(chosen)


def _sample(rows: tuple[SplitRow, ...], count: int, seed: int) -> list[SplitRow]:
    return [rows[i] for i in stratified_sample([row.label for row in rows], count, seed)]


def _digest(rows: list[SplitRow]) -> str:
    return hashlib.sha256("".join(row.sha256 for row in rows).encode()).hexdigest()
