"""What is in a folder and the folders in it: images by suffix or by their first bytes, other files by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tledge.core.errors import DataError
from tledge.data.names import is_writable, shown

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
UNREAD_SUFFIXES = (
    *(".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".ico", ".jp2", ".jxl", ".nef", ".orf", ".psd", ".raf", ".rw2"),
    *(".svg", ".tga"),
)
"""Kinds of images that tledge does not read; they are counted where they are left out."""
# What programs and systems leave in folders of images. Hidden entries are passed over as well.
_DEBRIS = frozenset(
    (
        *("$recycle.bin", "@eadir", "__macosx", "__pycache__", "lost+found", "node_modules"),
        *("system volume information", "venv"),
    )
)
_DEBRIS_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
# Files of these suffixes are not opened to see whether they are images.
_NO_IMAGES = frozenset(
    (
        # Halves of downloads and copies of editors begin like images.
        *(".bak", ".crdownload", ".download", ".orig", ".part", ".tmp"),
        *(".avi", ".bin", ".cfg", ".csv", ".db", ".doc", ".docx", ".gz", ".h5", ".html", ".ini", ".ipynb", ".json"),
        *(".jsonl", ".keras", ".log", ".mat", ".md", ".mov", ".mp3", ".mp4", ".ndjson", ".npy", ".npz", ".onnx"),
        *(".parquet", ".pdf", ".pickle", ".pkl", ".pt", ".pth", ".py", ".rar", ".sh", ".tar", ".tfrecord", ".tgz"),
        *(".tflite", ".toml", ".tsv", ".txt", ".wav", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip"),
        *UNREAD_SUFFIXES,
    )
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_BYTES_LOOKED_AT = 16


@dataclass(frozen=True)
class Folder:
    """A folder as it was read: names of the images and of the other files in it, and the folders in it, sorted.

    `relative` is its path below the root, with forward slashes; empty for the root.
    """

    path: Path
    relative: str
    folders: tuple[Folder, ...]
    images: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its own name."""
        return self.path.name

    @cached_property
    def n(self) -> int:
        """Images in it and in all folders in it."""
        return len(self.images) + sum(folder.n for folder in self.folders)

    @cached_property
    def holding(self) -> tuple[Folder, ...]:
        """The folders in it that hold images, at any depth."""
        return tuple(folder for folder in self.folders if folder.n)

    def below(self, name: str) -> str:
        """The path below the root of what is in this folder."""
        return f"{self.relative}/{name}" if self.relative else name

    def image_paths(self) -> Iterator[str]:
        """Paths below the root of all images in it, at any depth.

        Raises:
            DataError: a name that cannot be written down.
        """
        for name in self.images:
            path = self.below(name)
            if not is_writable(path):
                _refuse_name(self.path, path)
            yield path
        for folder in self.holding:
            yield from folder.image_paths()

    def walk(self) -> Iterator[Folder]:
        """This folder and all folders in it."""
        yield self
        for folder in self.folders:
            yield from folder.walk()


def read_tree(root: Path) -> Folder:
    """Read a folder and all folders in it. What is hidden is passed over, and so is a link to a folder around it.

    Raises:
        DataError: a folder that gives no permission, or is unusable.
    """
    return _read(root, "", frozenset())


def _read(folder: Path, relative: str, around: frozenset[tuple[int, int]]) -> Folder:
    if (place := _place(folder)) in around:
        return Folder(folder, relative, (), (), ())
    folders, images, others = [], [], []
    for entry in _entries(folder):
        if _is_dir_entry(entry):
            inner = f"{relative}/{entry.name}" if relative else entry.name
            folders.append(_read(folder / entry.name, inner, around | {place}))
        elif _is_image(entry):
            images.append(entry.name)
        else:
            others.append(entry.name)
    return Folder(folder, relative, tuple(folders), tuple(images), tuple(others))


def holds_images(folder: Path) -> bool:
    """Whether a folder holds an image at any depth; reading stops at the first.

    Raises:
        DataError: as `read_tree`.
    """
    return _holds_images(folder, frozenset())


def _holds_images(folder: Path, around: frozenset[tuple[int, int]]) -> bool:
    if (place := _place(folder)) in around:
        return False
    found = _entries(folder)
    inner = [entry for entry in found if _is_dir_entry(entry)]
    if any(_is_image(entry) for entry in found if not _is_dir_entry(entry)):
        return True
    return any(_holds_images(folder / entry.name, around | {place}) for entry in inner)


def images_and_folders(folder: Path) -> tuple[bool, list[Path]]:
    """Whether there are images directly in a folder, and the folders in it.

    Raises:
        DataError: as `read_tree`.
    """
    found = _entries(folder)
    folders = [folder / entry.name for entry in found if _is_dir_entry(entry)]
    return any(_is_image(entry) for entry in found if not _is_dir_entry(entry)), folders


def is_dir(path: Path) -> bool:
    """`Path.is_dir`, but what may not be looked at is an error.

    Raises:
        DataError: no permission, or an unusable path.
    """
    # Path.is_dir answers False for what is missing, but raises where a parent folder may not be searched.
    try:
        return path.is_dir()
    except PermissionError:
        raise _no_permission(path.parent) from None
    except OSError as error:
        raise _unusable(path, error) from None


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted; hidden entries and what programs leave there are left out.

    Raises:
        DataError: no permission, or an unusable folder.
    """
    return [folder / entry.name for entry in _entries(folder)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            kept = [entry for entry in found if not entry.name.startswith(".")]
    except PermissionError:
        raise _no_permission(folder) from None
    except OSError as error:
        raise _unusable(folder, error) from None
    # Kinds of entries are known without it, but their content is out of reach.
    if not os.access(folder, os.X_OK):
        raise _no_permission(folder)
    return sorted((one for one in kept if not _is_debris(one)), key=lambda entry: entry.name)


def _is_debris(entry: os.DirEntry[str]) -> bool:
    name = entry.name.casefold()
    return (name in _DEBRIS and _is_dir_entry(entry)) or name in _DEBRIS_FILES


def _is_dir_entry(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in circles, or into a place that gives no permission
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in _NO_IMAGES or entry.name.endswith("~"):
        return False
    # A broken link counts: it is reported by name when it is read. A pipe would block the reader for ever.
    if suffix in IMAGE_SUFFIXES:
        return entry.is_symlink() or entry.is_file()
    return _begins_like_an_image(entry)


def _begins_like_an_image(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_file():
            return False
        with open(entry.path, "rb") as stream:
            begin = stream.read(_BYTES_LOOKED_AT)
    except OSError:
        return False
    if begin.startswith(b"RIFF"):
        return begin[8:12] == b"WEBP"
    if begin[4:8] == b"ftyp":
        return begin[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1")
    return begin.startswith(_SIGNATURES)


def _place(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except PermissionError:
        raise _no_permission(folder.parent) from None
    except OSError as error:
        raise _unusable(folder, error) from None
    return found.st_dev, found.st_ino


def _no_permission(folder: Path) -> DataError:
    return DataError(f"expected a readable folder, but {shown(folder)} gives no permission; change its mode")


def _unusable(folder: Path, error: OSError) -> DataError:
    return DataError(f"expected a readable folder, but {shown(folder)} is not ({error.strerror}); check it")


def _refuse_name(folder: Path, path: str) -> None:
    # Names go into split.csv and, those of classes, into labels.txt and the artefacts.
    odd = next(part for part in path.split("/") if not is_writable(part))
    where = folder
    while where.name == odd:
        where = where.parent
    raise DataError(
        f"expected names in UTF-8 without line breaks or control characters, but got {odd!a} in {shown(where)}; "
        "rename it"
    )
