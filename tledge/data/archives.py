"""Images that come as arrays: MNIST's IDX files and NumPy's .npz, unpacked once into a folder of PNG files.

Every later stage, on this machine or another, then reads them as it reads any images.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tledge.core.errors import DataError
from tledge.core.files import held, remove_stale, sha256_file
from tledge.core.foreign import foreign
from tledge.core.types import SUBSETS, Subset
from tledge.core.user_folders import unpacked_folder
from tledge.data.names import is_writable, shown

_IMAGES, _LABELS = "images-idx3", "labels-idx1"
# How the arrays of an .npz are called: by Keras, by MedMNIST, by scikit-learn, and plainly.
_SPLIT_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
_WHOLE_NAMES = (("x", "y"), ("images", "labels"), ("data", "target"))
_UNSIGNED_BYTE = 8
_LARGEST_PX = 65_535
# Says how many images there are; hidden, so that no listing names it.
_COUNT = ".count"


@dataclass(frozen=True)
class _Part:
    """Images (N, H, W) or (N, H, W, 3) uint8 with their labels, of one subset or of none."""

    subset: Subset | None
    images: NDArray[np.uint8]
    labels: NDArray[Any]


def is_archive(path: Path) -> bool:
    """Whether a path is an .npz file, an IDX file of images, or a folder with IDX files of images."""
    if path.is_dir():
        return bool(_idx_images(path))
    return path.is_file() and (path.suffix == ".npz" or _IMAGES in path.name)


def unpack(path: Path) -> Path:
    """Write an archive's images as `class/number.png`, below `train/`, `val/` and `test/` if it says which is which.

    The folder is in the user's cache, named by the content: the same archive is unpacked once, and again where some of
    its images are gone.

    Args:
        path: what `is_archive` accepts; IDX files may be compressed (.gz).

    Raises:
        DataError: truncated, other arrays than images and labels, or as many labels as images are missing.
    """
    files = _files(path)
    digest = hashlib.sha256("".join(f"{file.name} {sha256_file(file)}\n" for file in files).encode()).hexdigest()
    folder = unpacked_folder() / digest[:16]
    if _is_whole(folder):
        return folder
    parts = list(_read_npz(path) if path.suffix == ".npz" else _read_idx(files))
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder.parent)
    staged = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    staged.mkdir()
    try:
        with held(staged):
            for part in parts:
                _write(staged / part.subset if part.subset else staged, part)
            (staged / _COUNT).write_text(str(sum(len(part.images) for part in parts)))
            if not _is_whole(folder):
                shutil.rmtree(folder, ignore_errors=True)  # what a sweep of the cache left of it
                staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds as many images as were unpacked into it."""
    try:
        count = (folder / _COUNT).read_text()
    except OSError:
        return False
    return count == str(sum(1 for _ in folder.rglob("*.png")))


def _write(folder: Path, part: _Part) -> None:
    for label in np.unique(part.labels):
        name = str(label)
        if not is_writable(name) or name in ("", ".", "..") or "/" in name:
            raise DataError(f"expected labels that can name folders, but got {name!r}; rename the class")
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, (pixels, label) in enumerate(zip(part.images, part.labels, strict=True)):
        Image.fromarray(pixels).save(folder / str(label) / f"{index:06d}.png", compress_level=1)


def _files(path: Path) -> list[Path]:
    if path.suffix == ".npz":
        return [path]
    found = _idx_images(path) if path.is_dir() else [path]
    subsets = [_subset_of(images.name) for images in found]
    for position, subset in enumerate(subsets):
        if subset in subsets[:position] or (subset is None and len(found) > 1):
            what = "neither train nor test" if subset is None else f"the second for {subset}"
            raise DataError(
                f"expected at most one IDX file of images for train and one for test in {shown(path)}, but "
                f"{shown(found[position].name)} is {what}; move files away, or pass one of them"
            )
    return [file for images in found for file in (images, _labels_of(images))]


def _idx_images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(f"*{_IMAGES}*") if file.is_file())


def _labels_of(images: Path) -> Path:
    name = images.name.replace(_IMAGES, _LABELS)
    for candidate in (name, name.removesuffix(".gz"), f"{name}.gz"):
        if (images.parent / candidate).is_file():
            return images.parent / candidate
    raise DataError(f"expected the labels {shown(name)} beside {shown(images)}, but there are none; add the file")


def _read_idx(files: list[Path]) -> Iterator[_Part]:
    for images, labels in zip(files[::2], files[1::2], strict=True):
        yield _part(images, _subset_of(images.name), _idx_array(images, 3), _idx_array(labels, 1))


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
            _require_room(path, math.prod(shape))
            values = stream.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected an IDX file, but {shown(path)} cannot be read ({error}); replace it") from None
    if len(values) != math.prod(shape):
        has = "more" if len(values) > math.prod(shape) else str(len(values))
        raise DataError(f"expected {math.prod(shape)} values in {shown(path)}, but it has {has}; replace it")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _require_room(path: Path, size_bytes: int) -> None:
    """Refuse, before they are unpacked, arrays that do not fit this machine's memory."""
    import psutil

    if size_bytes > psutil.virtual_memory().available:
        raise DataError(
            f"expected arrays that fit the free memory, but {shown(path)} says that it holds {size_bytes / 1e9:,.1f} "
            "GB; replace it, or save the images as files in folders"
        )


def _read_npz(path: Path) -> list[_Part]:

    def refusal(reason: str) -> DataError:
        return DataError(f"expected arrays in {shown(path)}, but it cannot be read ({reason}); replace it")

    # Headers are Python literals inside a zip: NumPy and zipfile have a dozen exceptions for damaged ones.
    with foreign(refusal):
        arrays = _arrays(path)
    for images, labels in _SPLIT_NAMES:
        found = [s for s in SUBSETS if {images.format(s), labels.format(s)} <= arrays.keys()]
        if "train" in found:
            return [_part(path, s, arrays[images.format(s)], arrays[labels.format(s)]) for s in found]
    for images, labels in _WHOLE_NAMES:
        if {images, labels} <= arrays.keys():
            return [_part(path, None, arrays[images], arrays[labels])]
    raise DataError(
        f"expected x_train and y_train, train_images and train_labels, x and y, or images and labels in {shown(path)}, "
        f"but it holds {', '.join(sorted(arrays)) or 'nothing'}; rename the arrays"
    )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz file by name; what else is in it is left alone, and nothing is unpickled."""
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(
            f"expected several named arrays in {shown(path)}, but it is a single one (.npy); save images and "
            "labels with numpy.savez"
        )
    with archive, zipfile.ZipFile(path) as members:
        _require_room(path, sum(member.file_size for member in members.infolist()))
        return {name: value for name in archive.files if isinstance(value := archive[name], np.ndarray)}


def _part(path: Path, subset: Subset | None, images: NDArray[Any], labels: NDArray[Any]) -> _Part:
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
    return _Part(subset, _bytes(path, images), labels)


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
