"""Which images a check runs on: the run's own test subset, or another labelled folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.core.errors import DataError
from tledge.core.files import sha256_file
from tledge.core.types import Images, Labels, Subset
from tledge.data.pixels import PixelStore
from tledge.data.scan import list_images
from tledge.data.split import SplitRow, data_fingerprint
from tledge.runs.manifest import Manifest, data_root, how_to_restore, read_split
from tledge.runs.rundir import RunDir


@dataclass(frozen=True)
class CheckImages:
    """What to check on: where it is from, its fingerprint, the files, their pixels by image size, the true classes.

    `paths` are relative to `root`. Models may differ in their input size: the reference of an optimized run can have a
    larger one than its artefacts.
    """

    root: Path
    fingerprint: str
    paths: tuple[str, ...]
    stores: Mapping[int, PixelStore]
    labels: Labels

    def batches(self, batch_size: int) -> Iterator[Mapping[int, Images]]:
        """All images in order, each batch in every size: {side: (at most batch_size, side, side, 3) uint8}.

        An image is decoded once for each size; only a few batches are in memory.

        Raises:
            DataError: an image has changed, or is unreadable.
        """
        everything = np.arange(len(self.labels))
        streams = [store.batches(everything, batch_size) for store in self.stores.values()]
        for parts in zip(*streams, strict=True):
            yield dict(zip(self.stores, parts, strict=True))


def run_images(run: RunDir, manifest: Manifest, sides: Iterable[int], subset: Subset = "test") -> CheckImages:
    """One of the run's subsets: the test images judge, choices are made on validation images.

    Args:
        run: the run.
        manifest: its manifest.
        sides: the image sizes in pixels that are needed.
        subset: which images.

    Raises:
        DataError: images are gone; a changed one is noticed when it is decoded.
    """
    root = data_root(run, manifest)
    rows = read_split(run, subset)
    other = " or pass --data" if subset == "test" else ""
    if gone := [row.path for row in rows if not (root / row.path).is_file()]:
        raise DataError(f"expected the {subset} images in {root}, but {gone[0]} is gone; {how_to_restore(root)}{other}")
    return as_images(root, rows, manifest.classes, sides)


def other_images(data: Path, classes: Sequence[str], sides: Iterable[int]) -> CheckImages:
    """All images of a folder, or those of its test/ subfolder if it is divided.

    Raises:
        DataError: no images, or classes that the model does not know.
    """
    root, rows = folder_rows(data, classes, "the run's classes")
    return as_images(root, rows, classes, sides)


def folder_rows(data: Path, classes: Sequence[str], whose: str) -> tuple[Path, tuple[SplitRow, ...]]:
    """All images of a folder, or those of its test/ subfolder if it is divided, with the digests of the files.

    The folder is returned too, since images that came as arrays lie elsewhere.

    Args:
        data: the folder.
        classes: every class that may be in it.
        whose: what `classes` are, for the message.

    Raises:
        DataError: no images, or other classes.
    """
    listing = list_images(data)
    if unknown := sorted(set(listing.classes) - set(classes)):
        raise DataError(
            f"expected {whose} ({', '.join(classes)}) in {data}, but found {', '.join(unknown)}; "
            "rename or remove those folders"
        )
    files = [file for file in listing.files if file.subset in (None, "test")] or list(listing.files)
    rows = tuple(SplitRow(f.path, f.label, "test", sha256_file(listing.root / f.path)) for f in files)
    return listing.root, rows


def as_images(root: Path, rows: Sequence[SplitRow], classes: Sequence[str], sides: Iterable[int]) -> CheckImages:
    """Images by their rows, decoded when they are needed.

    Raises:
        DataError: there are none.
    """
    if not rows:
        raise DataError(f"expected images to check on in {root}, but there are none; pass --data")
    files, digests = [root / row.path for row in rows], [row.sha256 for row in rows]
    stores = {side: PixelStore(files, side, sha256=digests) for side in sorted(set(sides))}
    labels = np.asarray([list(classes).index(row.label) for row in rows], np.int64)
    return CheckImages(root, data_fingerprint(rows), tuple(row.path for row in rows), stores, labels)
