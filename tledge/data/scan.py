"""Find the images of a data folder and their classes: in folders, by names of files, in a table, or in arrays.

What is understood depends on names alone: no pixel is read.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tledge.core.errors import DataError
from tledge.data.archives import is_archive, kind_of, unpack
from tledge.data.class_folders import (
    class_first,
    divided,
    division_of,
    folders_by_subset,
    inside,
    only_subset,
    refuse_copies_beside,
    subset_of,
    subsets_by_folder,
    undivided,
    unread_in,
)
from tledge.data.label_source import NAMES, LabelTable, labels_in_names, names_tell, read_labels, rows_of
from tledge.data.listing import Found, ImageFile, Listing
from tledge.data.names import counted, listed, normal, shown
from tledge.data.subsets import are_no_classes, subset_called
from tledge.data.tables import TABLE_SUFFIXES
from tledge.data.tree import (
    IMAGE_SUFFIXES,
    Folder,
    holds_images,
    images_and_folders,
    is_dir,
    read_tree,
)

_SHAPE = "one folder per class with images in it, or train/, val/ and test/ folders of that shape"
_NO_TABLE = "sort them into one folder a class, or add --labels-from FILE, a CSV with columns path and label"
# Of Hugging Face's image folders.
_METADATA = ("metadata.csv", "metadata.jsonl")
_TABLES_TRIED = 5
_PACKED = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z", ".bz2", ".xz")


def list_images(data: Path, labels_from: str | None = None) -> Listing:
    """List the images of a data folder without reading a pixel; arrays (.npz, IDX) are unpacked first.

    Folders are classes, read to any depth, or subsets of such folders in any usual spelling (`train`, `Validation`,
    `test1`, `seg_train`); folders around all of these are passed through. Subsets without class folders, and images
    beside class folders, are left out and named in the notes.

    Args:
        data: the data folder, or an archive as `tledge.data.archives` reads it.
        labels_from: as of `tledge.data.label_source.DataSettings`.

    Raises:
        DataError: no such folder, a damaged archive, no permission, no images, fewer than two classes, classes that
            are names of subsets, a class of val or test that train lacks, two folders for one subset, a table that
            does not fit, or a name that cannot be written down.
    """
    return list_tree(data, labels_from)[0]


def list_tree(data: Path, labels_from: str | None = None) -> tuple[Listing, Folder]:
    """The same, and the folder as it was read, so that nobody has to read it again.

    Raises:
        DataError: as `list_images`.
    """
    root = image_root(data)
    tree = read_tree(root)
    if labels_from is None:
        found = _by_folders(data, tree)
    elif is_archive(data):
        raise DataError(
            f"expected a folder of images for --labels-from, but {shown(data)} holds its labels itself; leave it out"
        )
    elif labels_from == NAMES:
        found = _by_names(tree)
    else:
        found = _by_tables(data, tree, [read_labels(Path(labels_from))])
    if unread := Counter(suffix for folder in tree.walk() for suffix in unread_in(folder)):
        found.leave_out(
            unread.total(), f"of kinds that are not read ({', '.join(sorted(unread))}): convert them to JPEG or PNG"
        )
    classes = _check_classes(data, tree, found)
    if (kind := kind_of(data)) is not None:
        found.form = f"{kind.noun} of {shown(data.name)}"
    files = tuple(sorted(found.files, key=lambda file: file.path))
    listing = Listing(root, classes, files, tuple(sorted(found.ignored)), found.form, tuple(found.notes))
    return listing, tree


def image_root(data: Path) -> Path:
    """The folder that paths of images are relative to: where an archive is unpacked, or the folder inside others that
    hold nothing but it.

    Raises:
        DataError: no such folder, no permission, a damaged archive, or a path that is no text.
    """
    try:
        os.path.abspath(data).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"expected data whose path is UTF-8, since a run keeps it as text, but got {shown(data)}; rename it"
        ) from None
    is_folder = is_dir(data)
    if is_archive(data):
        if is_folder:
            _refuse_images_beside(data)
        return unpack(data)
    if not is_folder:
        raise DataError(f"expected a data folder ({_SHAPE}), but {shown(data)} {_what_it_is(data)}")
    folder, passed = data, set()
    while folder.resolve() not in passed:
        passed.add(folder.resolve())
        has_images, folders = images_and_folders(folder)
        if has_images or len(folders) == 0:
            break
        holding = folders if len(folders) == 1 else [one for one in folders if holds_images(one)]
        if len(holding) != 1 or subset_called(holding[0].name):
            break
        has_images, folders = images_and_folders(holding[0])
        if has_images or not any(map(holds_images, folders)):
            break
        (folder,) = holding
    return folder


def _what_it_is(data: Path) -> str:
    if not data.exists():
        return "does not exist; check the path"
    if data.suffix.lower() in TABLE_SUFFIXES:
        return f"is a file; pass the folder of the images, and --labels-from {shlex.quote(str(data))}"
    if data.suffix.lower() in _PACKED:
        return "is a file; unpack it and pass the folder"
    return "is a file; check the path"


def list_pictures(root: Path) -> tuple[str, ...]:
    """List the images of a folder and of all folders in it, whatever they show, without reading a pixel.

    Args:
        root: the folder; what is hidden is passed over, and so is a link that leads back to a folder around it.

    Returns:
        Paths relative to the folder with forward slashes, sorted.

    Raises:
        DataError: no such folder, no permission, no images, or a name that cannot be written down.
    """
    if not is_dir(root):
        state = "is a file" if root.exists() else "does not exist"
        raise DataError(f"expected a folder of images, but {shown(root)} {state}; check the path")
    files = sorted(read_tree(root).image_paths())
    if not files:
        raise DataError(
            f"expected images ({', '.join(IMAGE_SUFFIXES)}) in {shown(root)} or the folders in it, but found none; "
            "check the path"
        )
    return tuple(files)


def _refuse_images_beside(root: Path) -> None:
    if holding := read_tree(root).holding:
        raise DataError(
            f"expected IDX files or folders of images in {shown(root)}, but it holds IDX files and images in the "
            f"folder {shown(holding[0].name)}; move one kind away"
        )


# --- classes in names of folders -------------------------------------------------------------------------------------


def _by_folders(data: Path, tree: Folder) -> Found:
    if not tree.n:
        raise DataError(f"expected {_SHAPE}, but {shown(data)} holds no images; {_where_else(tree)}")
    division = division_of(tree)
    if (only := only_subset(tree)) is not None:
        found = undivided(only)
    elif division is not None:
        found = divided(tree, division)
    elif len(tree.holding) < 2 or are_no_classes([folder.name for folder in tree.holding]):
        tables = _metadata(data, tree)
        if tables:
            return _by_tables(data, tree, tables)
        if not tree.holding or are_no_classes([folder.name for folder in tree.holding]):
            raise _no_classes(data, tree)
        found = undivided(tree)
    else:
        refuse_copies_beside(tree)
        found = class_first(tree) or undivided(tree)
    _refuse_other_labels(found, data, tree)
    return found


def _check_classes(data: Path, tree: Folder, found: Found) -> tuple[str, ...]:
    labels = {file.label for file in found.files}
    trained = {file.label for file in found.files if file.subset in (None, "train")}
    if not labels:
        raise _no_classes(data, tree)
    if len(labels) > 1 and are_no_classes(labels):
        raise DataError(
            f"expected classes for the images in {shown(tree.path)}, but {listed(sorted(labels))} are called like "
            f"parts of a data set and not like classes; {_NO_TABLE}, or rename them if they are"
        )
    if extra := sorted(labels - trained):
        path = next(file.path for file in found.files if file.label == extra[0])
        raise DataError(
            f"expected the classes of training ({listed(sorted(trained), 10)}) in the other subsets too, but "
            f"{listed(extra)} is not in train/ of {shown(tree.path)} ({shown(path)} is); add training images, or give "
            "the class the name it has there"
        )
    if len(trained) < 2:
        advice = _advice(data, tree) or "a classifier needs a folder for each of two or more classes"
        raise DataError(
            f"expected at least two classes in {shown(tree.path)}, but found only {sorted(trained)[0]!r}; {advice}"
        )
    for names in map(sorted, _by_case(trained)):
        if len(names) > 1:
            found.notes.append(f"{listed(names)} differ in case alone and are classes of their own")
    return tuple(sorted(trained))


def _by_case(labels: Iterable[str]) -> Iterable[list[str]]:
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(normal(label).casefold(), []).append(label)
    return alike.values()


# --- classes elsewhere -----------------------------------------------------------------------------------------------


def _by_names(tree: Folder) -> Found:
    if not tree.n:
        raise DataError(f"expected images in {shown(tree.path)}, but it holds none; {_where_else(tree)}")
    found = Found("classes by the names of the files")
    paths = sorted(tree.image_paths())
    subsets = subsets_by_folder(tree)
    labels = labels_in_names(paths)
    trained = {label for path, label in labels.items() if label and subset_of(path, subsets) in (None, "train")}
    if not trained:
        raise DataError(
            f"expected names of files such as cat.12.jpg in {shown(tree.path)}, but got {shown(paths[0])}; "
            "pass --labels-from a table instead"
        )
    without: Counter[str] = Counter()
    for path, label in labels.items():
        subset = subset_of(path, subsets)
        if label is None or (label not in trained and subset != "train") or (subsets and subset is None):
            without[path.split("/")[0] if "/" in path else "."] += 1
        else:
            found.files.append(ImageFile(path, label, subset))
    for place, count in sorted(without.items()):
        found.leave_out(count, f"in {shown(place)}/ without a class in their names")
    return found


def _by_tables(data: Path, tree: Folder, tables: Sequence[LabelTable]) -> Found:
    found = Found(f"classes by {listed(dict.fromkeys(table.file.name for table in tables))}")
    paths = sorted(tree.image_paths())
    subsets = subsets_by_folder(tree)
    unlabelled, named = 0, set()
    for table in tables:
        rows = rows_of(table, tree.path, data, paths)
        for row in rows:
            if row.path in named:
                raise DataError(f"expected each image in one table, but {shown(row.path)} is in two; correct one")
            named.add(row.path)
            if row.label is None:
                unlabelled += 1
                continue
            subset = row.subset if table.columns[2] else subset_of(row.path, subsets)
            found.files.append(ImageFile(row.path, row.label, subset))
    if not any(file.subset == "train" for file in found.files):
        # Of a part of a data set: `test.csv` alone says nothing about how to divide it.
        found.files = [replace(file, subset=None) for file in found.files]
    found.leave_out(unlabelled, "that the table gives no class")
    found.leave_out(len(set(paths) - named), "that no row of the table names")
    return found


def _metadata(data: Path, tree: Folder) -> list[LabelTable]:
    """Tables of Hugging Face's form in the folder or the subsets, if they name classes."""
    tables = []
    for folder in (tree, *tree.folders):
        for name in _METADATA:
            if name in folder.others and (table := _fitting(folder.path / name, data, tree)) is not None:
                tables.append(table)
    return tables


def _fitting(file: Path, data: Path, tree: Folder) -> LabelTable | None:
    """A table that names classes of images of the folder, None where it is about something else."""
    try:
        table = read_labels(file)
        rows_of(table, tree.path, data, list(tree.image_paths()))
    except DataError:
        return None
    return table if len({label for _, label, _ in table.rows if label}) > 1 else None


def _refuse_other_labels(found: Found, data: Path, tree: Folder) -> None:
    """Refuse class folders with a metadata file beside them that tells other classes: who is right is not known."""
    by_folder = {file.path: file.label for file in found.files}
    for table in _metadata(data, tree):
        rows = rows_of(table, tree.path, data, list(by_folder))
        pairs = {(by_folder[row.path], row.label) for row in rows if row.path in by_folder and row.label}
        if len(pairs) > max(len({one for one, _ in pairs}), len({one for _, one in pairs})):
            raise DataError(
                f"expected the same classes in folders and in {shown(table.file)}, but they differ: pass --labels-from "
                f"{shlex.quote(str(table.file))} if the table is right, or move it away if the folders are"
            )


# --- what to do where classes are not told ---------------------------------------------------------------------------


def _no_classes(data: Path, tree: Folder) -> DataError:
    """The error about folders that are no classes, and images that lie in none."""
    named = folders_by_subset(tree, subset_called)
    place = inside(named["train"][0]) if "train" in named else tree
    if place.images and not place.holding:
        what = f"{shown(place.path)} holds {counted(len(place.images), 'image')} and no class folders"
    else:
        names = listed(folder.name for folder in place.holding)
        what = f"{names} in {shown(place.path)}: called like parts of a data set and not like classes"
    return DataError(f"expected {_SHAPE}, but {what}; {_advice(data, tree) or _NO_TABLE}")


def _advice(data: Path, tree: Folder) -> str | None:
    """What would make images trainable whose folders do not tell their classes, None where nothing is seen."""
    files = [folder.path / name for folder in (tree, *tree.folders) for name in folder.others]
    if data != tree.path:
        files += [path for path in sorted(data.iterdir()) if path.is_file()]
    tables = [path for path in files if path.suffix.lower() in TABLE_SUFFIXES]
    for path in tables[:_TABLES_TRIED]:
        if (table := _fitting(path, data, tree)) is not None:
            return (
                f"{shown(path.name)} names their classes (columns {shown(table.columns[0])} and "
                f"{shown(table.columns[1])}): add --labels-from {shlex.quote(str(path))}"
            )
    for folder in tree.holding:
        inner = [one.name for one in folder.holding]
        if subset_called(folder.name) is None and len(inner) > 1 and not are_no_classes(inner):
            return f"if {listed(inner)} are the classes, pass {shown(folder.path)}"
    subsets = subsets_by_folder(tree)
    paths = [path for path in tree.image_paths() if not subsets or subset_of(path, subsets) == "train"]
    if classes := names_tell(paths):
        return f"names of the files begin with {listed(classes, 3)}: add --labels-from names"
    return None


def _where_else(tree: Folder) -> str:
    """What to do about a folder without images."""
    if suffixes := Counter(suffix for folder in tree.walk() for suffix in unread_in(folder)):
        return f"{', '.join(suffixes)} files are not read: convert them to JPEG or PNG"
    files = [folder.path / name for folder in tree.walk() for name in folder.others]
    for path in files:
        if path.suffix.lower() == ".npz":
            return f"pass the file: {shown(path)}"
        if path.suffix.lower() == ".parquet":
            return f"pass the folder of the Parquet files: {shown(path.parent)}"
        if is_archive(path):
            return f"pass the folder of its IDX files: {shown(path.parent)}"
        if path.suffix.lower() in _PACKED:
            return f"unpack {shown(path)} and pass the folder"
    return "check the path"
