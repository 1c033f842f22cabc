"""Arrays of any size: in memory while they are small, else in a mapped file."""

from __future__ import annotations

import contextlib
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tledge.core.files import reserve

BUDGET_BYTES = 1 << 30


def fits_memory(shape: tuple[int, ...], kind: DTypeLike = np.float32) -> bool:
    """Whether an array is small enough to be in memory."""
    return math.prod(shape) * np.dtype(kind).itemsize <= BUDGET_BYTES


def allocate(shape: tuple[int, ...], folder: Path | None, kind: DTypeLike = np.float32) -> NDArray[Any]:
    """An array of any content; a large one is in a file in `folder` that is gone with it, None: in memory.

    Raises:
        OSError: the disk has no room.
    """
    if folder is None or fits_memory(shape, kind):
        return np.empty(shape, kind)
    folder.mkdir(parents=True, exist_ok=True)
    file = Path(tempfile.mkdtemp(dir=folder, prefix=".")) / "values"
    values = mapped(file, shape, kind)
    with contextlib.suppress(OSError):  # where a mapped file cannot be removed, it goes with the folder
        file.unlink()
        file.parent.rmdir()
    return values


def mapped(file: Path, shape: tuple[int, ...], kind: DTypeLike = np.float32) -> NDArray[Any]:
    """A file as an array, with what it held if it has its size.

    Raises:
        OSError: the disk has no room.
    """
    reserve(file, math.prod(shape) * np.dtype(kind).itemsize)
    return np.memmap(file, kind, "r+", shape=shape)
