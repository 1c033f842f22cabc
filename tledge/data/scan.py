"""Find the images of a data folder and their classes: in folders, by names of files, in a table, or in arrays.

What is understood depends on names alone: no pixel is read.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from tledge.core.errors import DataError
from tledge.core.types import SUBSETS, Subset
from tledge.data.archives import is_archive, kind_of, unpack
from tledge.data.label_source import NAMES, LabelTable, labels_in_names, names_tell, read_labels, rows_of
from tledge.data.names import counted, listed, normal, same_name, shown
from tledge.data.subsets import are_no_classes, is_evaluation, subset_called, subset_within
from tledge.data.tables import TABLE_SUFFIXES
from tledge.data.tree import (
    IMAGE_SUFFIXES,
    UNREAD_SUFFIXES,
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


@dataclass(frozen=True)
class ImageFile:
    """One image: `path` is relative to the data root with forward slashes; `subset` is None unless the data says."""

    path: str
    label: str
    subset: Subset | None


@dataclass(frozen=True)
class Listing:
    """All images of a data folder, sorted by path; `ignored` names what is there but is no image of a class.

    `root` is where the files are: another folder than was asked for, if that held arrays or nothing but one folder
    around the others. `form` says in words how the classes are told, `notes` which images are left out and why.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    ignored: tuple[str, ...]
    form: str = ""
    notes: tuple[str, ...] = ()

    @property
    def understood(self) -> str:
        """What was understood, as one line for a person to read before anything slow."""
        counts = Counter(file.subset for file in self.files)
        parts = [f"{counts[subset]:,} {subset}" for subset in SUBSETS if counts[subset]]
        free = [f"{counts[None]:,}"] if counts[None] else []
        images = f"{' + '.join((*parts, *free))} image{'' if len(self.files) == 1 else 's'}"
        said = f"{images} of {len(self.classes)} classes ({listed(self.classes)}) in {shown(self.root)}: {self.form}"
        return "; ".join((said, *self.notes))

    def called(self, names: Sequence[str]) -> Listing:
        """The same images with the classes spelled as in `names` where they are the same in Unicode's normal form."""
        spelled = {label: same_name(label, names) or label for label in self.classes}
        files = tuple(replace(file, label=spelled[file.label]) for file in self.files)
        return replace(self, classes=tuple(sorted(set(spelled.values()))), files=files)


@dataclass
class _Found:
    """What a way of telling classes has found so far."""

    form: str
    files: list[ImageFile] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, count: int, why: str) -> None:
        if count:
            self.notes.append(f"left out {counted(count, 'image')} {why}")


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
    if unread := Counter(suffix for folder in tree.walk() for suffix in _unread(folder)):
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


def class_folders(tree: Folder) -> tuple[Folder, ...]:
    """The folders of classes: those at the top that hold images, or, of a divided data set, those of its subsets."""
    if (only := _only_subset(tree)) is not None:
        return only.holding
    division = _division(tree)
    parts = [tree] if division is None else map(_inner, division.values())
    return tuple(one for part in parts for one in part.holding)


def _by_folders(data: Path, tree: Folder) -> _Found:
    if not tree.n:
        raise DataError(f"expected {_SHAPE}, but {shown(data)} holds no images; {_where_else(tree)}")
    division = _division(tree)
    if (only := _only_subset(tree)) is not None:
        found = _undivided(only)
    elif division is not None:
        found = _divided(tree, division)
    elif len(tree.holding) < 2 or are_no_classes([folder.name for folder in tree.holding]):
        tables = _metadata(data, tree)
        if tables:
            return _by_tables(data, tree, tables)
        if not tree.holding or are_no_classes([folder.name for folder in tree.holding]):
            raise _no_classes(data, tree)
        found = _undivided(tree)
    else:
        _refuse_copies_beside(tree)
        found = _class_first(tree) or _undivided(tree)
    _refuse_other_labels(found, data, tree)
    return found


def _division(tree: Folder) -> dict[Subset, Folder] | None:
    """Which folders are subsets, None where folders are classes: the one for training has to hold folders of images."""
    named = _folders_by_subset(tree, subset_called)
    if "train" not in named:
        named = _folders_by_subset(tree, subset_within)
        if len(named) < 2 or any(len(folders) > 1 for folders in named.values()):
            return None
    if not any(_inner(folder).holding for folder in named.get("train", ())):
        return None
    for subset, folders in named.items():
        if len(folders) > 1:
            names = " and ".join(f"{shown(folder.name)}/" for folder in folders)
            raise DataError(
                f"expected one folder for {subset} in {shown(tree.path)}, but {names} both stand for it; rename one"
            )
    return {subset: folders[0] for subset, folders in named.items()}


def _only_subset(tree: Folder) -> Folder | None:
    """The class folders of a test or validation folder that stands alone: images to check on, or not divided yet."""
    if len(tree.holding) != 1 or subset_called(tree.holding[0].name) not in ("val", "test"):
        return None
    inner = _inner(tree.holding[0])
    return inner if inner.holding and not tree.images else None


def _folders_by_subset(tree: Folder, name_of: Callable[[str], Subset | None]) -> dict[Subset, list[Folder]]:
    named: dict[Subset, list[Folder]] = {}
    for folder in tree.holding:
        if (subset := name_of(folder.name)) is not None:
            named.setdefault(subset, []).append(folder)
    judged = named.get("test", [])
    if len(judged) > 1 and "val" not in named and (evaluation := [one for one in judged if is_evaluation(one.name)]):
        named["val"] = evaluation
        named["test"] = [one for one in judged if one not in evaluation]
    return {subset: named[subset] for subset in get_args(Subset) if named.get(subset)}


def _inner(folder: Folder) -> Folder:
    """The folder itself, or the one inside it that alone holds folders of images: `seg_train/seg_train/`."""
    while not folder.images and len(folder.holding) == 1 and not folder.holding[0].images:
        (folder,) = folder.holding
    return folder


def _divided(tree: Folder, division: dict[Subset, Folder]) -> _Found:
    places = (
        f"{shown(folder.name)}/" + ("" if folder.name == subset else f" ({subset})")
        for subset, folder in division.items()
    )
    found = _Found(f"one folder a class in {', '.join(places)}")
    trained = [folder.name for folder in _inner(division["train"]).holding]
    _refuse_misnamed_subsets(tree, division, trained)
    for subset, folder in division.items():
        inner = _inner(folder)
        unknown = subset != "train" and [one.name for one in inner.holding if same_name(one.name, trained) is None]
        if not inner.holding or (unknown and len(inner.holding) == 1):
            found.leave_out(folder.n, f"in {shown(folder.name)}/, which has no class folders")
            continue
        _add_classes(found, inner, subset, trained)
    for folder in tree.folders:
        if folder not in division.values():
            found.leave_out(folder.n, f"in {shown(folder.name)}/, which is no subset")
            if not folder.n:
                found.ignored.append(shown(folder.relative))
    found.leave_out(len(tree.images), "beside the subsets")
    found.ignored += _others(tree)
    return found


def _undivided(tree: Folder) -> _Found:
    found = _Found("one folder a class, not divided")
    _add_classes(found, tree, None, ())
    inner = [{normal(one.name) for one in folder.holding} for folder in tree.holding if not folder.images]
    if len(inner) == len(tree.holding) > 1 and len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        found.notes.append(
            f"{listed(one.name for one in tree.holding)} all hold the folders {listed(sorted(inner[0]))}: if these are "
            f"the classes, pass one of the folders around them, such as {shown(tree.holding[0].path)}"
        )
    return found


def _class_first(tree: Folder) -> _Found | None:
    """Subsets inside the folders of classes: `cat/train/`, `cat/test/`; None where folders are of another kind."""
    divisions = [(folder, _folders_by_subset(folder, subset_called)) for folder in tree.holding]
    for folder, named in divisions:
        # Every folder in it is a subset, each subset is there once, and there is something to train on.
        if folder.images or not len(folder.holding) == len(named) == sum(map(len, named.values())):
            return None
        if "train" not in named:
            return None
    found = _Found("one folder a class with folders of subsets in it")
    for folder, named in divisions:
        for subset, (part,) in named.items():
            found.files += [ImageFile(path, folder.name, subset) for path in part.image_paths()]
            found.ignored += _ignored_in(part)
    _add_beside(found, tree)
    return found


def _add_classes(found: _Found, folder: Folder, subset: Subset | None, known: Sequence[str]) -> None:
    labels: list[str] = [*known]
    for inner in folder.holding:
        # Of two spellings in one folder only the same letters are the same class; of two folders, also other cases.
        same = [label for label in labels if normal(label) == normal(inner.name)]
        label = same[0] if same else (same_name(inner.name, known) or inner.name)
        labels.append(label)
        found.files += [ImageFile(path, label, subset) for path in inner.image_paths()]
        found.ignored += _ignored_in(inner)
    _add_beside(found, folder)


def _add_beside(found: _Found, folder: Folder) -> None:
    """What lies beside class folders: loose images, folders without images, other files."""
    found.leave_out(len(folder.images), f"beside the class folders of {shown(folder.path)}")
    if empty := [inner.relative for inner in folder.folders if not inner.n]:
        found.notes.append(f"no images in {listed(empty)}, so no class")
    found.ignored += _others(folder)


def _ignored_in(folder: Folder) -> list[str]:
    names = _others(folder)
    for inner in folder.folders:
        names += _ignored_in(inner) if inner.n else [shown(inner.relative)]
    return names


def _others(folder: Folder) -> list[str]:
    return [shown(folder.below(name)) for name in folder.others if Path(name).suffix.lower() not in UNREAD_SUFFIXES]


def _unread(folder: Folder) -> Iterable[str]:
    suffixes = (Path(name).suffix.lower() for name in folder.others)
    return (suffix for suffix in suffixes if suffix in UNREAD_SUFFIXES)


def _refuse_misnamed_subsets(tree: Folder, division: dict[Subset, Folder], classes: Sequence[str]) -> None:
    for folder in tree.holding:
        if folder not in division.values() and any(inner.name in classes for inner in folder.holding):
            raise DataError(
                f"expected only train/, val/ and test/ beside each other in {shown(tree.path)}, but "
                f"{shown(folder.name)}/ holds classes too; rename it to val or test, or move it away"
            )


def _refuse_copies_beside(tree: Folder) -> None:
    names = {normal(folder.name) for folder in tree.holding}
    for folder in tree.holding:
        same = sorted({normal(inner.name) for inner in folder.holding} & (names - {normal(folder.name)}))
        if len(same) > 1:
            raise DataError(
                f"expected one folder per class in {shown(tree.path)}, but {shown(folder.name)}/ holds {listed(same)} "
                f"as well; pass {shown(folder.path)}, or move it away"
            )


def _check_classes(data: Path, tree: Folder, found: _Found) -> tuple[str, ...]:
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


def _by_names(tree: Folder) -> _Found:
    if not tree.n:
        raise DataError(f"expected images in {shown(tree.path)}, but it holds none; {_where_else(tree)}")
    found = _Found("classes by the names of the files")
    paths = sorted(tree.image_paths())
    subsets = _subsets_by_folder(tree)
    labels = labels_in_names(paths)
    trained = {label for path, label in labels.items() if label and _subset_of(path, subsets) in (None, "train")}
    if not trained:
        raise DataError(
            f"expected names of files such as cat.12.jpg in {shown(tree.path)}, but got {shown(paths[0])}; "
            "pass --labels-from a table instead"
        )
    without: Counter[str] = Counter()
    for path, label in labels.items():
        subset = _subset_of(path, subsets)
        if label is None or (label not in trained and subset != "train") or (subsets and subset is None):
            without[path.split("/")[0] if "/" in path else "."] += 1
        else:
            found.files.append(ImageFile(path, label, subset))
    for place, count in sorted(without.items()):
        found.leave_out(count, f"in {shown(place)}/ without a class in their names")
    return found


def _by_tables(data: Path, tree: Folder, tables: Sequence[LabelTable]) -> _Found:
    found = _Found(f"classes by {listed(dict.fromkeys(table.file.name for table in tables))}")
    paths = sorted(tree.image_paths())
    subsets = _subsets_by_folder(tree)
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
            subset = row.subset if table.columns[2] else _subset_of(row.path, subsets)
            found.files.append(ImageFile(row.path, row.label, subset))
    if not any(file.subset == "train" for file in found.files):
        # Of a part of a data set: `test.csv` alone says nothing about how to divide it.
        found.files = [replace(file, subset=None) for file in found.files]
    found.leave_out(unlabelled, "that the table gives no class")
    found.leave_out(len(set(paths) - named), "that no row of the table names")
    return found


def _subsets_by_folder(tree: Folder) -> dict[str, Subset]:
    """Names of folders at the top that are subsets, if one is for training."""
    named = _folders_by_subset(tree, subset_called)
    if "train" not in named:
        named = _folders_by_subset(tree, subset_within)
        named = named if len(named) > 1 and "train" in named else {}
    return {folder.name: subset for subset, folders in named.items() for folder in folders}


def _subset_of(path: str, subsets: dict[str, Subset]) -> Subset | None:
    return subsets.get(path.split("/")[0])


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


def _refuse_other_labels(found: _Found, data: Path, tree: Folder) -> None:
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
    named = _folders_by_subset(tree, subset_called)
    place = _inner(named["train"][0]) if "train" in named else tree
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
    subsets = _subsets_by_folder(tree)
    paths = [path for path in tree.image_paths() if not subsets or _subset_of(path, subsets) == "train"]
    if classes := names_tell(paths):
        return f"names of the files begin with {listed(classes, 3)}: add --labels-from names"
    return None


def _where_else(tree: Folder) -> str:
    """What to do about a folder without images."""
    if suffixes := Counter(suffix for folder in tree.walk() for suffix in _unread(folder)):
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
