"""What an archive of images holds, in the form in which every kind of archive hands it on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tledge.core.errors import DataError
from tledge.core.progress import say
from tledge.core.types import Subset
from tledge.data.names import counted, shown
from tledge.data.tree import IMAGE_SUFFIXES

IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "png", "pixels", "bytes")
UNLABELLED = -1
"""The number of no class: of a test set whose classes are kept back."""
_LARGEST_PX = 65_535


@dataclass(frozen=True)
class PackedImages:
    """Images of one subset, or of none: of each its class, and suffix and content of its file, read when asked for."""

    subset: Subset | None
    images: Iterable[tuple[str, str, bytes]]


@dataclass(frozen=True)
class Columns:
    """Names of the columns of images and classes; `classes` are the names of the latter's numbers, None for none."""

    image: str
    label: str
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class ArchiveKind:
    """A kind of archive. `noun` says what its images are, for people.

    `files` finds the files of an archive at a path, in the order in which `read` takes them; none where there is no
    archive of this kind. `complete` adds what belongs to them, and refuses what does not fit together.
    """

    noun: str
    files: Callable[[Path], list[Path]]
    complete: Callable[[Path, list[Path]], list[Path]]
    read: Callable[[list[Path]], Iterator[PackedImages]]


def require_room(path: Path, size_bytes: int) -> None:
    """Refuse, before they are unpacked, arrays that do not fit this machine's memory.

    Raises:
        DataError: they do not.
    """
    import psutil

    if size_bytes > psutil.virtual_memory().available:
        raise DataError(
            f"expected arrays that fit the free memory, but {shown(path)} says that it holds {size_bytes / 1e9:,.1f} "
            "GB; replace it, or save the images as files in folders"
        )


def from_arrays(path: Path, subset: Subset | None, images: NDArray[Any], labels: NDArray[Any]) -> PackedImages:
    """Images (N, H, W), (N, H, W, 1) or (N, H, W, 3) with N labels, as PNG files.

    Raises:
        DataError: other shapes, or pixels that are neither bytes nor fractions.
    """
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    right_shape = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)
    if not right_shape or labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iuU":
        raise DataError(
            f"expected images (N, H, W) or (N, H, W, 3) and N labels, whole numbers or names, in {shown(path)}, "
            f"but got {images.shape} and {labels.shape} {labels.dtype}; reshape them"
        )
    if not all(1 <= side <= _LARGEST_PX for side in images.shape[1:3]):
        raise DataError(
            f"expected sides of 1 to {_LARGEST_PX} px in {shown(path)}, but got {images.shape[1:3]}; replace it"
        )
    return PackedImages(subset, _png_files(_bytes(path, images), labels))


def _png_files(images: NDArray[np.uint8], labels: Sequence[Any] | NDArray[Any]) -> Iterator[tuple[str, str, bytes]]:
    for pixels, label in zip(images, labels, strict=True):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG", compress_level=1)
        yield str(label), ".png", content.getvalue()


def _bytes(path: Path, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype.kind not in "iuf":
        raise DataError(f"expected pixels as numbers in {shown(path)}, but got {images.dtype}; convert them")
    if images.dtype == np.uint8 or not images.size:
        return images.astype(np.uint8)
    low, high = float(images.min()), float(images.max())
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(images * 255).astype(np.uint8)
    if images.dtype.kind in "iu" and low >= 0 and high <= 255:
        return images.astype(np.uint8)
    raise DataError(
        f"expected pixels as bytes, or as floats in 0..1, in {shown(path)}, but got {images.dtype} in "
        f"{low:g}..{high:g}; convert them"
    )


def only(names: Sequence[str]) -> str | None:
    """The one name there is, None where there are none or several."""
    return names[0] if len(names) == 1 else None


def named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of the wanted names that is there, in any case."""
    return next((name for one in wanted for name in names if name.casefold() == one), None)


def labelled(
    rows: Iterable[tuple[Path, object, str, bytes]], classes: tuple[str, ...] | None
) -> Iterator[tuple[str, str, bytes]]:
    """Class, suffix and content of the image of each row; rows without a class are left out, and how many is said.

    Args:
        rows: of each the file that it is from, its class (a number, a name, or None), name and content of its image.
        classes: names of the numbers; None where they stand for themselves.

    Raises:
        DataError: no class has a number.
    """
    unlabelled = 0
    for file, label, name, content in rows:
        if label is None:
            unlabelled += 1
        else:
            yield _class_of(file, label, classes), _suffix_of(name, content), content
    if unlabelled:
        say(f"data: left out {counted(unlabelled, 'image')} without a class")


def _class_of(file: Path, label: object, classes: tuple[str, ...] | None) -> str:
    if classes is None or not isinstance(label, int):
        return str(label)
    if not 0 <= label < len(classes):
        raise DataError(
            f"expected numbers of the {len(classes)} classes that {shown(file)} names, but got {label}; replace it"
        )
    return classes[label]


def _suffix_of(name: str, content: bytes) -> str:
    """Images are read by their content; what is no image needs the suffix of one too, to be noticed then."""
    suffix = PurePath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix
    return ".jpg" if content.startswith(b"\xff\xd8") else ".png"
