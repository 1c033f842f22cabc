"""The images that select looks at: a bounded, stratified, seeded part of a data folder."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.core.errors import DataError
from tledge.core.types import Labels
from tledge.data.decode import read_content
from tledge.data.listing import ImageFile, Listing
from tledge.data.names import shown
from tledge.data.split import stratified_sample

DEFAULT_IMAGES = 128
# Two folds need two images of a class; with fewer than four, one image decides half of what is known of it.
LEAST_PER_CLASS = 4


@dataclass(frozen=True)
class Sample:
    """Images with their classes: `labels` (N,) count in `classes`, `sha256` are digests of the files in hex.

    No two files are equal; `copies` is how many were met in drawing and left out.
    """

    root: Path
    files: tuple[ImageFile, ...]
    sha256: tuple[str, ...]
    labels: Labels
    classes: tuple[str, ...]
    copies: int

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the images are."""
        return tuple(self.root / file.path for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 over the digests and classes of the images."""
        lines = (f"{name} {label}\n" for name, label in zip(self.sha256, self.labels, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def draw(root: Path, files: Sequence[ImageFile], count: int, seed: int) -> Sample:
    """Draw images evenly over the classes, each content once: with a copy in another fold, a probe knows the answer.

    Args:
        root: what the files' paths are relative to.
        files: the images that may be looked at.
        count: how many at most; raised to 4 per class, so that every class can be measured.
        seed: of the drawing.

    Raises:
        DataError: a class has one image only, apart from copies; one image is drawn from two classes; or a file cannot
            be read.
    """
    classes = tuple(sorted({file.label for file in files}))
    met: dict[str, list[int]] = defaultdict(list)

    def is_new(index: int) -> bool:
        same = met[_digest(root / files[index].path)]
        same.append(index)
        if files[same[0]].label != files[index].label:
            raise _in_two_classes(files[same[0]], files[index])
        return len(same) == 1

    chosen = stratified_sample([file.label for file in files], max(count, LEAST_PER_CLASS * len(classes)), seed, is_new)
    digests = {same[0]: digest for digest, same in met.items()}
    drawn = tuple(files[index] for index in chosen)
    per_class = Counter(file.label for file in drawn)
    if single := sorted(name for name, images in per_class.items() if images < 2):
        raise DataError(
            f"expected at least 2 different images of every class to compare trunks on, but {single[0]!r} has 1; "
            "add images"
        )
    labels = np.asarray([classes.index(file.label) for file in drawn], np.int64)
    copies = sum(len(same) - 1 for same in met.values())
    return Sample(root, drawn, tuple(digests[int(index)] for index in chosen), labels, classes, copies)


def _in_two_classes(first: ImageFile, second: ImageFile) -> DataError:
    return DataError(
        f"expected each image in one class, but these are the same picture: {shown(first.path)} = "
        f"{shown(second.path)}. Remove the copies, or leave the choice to `tledge train` with --weights auto and "
        "--drop-duplicates"
    )


def listing_digest(listing: Listing) -> str:
    """SHA-256 over names and sizes of all images: enough to tell that a folder is still the one that was looked at."""
    lines = (f"{file.path}\t{(listing.root / file.path).stat().st_size}\n" for file in listing.files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(read_content(path)).hexdigest()
    except DataError as error:
        raise DataError(f"expected an image, but {shown(path)} {error}; replace or remove it") from None
