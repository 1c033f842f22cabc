"""IDX, the format of MNIST: a file of images and one of labels for each subset."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import DataError
from tledge.core.types import Subset
from tledge.data.names import shown
from tledge.data.packed import ArchiveKind, PackedImages, from_arrays, require_room

_IMAGES, _LABELS = "images-idx3", "labels-idx1"
_UNSIGNED_BYTE = 8


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.glob(f"*{_IMAGES}*") if file.is_file())
    return [path] if _IMAGES in path.name and path.is_file() else []


def _complete(path: Path, found: list[Path]) -> list[Path]:
    subsets = [_subset_of(images.name) for images in found]
    for position, subset in enumerate(subsets):
        if subset in subsets[:position] or (subset is None and len(found) > 1):
            what = "neither train nor test" if subset is None else f"the second for {subset}"
            raise DataError(
                f"expected at most one IDX file of images for train and one for test in {shown(path)}, but "
                f"{shown(found[position].name)} is {what}; move files away, or pass one of them"
            )
    return [file for images in found for file in (images, _labels_of(images))]


def _labels_of(images: Path) -> Path:
    name = images.name.replace(_IMAGES, _LABELS)
    for candidate in (name, name.removesuffix(".gz"), f"{name}.gz"):
        if (images.parent / candidate).is_file():
            return images.parent / candidate
    raise DataError(f"expected the labels {shown(name)} beside {shown(images)}, but there are none; add the file")


def _read(files: list[Path]) -> Iterator[PackedImages]:
    for images, labels in zip(files[::2], files[1::2], strict=True):
        yield from_arrays(images, _subset_of(images.name), _idx_array(images, 3), _idx_array(labels, 1))


def _subset_of(name: str) -> Subset | None:
    if "t10k" in name or "test" in name:
        return "test"
    return "train" if "train" in name else None


def _idx_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Parse an IDX file: two zero bytes, type, number of dimensions, their sizes as big-endian uint32, the values."""
    start = 4 + 4 * dimensions
    try:
        # Unpacked as far as the header promises: a few kB can hold gigabytes of zeros.
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(start)
            if len(head) < start or head[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
                raise DataError(
                    f"expected an IDX file of bytes in {dimensions} dimensions, but {shown(path)} is not; replace it"
                )
            shape = tuple(int(size) for size in np.frombuffer(head, ">u4", dimensions, 4))
            require_room(path, math.prod(shape))
            values = stream.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected an IDX file, but {shown(path)} cannot be read ({error}); replace it") from None
    if len(values) != math.prod(shape):
        has = "more" if len(values) > math.prod(shape) else str(len(values))
        raise DataError(f"expected {math.prod(shape)} values in {shown(path)}, but it has {has}; replace it")
    return np.frombuffer(values, np.uint8).reshape(shape)


IDX = ArchiveKind("arrays", _files, _complete, _read)
