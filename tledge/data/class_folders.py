"""Classes that are told by folders: which folders are subsets, which are classes, and what lies beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

from tledge.core.errors import DataError
from tledge.core.types import Subset
from tledge.data.listing import Found, ImageFile
from tledge.data.names import listed, normal, same_name, shown
from tledge.data.subsets import is_evaluation, subset_called, subset_within
from tledge.data.tree import UNREAD_SUFFIXES, Folder


def class_folders(tree: Folder) -> tuple[Folder, ...]:
    """The folders of classes: those at the top that hold images, or, of a divided data set, those of its subsets."""
    if (only := only_subset(tree)) is not None:
        return only.holding
    division = division_of(tree)
    parts = [tree] if division is None else map(inside, division.values())
    return tuple(one for part in parts for one in part.holding)


def division_of(tree: Folder) -> dict[Subset, Folder] | None:
    """Which folders are subsets, None where folders are classes: the one for training has to hold folders of images."""
    named = folders_by_subset(tree, subset_called)
    if "train" not in named:
        named = folders_by_subset(tree, subset_within)
        if len(named) < 2 or any(len(folders) > 1 for folders in named.values()):
            return None
    if not any(inside(folder).holding for folder in named.get("train", ())):
        return None
    for subset, folders in named.items():
        if len(folders) > 1:
            names = " and ".join(f"{shown(folder.name)}/" for folder in folders)
            raise DataError(
                f"expected one folder for {subset} in {shown(tree.path)}, but {names} both stand for it; rename one"
            )
    return {subset: folders[0] for subset, folders in named.items()}


def only_subset(tree: Folder) -> Folder | None:
    """The class folders of a test or validation folder that stands alone: images to check on, or not divided yet."""
    if len(tree.holding) != 1 or subset_called(tree.holding[0].name) not in ("val", "test"):
        return None
    inner = inside(tree.holding[0])
    return inner if inner.holding and not tree.images else None


def folders_by_subset(tree: Folder, name_of: Callable[[str], Subset | None]) -> dict[Subset, list[Folder]]:
    """Folders by the subset that their names stand for; of two for testing one may be meant for validation."""
    named: dict[Subset, list[Folder]] = {}
    for folder in tree.holding:
        if (subset := name_of(folder.name)) is not None:
            named.setdefault(subset, []).append(folder)
    judged = named.get("test", [])
    if len(judged) > 1 and "val" not in named and (evaluation := [one for one in judged if is_evaluation(one.name)]):
        named["val"] = evaluation
        named["test"] = [one for one in judged if one not in evaluation]
    return {subset: named[subset] for subset in get_args(Subset) if named.get(subset)}


def inside(folder: Folder) -> Folder:
    """The folder itself, or the one inside it that alone holds folders of images: `seg_train/seg_train/`."""
    while not folder.images and len(folder.holding) == 1 and not folder.holding[0].images:
        (folder,) = folder.holding
    return folder


def divided(tree: Folder, division: dict[Subset, Folder]) -> Found:
    """Images of class folders inside the folders of subsets."""
    places = (
        f"{shown(folder.name)}/" + ("" if folder.name == subset else f" ({subset})")
        for subset, folder in division.items()
    )
    found = Found(f"one folder a class in {', '.join(places)}")
    trained = [folder.name for folder in inside(division["train"]).holding]
    _refuse_misnamed_subsets(tree, division, trained)
    for subset, folder in division.items():
        inner = inside(folder)
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


def undivided(tree: Folder) -> Found:
    """Images of class folders, in no subset."""
    found = Found("one folder a class, not divided")
    _add_classes(found, tree, None, ())
    inner = [{normal(one.name) for one in folder.holding} for folder in tree.holding if not folder.images]
    if len(inner) == len(tree.holding) > 1 and len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        found.notes.append(
            f"{listed(one.name for one in tree.holding)} all hold the folders {listed(sorted(inner[0]))}: if these are "
            f"the classes, pass one of the folders around them, such as {shown(tree.holding[0].path)}"
        )
    return found


def class_first(tree: Folder) -> Found | None:
    """Subsets inside the folders of classes: `cat/train/`, `cat/test/`; None where folders are of another kind."""
    divisions = [(folder, folders_by_subset(folder, subset_called)) for folder in tree.holding]
    for folder, named in divisions:
        # Every folder in it is a subset, each subset is there once, and there is something to train on.
        if folder.images or not len(folder.holding) == len(named) == sum(map(len, named.values())):
            return None
        if "train" not in named:
            return None
    found = Found("one folder a class with folders of subsets in it")
    for folder, named in divisions:
        for subset, (part,) in named.items():
            found.files += [ImageFile(path, folder.name, subset) for path in part.image_paths()]
            found.ignored += _ignored_in(part)
    _add_beside(found, tree)
    return found


def _add_classes(found: Found, folder: Folder, subset: Subset | None, known: Sequence[str]) -> None:
    labels: list[str] = [*known]
    for inner in folder.holding:
        # Of two spellings in one folder only the same letters are the same class; of two folders, also other cases.
        same = [label for label in labels if normal(label) == normal(inner.name)]
        label = same[0] if same else (same_name(inner.name, known) or inner.name)
        labels.append(label)
        found.files += [ImageFile(path, label, subset) for path in inner.image_paths()]
        found.ignored += _ignored_in(inner)
    _add_beside(found, folder)


def _add_beside(found: Found, folder: Folder) -> None:
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


def unread_in(folder: Folder) -> Iterable[str]:
    """Suffixes of a folder's images that are of kinds that are not read."""
    suffixes = (Path(name).suffix.lower() for name in folder.others)
    return (suffix for suffix in suffixes if suffix in UNREAD_SUFFIXES)


def _refuse_misnamed_subsets(tree: Folder, division: dict[Subset, Folder], classes: Sequence[str]) -> None:
    for folder in tree.holding:
        if folder not in division.values() and any(inner.name in classes for inner in folder.holding):
            raise DataError(
                f"expected only train/, val/ and test/ beside each other in {shown(tree.path)}, but "
                f"{shown(folder.name)}/ holds classes too; rename it to val or test, or move it away"
            )


def refuse_copies_beside(tree: Folder) -> None:
    """Refuse a folder of classes that lies beside the same classes.

    Raises:
        DataError: there is one.
    """
    names = {normal(folder.name) for folder in tree.holding}
    for folder in tree.holding:
        same = sorted({normal(inner.name) for inner in folder.holding} & (names - {normal(folder.name)}))
        if len(same) > 1:
            raise DataError(
                f"expected one folder per class in {shown(tree.path)}, but {shown(folder.name)}/ holds {listed(same)} "
                f"as well; pass {shown(folder.path)}, or move it away"
            )


def subsets_by_folder(tree: Folder) -> dict[str, Subset]:
    """Names of folders at the top that are subsets, if one is for training."""
    named = folders_by_subset(tree, subset_called)
    if "train" not in named:
        named = folders_by_subset(tree, subset_within)
        named = named if len(named) > 1 and "train" in named else {}
    return {folder.name: subset for subset, folders in named.items() for folder in folders}


def subset_of(path: str, subsets: dict[str, Subset]) -> Subset | None:
    """The subset of an image by the folder at the top, None where that is no subset."""
    return subsets.get(path.split("/")[0])
