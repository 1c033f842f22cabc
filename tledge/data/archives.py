"""Images that come packed, as arrays for example: unpacked once into a folder of files.

Every later stage, on this machine or another, then reads them as it reads any images. A kind of archive is a module and
a line of `KINDS`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tledge.core.errors import DataError
from tledge.core.files import held, remove_stale, sha256_file
from tledge.core.user_folders import unpacked_folder
from tledge.data.idx import IDX
from tledge.data.names import is_writable
from tledge.data.npz import NPZ
from tledge.data.packed import ArchiveKind, PackedImages
from tledge.data.parquet import PARQUET
from tledge.data.tfds import TFDS

KINDS = (NPZ, IDX, PARQUET, TFDS)
# Says how many images there are; hidden, so that no listing names it.
_COUNT = ".count"


def is_archive(path: Path) -> bool:
    """Whether images at a path are packed: an .npz file, IDX, Parquet or TFDS's files, or a folder of them."""
    return kind_of(path) is not None


def kind_of(path: Path) -> ArchiveKind | None:
    """The kind of archive that is at a path, None where there is none."""
    return next((kind for kind in KINDS if kind.files(path)), None)


def unpack(path: Path) -> Path:
    """Write an archive's images as `class/number.png` (or `.jpg`), below `train/`, `val/` and `test/` if it says so.

    The folder is in the user's cache, named by the content: the same archive is unpacked once, and again where some of
    its images are gone.

    Args:
        path: what `is_archive` accepts; IDX files may be compressed (.gz).

    Raises:
        DataError: truncated, other arrays or columns than images and labels, or as many labels as images are missing.
        MissingDependencyError: Parquet files, and pyarrow is not installed.
    """
    kind = kind_of(path)
    assert kind is not None
    files = kind.complete(path, kind.files(path))
    top = path if path.is_dir() else path.parent
    lines = (f"{file.relative_to(top).as_posix()} {sha256_file(file)}\n" for file in files)
    digest = hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
    folder = unpacked_folder() / digest[:16]
    if _is_whole(folder):
        return folder
    parts = list(kind.read(files))
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder.parent)
    staged = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    staged.mkdir()
    try:
        with held(staged):
            count = sum(_write(staged / part.subset if part.subset else staged, part) for part in parts)
            (staged / _COUNT).write_text(str(count))
            if not _is_whole(folder):
                shutil.rmtree(folder, ignore_errors=True)  # what a sweep of the cache left of it
                staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds as many images as were unpacked into it."""
    try:
        count = (folder / _COUNT).read_bytes()
    except OSError:
        return False
    return count == b"%d" % (sum(name[0] != "." for _, _, files in os.walk(folder) for name in files))


def _write(folder: Path, part: PackedImages) -> int:
    """Write images into folders of their classes; how many there were."""
    known: set[str] = set()
    count = 0
    for label, suffix, content in part.images:
        if label not in known:
            if not is_writable(label) or label in ("", ".", "..") or "/" in label:
                raise DataError(f"expected labels that can name folders, but got {label!r}; rename the class")
            (folder / label).mkdir(parents=True, exist_ok=True)
            known.add(label)
        (folder / label / f"{count:06d}{suffix}").write_bytes(content)
        count += 1
    return count
