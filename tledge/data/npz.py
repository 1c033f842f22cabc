"""NumPy's .npz: arrays of images and labels under the names that Keras, MedMNIST and others give them."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import DataError
from tledge.core.foreign import foreign
from tledge.core.types import SUBSETS
from tledge.data.names import shown
from tledge.data.packed import ArchiveKind, PackedImages, from_arrays, require_room

# How the arrays of an .npz are called: by Keras, by MedMNIST, by scikit-learn, and plainly.
_SPLIT_NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
_WHOLE_NAMES = (("x", "y"), ("images", "labels"), ("data", "target"))


def _files(path: Path) -> list[Path]:
    return [path] if path.suffix == ".npz" and path.is_file() else []


def _read(files: list[Path]) -> Iterator[PackedImages]:
    (path,) = files

    def refusal(reason: str) -> DataError:
        return DataError(f"expected arrays in {shown(path)}, but it cannot be read ({reason}); replace it")

    # Headers are Python literals inside a zip: NumPy and zipfile have a dozen exceptions for damaged ones.
    with foreign(refusal):
        arrays = _arrays(path)
    for images, labels in _SPLIT_NAMES:
        found = [s for s in SUBSETS if {images.format(s), labels.format(s)} <= arrays.keys()]
        if "train" in found:
            yield from (from_arrays(path, s, arrays[images.format(s)], arrays[labels.format(s)]) for s in found)
            return
    for images, labels in _WHOLE_NAMES:
        if {images, labels} <= arrays.keys():
            yield from_arrays(path, None, arrays[images], arrays[labels])
            return
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
        require_room(path, sum(member.file_size for member in members.infolist()))
        found = {name: value for name in archive.files if isinstance(value := archive[name], np.ndarray)}
    for name, value in found.items():
        # NumPy takes text as it is; Python cannot even print what is beyond the last character.
        codes = np.frombuffer(value.astype("<U").tobytes() if value.dtype.kind == "U" else b"", "<u4")
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{name} holds numbers that are no characters")
    return found


NPZ = ArchiveKind("arrays", _files, lambda _, files: files, _read)
