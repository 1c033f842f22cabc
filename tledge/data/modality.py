"""What kind of data a path holds: images to train on, text, or neither. Only names and, for text, words are read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high

from tledge.core.errors import DataError
from tledge.core.progress import say
from tledge.core.types import SUBSETS
from tledge.data.archives import is_archive
from tledge.data.class_folders import class_folders
from tledge.data.listing import Listing
from tledge.data.names import shown
from tledge.data.scan import image_root, list_tree
from tledge.data.tables import TABLE_SUFFIXES, TextTable, read_table
from tledge.data.tree import Folder, entries, is_dir, read_tree

TEXT_SUFFIX = ".txt"
_SHAPES = "one folder per class of images or of .txt files, or a CSV or JSONL file with a column of text"
# Names that IMDb and others give to texts without a class.
_UNLABELLED = frozenset({"unsup", "unlabeled", "unlabelled"})
# What lies in folders without being data: notes by their names, annotations of images by their kinds.
_NOTES = frozenset({"readme", "license", "licence", "notes", "thumbs", "desktop"})
_ANNOTATIONS = (".csv", ".json", ".md", ".xml", ".yaml", ".yml")
# Fewer files of the other kind are taken for captions: this share, or three of fifteen.
_STRAY_SHARE, _STRAY_FILES = 0.05, 3
_READ_AT_MOST = 500


@dataclass(frozen=True)
class ImageData:
    """Images in folders or arrays."""

    root: Path


@dataclass(frozen=True)
class TextData:
    """Texts: `labelled` ones with a class, `unlabelled` ones without; those of a test folder are not counted.

    `median_words` is of a sample. `classes` is empty where no column looks like labels; `columns` are those of text and
    label in a table.
    """

    root: Path
    classes: tuple[str, ...]
    labelled: int
    unlabelled: int
    median_words: int
    columns: tuple[str, str | None] | None = None


def detect(path: Path, tree: Folder | None = None) -> ImageData | TextData:
    """Say what kind of data is at a path.

    Args:
        path: the data.
        tree: the folder of its images as it was read a moment ago; None where nobody has.

    Raises:
        DataError: nothing there, images and texts mixed, or neither.
    """
    if not path.exists():
        raise DataError(f"expected data ({_SHAPES}), but {shown(path)} does not exist; check the path")
    if is_archive(path):
        return ImageData(path)
    if path.is_file():
        if path.suffix.lower() not in TABLE_SUFFIXES:
            raise DataError(
                f"expected {_SHAPES}, but {shown(path)} is a {path.suffix or 'bare'} file; pass another path"
            )
        return _of_table(path, read_table(path))
    images, files = _class_files(read_tree(image_root(path)) if tree is None else tree)
    files = [file for file in files if file.stem.lower() not in _NOTES]
    suffixes = Counter(file.suffix.lower() for file in files)
    texts = suffixes[TEXT_SUFFIX]
    others = sum(suffixes.values()) - texts - sum(suffixes[suffix] for suffix in _ANNOTATIONS)
    if not images + texts:
        raise DataError(f"expected {_SHAPES}, but {shown(path)} holds {_found(path, files)}")
    stray = max(_STRAY_SHARE * (images + texts), min(_STRAY_FILES, (images + texts) / 5))
    if min(images, texts) > stray:
        raise DataError(
            f"expected images or texts in {shown(path)}, but it mixes {images} images and {texts} .txt files; "
            "move one kind away"
        )
    if others >= max(images, texts):
        raise DataError(
            f"expected images or texts in {shown(path)}, but it mixes {images} images and {_counted(files)} files; "
            "move other kinds away"
        )
    return ImageData(path) if images > texts else _of_folder(path, files)


def images_to_train(path: Path, labels_from: str | None = None) -> Listing:
    """List the images at a path, as `list_images` does; texts and mixtures are refused by what they are.

    What was understood is said before anything slow.

    Raises:
        DataError: texts, a mixture, or what `list_images` refuses.
    """
    found = images_or_texts(path, labels_from)
    if isinstance(found, Listing):
        return found
    raise DataError(
        f"expected images, but {shown(path)} holds texts, and tledge trains images; `tledge select {shown(path)}` says "
        "which text model suits them"
    )


def images_or_texts(path: Path, labels_from: str | None = None) -> Listing | TextData:
    """List the images at a path, or say what texts there are. What was understood of images is said.

    Args:
        path: the data.
        labels_from: as for `list_images`; then they are images.

    Raises:
        DataError: a mixture, or what `list_images` refuses.
    """
    try:
        listing, tree = list_tree(path, labels_from)
    except DataError:
        if labels_from is not None or not _is_text(path):
            raise
        return detect(path)  # type: ignore[return-value]  # which it was a moment ago
    # Where a table tells the classes of flat files, there are no folders that texts could be in.
    in_folders = labels_from is None and any("/" in file.path for file in listing.files)
    if in_folders and isinstance(found := detect(path, tree), TextData):
        return found
    say(f"data: {listing.understood}")
    return listing


def _is_text(path: Path) -> bool:
    try:
        return isinstance(detect(path), TextData)
    except (DataError, OSError):
        return False


def _class_files(tree: Folder) -> tuple[int, list[Path]]:
    """How many images there are in folders of classes, and the other files there.

    What lies beside these folders is a note to people. Texts of a class stand in its own folder, images at any depth.
    """
    if classes := class_folders(tree):
        files = [folder.path / name for one in classes for folder in one.walk() for name in folder.others]
        # Beside a class of images there may be one of texts alone, which is then a mixture.
        files += [file for file in _text_files(tree) if not any(file.is_relative_to(one.path) for one in classes)]
        return sum(one.n for one in classes), files
    return 0, _text_files(tree)


def _text_files(tree: Folder) -> list[Path]:
    parts = [one for one in tree.folders if one.name in SUBSETS] if _is_split(tree) else [tree]
    return [inner.path / name for part in parts for inner in part.folders for name in inner.others]


def _is_split(tree: Folder) -> bool:
    """Whether folders of texts are in train, val and test folders."""
    return any(one.name == "train" and one.folders for one in tree.folders)


def _found(root: Path, files: list[Path]) -> str:
    """What a folder without images and texts in folders of classes holds instead, and what to do."""
    if files:
        return f"{_counted(files)} in folders of classes; check the path"
    loose = [entry for entry in entries(root) if not is_dir(entry)]
    if any(file.suffix.lower() in TABLE_SUFFIXES for file in loose):
        return f"{_counted(loose)} and nothing in folders of classes; pass one of the files"
    if loose:
        return f"{_counted(loose)} and nothing in folders of classes; sort the files into folders"
    return "no files in folders of classes; check the path"


def _counted(files: list[Path]) -> str:
    suffixes = Counter(file.suffix.lower() for file in files)
    return ", ".join(f"{count} {suffix or 'bare'}" for suffix, count in suffixes.most_common(3))


def _of_folder(root: Path, files: list[Path]) -> TextData:
    held_out = root / "test" if _is_split(read_tree(root)) else None
    texts = [file for file in files if file.suffix.lower() == TEXT_SUFFIX and file.parent.parent != held_out]
    free = sum(file.parent.name.lower() in _UNLABELLED for file in texts)
    classes = tuple(sorted({f.parent.name for f in texts if f.parent.name.lower() not in _UNLABELLED}))
    step = max(1, len(texts) // _READ_AT_MOST)
    words = [len(file.read_text(encoding="utf-8", errors="replace").split()) for file in texts[::step]]
    if not any(words):
        raise DataError(f"expected texts in {shown(root)}, but the {len(words)} that were read are empty; check them")
    return TextData(root, classes, len(texts) - free, free, median_high(words), None)


def _of_table(path: Path, table: TextTable) -> TextData:
    words = [len(text.split()) for text in table.texts[:: max(1, len(table.texts) // _READ_AT_MOST)]]
    labels = [label for label in table.labels if label] if table.labels is not None else []
    columns = (table.text_column, table.label_column)
    unlabelled = len(table.texts) - len(labels)
    return TextData(path, tuple(sorted(set(labels))), len(labels), unlabelled, median_high(words), columns)
