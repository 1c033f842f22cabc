"""Classes that stand elsewhere than in the names of folders: in those of the files, or in a table."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tledge.core.errors import DataError
from tledge.core.settings import Settings, option
from tledge.core.types import Subset
from tledge.data.names import counted, is_writable, listed, normal, shown
from tledge.data.subsets import subset_called
from tledge.data.tables import TABLE_SUFFIXES, read_columns

NAMES = "names"
_PATH_NAMES = (
    *("path", "file_name", "filename", "file", "filepath", "file_path", "image_path", "image", "img", "img_path"),
    *("image_name", "image_id", "img_name", "id", "id_code", "name", "images", "fname"),
)
LABEL_NAMES = (
    *("label", "class", "category", "target", "class_name", "label_name", "labels", "classes", "y", "species"),
    *("breed", "diagnosis", "dx", "class_id", "classid", "label_id", "type"),
)
_SUBSET_NAMES = ("subset", "split", "set", "partition", "part", "fold")
# `cat.0`, `great_pyrenees_12`, `dog (3)`, `n01440764_10026`: a name with a letter in it, then a number.
_NUMBERED = re.compile(r"(?P<label>.*?[^\W\d_].*?)[\s._-]*\(?\d+\)?")
_LEAST_OF_A_CLASS = 2


@dataclass(frozen=True)
class DataSettings(Settings):
    """How the classes of images are told, where folders do not.

    `labels_from` is `names` for files like `cat.12.jpg`, or a CSV or JSONL file with a column of paths and one of
    labels, and perhaps one of subsets; None for folders.
    """

    labels_from: str | None = option(
        None,
        help="Where classes are told if not by folders: names (cat.12.jpg is a cat), or a CSV or JSONL file with "
        "columns path, label and perhaps subset.",
        metavar="names|FILE",
    )


FOLDERS: DataSettings = DataSettings()
"""One folder a class."""


@dataclass(frozen=True)
class Labelled:
    """One image of a table or named by its class: its path below the root, its class, None for none, its subset."""

    path: str
    label: str | None
    subset: Subset | None


def label_in_name(path: str) -> str | None:
    """The class that a file's name begins with, before its number: `cat` of `train/cat.0.jpg`; None without both."""
    found = _NUMBERED.fullmatch(posixpath.splitext(posixpath.basename(path))[0])
    return found["label"] if found else None


def labels_in_names(paths: Sequence[str]) -> dict[str, str | None]:
    """The class that each file's name tells; a name without a number is a class where others with a number tell it.

    Args:
        paths: of the images, with forward slashes.
    """
    labels = {path: label_in_name(path) for path in paths}
    known = {label for label in labels.values() if label is not None}
    for path, label in labels.items():
        if label is None and (stem := posixpath.splitext(posixpath.basename(path))[0]) in known:
            labels[path] = stem
    return labels


def names_tell(paths: Sequence[str]) -> tuple[str, ...]:
    """The classes that names of files seem to tell, sorted; empty where they are names of another kind."""
    counts = Counter(label for label in labels_in_names(paths).values() if label is not None)
    often = {label: count for label, count in counts.items() if count >= _LEAST_OF_A_CLASS}
    return tuple(sorted(often)) if len(often) > 1 and 2 * sum(often.values()) > len(paths) else ()


@dataclass(frozen=True)
class LabelTable:
    """A table of images: its columns of paths, labels and subsets (None for none), and the cells of each row."""

    file: Path
    columns: tuple[str, str, str | None]
    rows: tuple[tuple[str, str, str], ...]


def read_labels(file: Path) -> LabelTable:
    """Read a table of images; columns are found by their names, or are the only two.

    Args:
        file: .csv, .tsv, .jsonl or .ndjson, UTF-8, whose first line names the columns.

    Raises:
        DataError: unreadable, empty, or without columns of paths and labels.
    """
    if file.suffix.lower() not in TABLE_SUFFIXES or not file.is_file():
        state = "is no such file" if file.is_file() else "does not exist"
        raise DataError(
            f"expected `names` or a table ({', '.join(TABLE_SUFFIXES)}) for --labels-from, but {shown(file)} {state}; "
            "correct it"
        )
    columns = read_columns(file)
    path, label = _column(columns, _PATH_NAMES), _column(columns, LABEL_NAMES)
    subset = _column(columns, _SUBSET_NAMES)
    if (
        path is not None
        and label is None
        and len(rest := [name for name in columns if name not in (path, subset)]) == 1
    ):
        (label,) = rest
    if path is None or label is None or path == label:
        raise DataError(
            f"expected columns path and label in {shown(file)}, but it has {listed(columns, 10)}; rename the "
            "columns of the images' paths and of their classes"
        )
    cells = (columns[path], columns[label], columns[subset] if subset else [""] * len(columns[path]))
    rows = ((p.strip(), one.strip(), s.strip()) for p, one, s in zip(*cells, strict=True))
    return LabelTable(file, (path, label, subset), tuple(row for row in rows if row[0]))


def _column(columns: Mapping[str, Sequence[str]], names: Iterable[str]) -> str | None:
    lowered = {name.strip().casefold().replace(" ", "_"): name for name in reversed(list(columns))}
    return next((lowered[name] for name in names if name in lowered), None)


def rows_of(table: LabelTable, root: Path, data: Path, images: Sequence[str]) -> list[Labelled]:
    """Find the images of a table's rows: by path below the data folder, the root or the table, else by name alone.

    A row whose image is not there keeps its path, so that reading it names the file.

    Args:
        table: which images, which classes.
        root: what paths are relative to.
        data: the folder that was asked for: the root or one around it.
        images: paths of the images below the root.

    Returns:
        One entry for each image that a row speaks of.

    Raises:
        DataError: no image is there, an image has two classes, or a subset has an unknown name.
    """
    finder = _Finder(table, root, data, images)
    found: dict[str, Labelled] = {}
    for cell, label, subset_name in table.rows:
        path = finder.find(cell)
        if not is_writable(path) or not is_writable(label):
            raise DataError(
                f"expected names without control characters in {shown(table.file)}, but got {cell!a}, {label!a}; "
                "correct them"
            )
        if posixpath.isabs(path) or path.split("/")[0] == "..":
            raise DataError(
                f"expected the images of {shown(table.file)} in {shown(data)}, but {shown(cell)} is not; pass the "
                "folder that holds them all"
            )
        one = Labelled(path, label or None, _subset(table, subset_name))
        if (other := found.setdefault(path, one)) != one:
            raise DataError(
                f"expected each image once in {shown(table.file)}, but {shown(cell)} is {other.label!r} and "
                f"{one.label!r}; correct the table: tledge trains one class an image"
            )
    if not set(images) & found.keys():
        first = shown(table.rows[0][0]) if table.rows else "nothing"
        raise DataError(
            f"expected the images of {shown(table.file)} in {shown(data)}, but none of its "
            f"{counted(len(table.rows), 'path')} is there, such as {first}; pass the folder that the paths start from"
        )
    return list(found.values())


def _subset(table: LabelTable, name: str) -> Subset | None:
    if table.columns[2] is None:
        return None
    subset = subset_called(name)
    if subset is None:
        raise DataError(
            f"expected train, val or test in the column {table.columns[2]} of {shown(table.file)}, but got {name!r}; "
            "correct it, or rename the column if it means something else"
        )
    return subset


class _Finder:
    """Images by what tables call them."""

    def __init__(self, table: LabelTable, root: Path, data: Path, images: Sequence[str]) -> None:
        self._images = {normal(path): path for path in images}
        self._root = normal(root.absolute().as_posix())
        # What a path of the table may be relative to.
        starts = (data, root, table.file.parent)
        self._starts = list(dict.fromkeys(normal(start.absolute().as_posix()) for start in starts))
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in images:
            name = normal(posixpath.basename(path))
            for key in {name, posixpath.splitext(name)[0]}:
                self._by_name[key].append(path)
        self._table = table

    def find(self, cell: str) -> str:
        """The path below the root of what a cell names, or what it would be."""
        text = normal(_slashes(cell))
        for start in self._starts:
            whole = posixpath.normpath(posixpath.join(start, text))
            if path := self._images.get(whole.removeprefix(f"{self._root}/")):
                return path
        same = self._by_name.get(posixpath.basename(text), [])
        if "/" in text:
            same = [path for path in same if _is_end(text, normal(path)) or _is_end(normal(path), text)]
        if len(same) > 1:
            same = [path for path in same if posixpath.dirname(path) == self._folder_of_most]
        return same[0] if len(same) == 1 else _slashes(cell)

    @cached_property
    def _folder_of_most(self) -> str:
        """The folder that holds the most of a table's names, for names that several folders have; train first."""
        counts: Counter[str] = Counter()
        for cell, _, _ in self._table.rows:
            same = self._by_name.get(normal(posixpath.basename(_slashes(cell))), [])
            counts.update({posixpath.dirname(path) for path in same})
        return max(counts, key=lambda folder: (counts[folder], _is_of_train(folder), folder), default="")


def _slashes(cell: str) -> str:
    return cell.replace("\\", "/")


def _is_end(end: str, path: str) -> bool:
    return path.endswith(f"/{end}")


def _is_of_train(folder: str) -> bool:
    return any(subset_called(part) == "train" for part in folder.split("/"))
