"""Which images a check runs on: the run's own test subset, or another labelled folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.data.pixels import PixelStore
from tledge.data.scan import list_images
from tledge.data.split import SplitRow, data_fingerprint
from tledge.errors import DataError
from tledge.files import sha256_file
from tledge.manifest import Manifest, data_root, read_split
from tledge.rundir import RunDir
from tledge.types import Labels, Subset


@dataclass(frozen=True)
class CheckImages:
    """What to check on: where it is from, its fingerprint, the pixels and the true classes.

    The reference of an optimized run can have a larger input than its artefacts, and gets pixels of its own size.
    """

    root: Path
    fingerprint: str
    pixels: PixelStore
    reference_pixels: PixelStore
    labels: Labels


def run_images(run: RunDir, manifest: Manifest, reference_side: int, subset: Subset = "test") -> CheckImages:
    """One of the run's subsets: the test images judge, choices are made on validation images.

    Raises:
        DataError: images are gone; a changed one is noticed when it is decoded.
    """
    root = data_root(run, manifest)
    rows = read_split(run, subset)
    other = " or pass --data" if subset == "test" else ""
    if gone := [row.path for row in rows if not (root / row.path).is_file()]:
        raise DataError(f"expected the {subset} images in {root}, but {gone[0]} is gone; restore it{other}")
    return _as_images(root, rows, manifest, reference_side)


def other_images(data: Path, manifest: Manifest, reference_side: int) -> CheckImages:
    """All images of a folder, or those of its test/ subfolder if it is divided.

    Raises:
        DataError: no images, or classes that the run does not know.
    """
    return _as_images(data, folder_rows(data, manifest.classes, "the run's classes"), manifest, reference_side)


def folder_rows(data: Path, classes: Sequence[str], whose: str) -> tuple[SplitRow, ...]:
    """All images of a folder, or those of its test/ subfolder if it is divided, with the digests of the files.

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
    return tuple(SplitRow(file.path, file.label, "test", sha256_file(data / file.path)) for file in files)


def _as_images(root: Path, rows: Sequence[SplitRow], manifest: Manifest, reference_side: int) -> CheckImages:
    if not rows:
        raise DataError(f"expected images to check on in {root}, but there are none; pass --data")
    paths, digests = [root / row.path for row in rows], [row.sha256 for row in rows]
    pixels = PixelStore(paths, manifest.image_size_px, sha256=digests)
    same = reference_side == manifest.image_size_px
    reference_pixels = pixels if same else PixelStore(paths, reference_side, sha256=digests)
    labels = np.asarray([manifest.classes.index(row.label) for row in rows], np.int64)
    return CheckImages(root, data_fingerprint(rows), pixels, reference_pixels, labels)
