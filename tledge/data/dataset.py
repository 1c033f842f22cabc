"""From a listing to images that a model can be trained or judged on: decoded, divided, numbered by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tledge.core.image_size import ImageSize
from tledge.core.progress import Progress
from tledge.core.types import Labels
from tledge.data.decode import Resizer, resize
from tledge.data.listing import Listing
from tledge.data.names import listed
from tledge.data.pixels import LoadedImages, load_images
from tledge.data.split import Split, SplitRow, split_images

# Beside images there may be as many annotations.
_NAMED = 20


class Division(Protocol):
    """How images are divided; see `split_images`. `skip_unreadable` leaves out what cannot be decoded."""

    @property
    def val_fraction(self) -> float:
        """Share for validation."""

    @property
    def test_fraction(self) -> float:
        """Share for the test."""

    @property
    def seed(self) -> int:
        """Same seed, same data, same split."""

    @property
    def drop_duplicates(self) -> bool:
        """Whether copies that straddle subsets or classes are left out."""

    @property
    def skip_unreadable(self) -> bool:
        """Whether unreadable files are left out."""


def decode_and_split(
    listing: Listing, size_px: ImageSize, division: Division, progress: Progress, resizer: Resizer = resize
) -> tuple[LoadedImages, Split]:
    """Decode every image of a listing once, and divide them into train, val and test.

    Args:
        listing: the images.
        size_px: that they are brought to.
        division: how to divide them.
        progress: called with (what is going on, images done, images in all).
        resizer: what brings them to that size.

    Raises:
        SettingsError, DataError: as `load_images` and `split_images`.
    """
    images = load_images(
        listing,
        size_px,
        skip_unreadable=division.skip_unreadable,
        resizer=resizer,
        progress=lambda done, total: progress("decoding", done, total),
    )
    split = split_images(
        images,
        val_fraction=division.val_fraction,
        test_fraction=division.test_fraction,
        seed=division.seed,
        drop_duplicates=division.drop_duplicates,
    )
    return images, split


def numbered(images: LoadedImages, rows: Sequence[SplitRow], classes: Sequence[str]) -> tuple[Labels, Labels]:
    """Where the images of some rows stand in `images.pixels`, and their classes by number, both (N,)."""
    position = {file.path: index for index, file in enumerate(images.files)}
    number = {label: index for index, label in enumerate(classes)}
    return (
        np.asarray([position[row.path] for row in rows], np.int64),
        np.asarray([number[row.label] for row in rows], np.int64),
    )


def what_was_left_out(listing: Listing, images: LoadedImages, split: Split) -> tuple[str, ...]:
    """One sentence for each reason for which files were passed over."""
    parts = (
        ("no image of a class, ignored", listing.ignored, _NAMED),
        ("unreadable, skipped", tuple(f"{path} ({reason})" for path, reason in images.unreadable), None),
        ("duplicate, dropped", split.dropped, None),
    )
    said = (f"{len(names):,} {what}: {listed(names, most or len(names))}" for what, names, most in parts if names)
    return (*listing.notes, *said)
