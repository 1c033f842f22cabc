"""Find the images of a data folder: `class/*.jpg`, or `train/ val/ test/` folders of that shape, or arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import DataError
from tledge.core.types import SUBSETS, Subset
from tledge.data.archives import is_archive, unpack
from tledge.data.names import is_writable, shown

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_SHAPE = "one folder per class with images in it, or train/, val/ and test/ folders of that shape"


@dataclass(frozen=True)
class ImageFile:
    """One image: `path` is relative to the data root with forward slashes; `subset` is None unless the folder says."""

    path: str
    label: str
    subset: Subset | None


@dataclass(frozen=True)
class Listing:
    """All images of a folder, sorted by path; `ignored` names what is there but is no image of a class.

    `root` is where the files are: another folder than was asked for, if that held arrays.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    ignored: tuple[str, ...]


def list_images(root: Path) -> Listing:
    """List the images of a data folder without reading a pixel; arrays (.npz, IDX) are unpacked first.

    The root counts as split when its `train` folder holds folders. What lies beside train, val and test is then
    ignored, unless it holds folders named like the classes: images that were meant to be used.

    Args:
        root: the data folder, or an archive as `tledge.data.archives` reads it.

    Raises:
        DataError: no such folder, a damaged archive, no permission, no images, fewer than two classes, a class without
            images, a class of val or test that train lacks, a subset under another name, or a name that cannot be
            written down.
    """
    is_folder = is_dir(root)
    if is_archive(root):
        if is_folder:
            _refuse_images_beside(root)
        root, is_folder = unpack(root), True
    if not is_folder:
        state = "is a file" if root.exists() else "does not exist"
        raise DataError(f"expected a data folder ({_SHAPE}), but {shown(root)} {state}; check the path")
    ignored: list[str] = []
    if is_split(root):
        subsets: list[tuple[Path, Subset | None]] = [(root / s, s) for s in SUBSETS if is_dir(root / s)]
        beside = [entry for entry in entries(root) if entry.name not in SUBSETS]
        _refuse_misnamed_subsets(root, beside)
        ignored += [shown(entry.name) for entry in beside]
    else:
        subsets = [(root, None)]
    files: list[ImageFile] = []
    for folder, subset in subsets:
        files += _list_classes(root, folder, subset, ignored)
    classes = _check_classes(root, files)
    return Listing(root, classes, tuple(sorted(files, key=lambda f: f.path)), tuple(sorted(ignored)))


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
    files: list[str] = []
    _collect(root, root, {root.resolve()}, files)
    if not files:
        raise DataError(
            f"expected images ({', '.join(IMAGE_SUFFIXES)}) in {shown(root)} or the folders in it, but found none; "
            "check the path"
        )
    return tuple(sorted(files))


def _collect(root: Path, folder: Path, around: set[Path], files: list[str]) -> None:
    for entry in entries(folder):
        if is_dir(entry):
            if (there := entry.resolve()) not in around:
                _require_writable_name(entry)
                _collect(root, entry, {*around, there}, files)
        elif _is_image(entry):
            _require_writable_name(entry)
            files.append(entry.relative_to(root).as_posix())


def _refuse_images_beside(root: Path) -> None:
    for folder in filter(is_dir, entries(root)):
        if any(inner.suffix.lower() in IMAGE_SUFFIXES for inner in entries(folder)):
            raise DataError(
                f"expected IDX files or folders of images in {shown(root)}, but it holds IDX files and images in the "
                f"folder {shown(folder.name)}; move one kind away"
            )


def is_split(root: Path) -> bool:
    """Whether a folder holds train, val and test folders rather than classes: its `train` folder holds folders.

    Raises:
        DataError: no permission to look.
    """
    train = root / "train"
    return is_dir(train) and any(is_dir(entry) for entry in entries(train))


def _refuse_misnamed_subsets(root: Path, beside: list[Path]) -> None:
    classes = {entry.name for entry in entries(root / "train") if is_dir(entry)}
    for entry in beside:
        if is_dir(entry) and any(inner.name in classes and is_dir(inner) for inner in entries(entry)):
            raise DataError(
                f"expected only train/, val/ and test/ beside each other in {shown(root)}, but {shown(entry.name)}/ "
                "holds classes too; rename it to val or test, or move it away"
            )


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
    """What is in a folder, sorted; hidden entries are left out.

    Raises:
        DataError: no permission, or an unusable folder.
    """
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except PermissionError:
        raise _no_permission(folder) from None
    except OSError as error:
        raise _unusable(folder, error) from None


def _no_permission(folder: Path) -> DataError:
    return DataError(f"expected a readable folder, but {shown(folder)} gives no permission; change its mode")


def _unusable(folder: Path, error: OSError) -> DataError:
    return DataError(f"expected a readable folder, but {shown(folder)} is not ({error.strerror}); check it")


def _require_writable_name(entry: Path) -> None:
    # Names go into split.csv and, those of classes, into labels.txt and the artefacts.
    if not is_writable(entry.name):
        raise DataError(
            f"expected names in UTF-8 without line breaks or control characters, but got {entry.name!a} in "
            f"{shown(entry.parent)}; rename it"
        )


def _list_classes(root: Path, folder: Path, subset: Subset | None, ignored: list[str]) -> list[ImageFile]:
    found: list[ImageFile] = []
    loose = 0
    for entry in entries(folder):
        relative = entry.relative_to(root).as_posix()
        if not is_dir(entry):
            loose += entry.suffix.lower() in IMAGE_SUFFIXES
            ignored.append(shown(relative))
            continue
        _require_writable_name(entry)
        images = _list_class(root, entry, subset, ignored)
        if not images:
            raise DataError(
                f"expected images ({', '.join(IMAGE_SUFFIXES)}) in the class folder {shown(entry)}, but found none; "
                "add some or remove the folder"
            )
        found += images
    if loose and not found:
        raise DataError(
            f"expected {_SHAPE}, but {shown(folder)} holds {loose} images and no class folders; sort them into folders"
        )
    return found


def _list_class(root: Path, folder: Path, subset: Subset | None, ignored: list[str]) -> list[ImageFile]:
    images = []
    for entry in entries(folder):
        relative = entry.relative_to(root).as_posix()
        if not is_dir(entry) and _is_image(entry):
            _require_writable_name(entry)
            images.append(ImageFile(relative, folder.name, subset))
        else:
            ignored.append(shown(relative))
    return images


def _is_image(entry: Path) -> bool:
    # A broken link counts: it is reported by name when it is read. A pipe would block the reader for ever.
    return entry.suffix.lower() in IMAGE_SUFFIXES and (entry.is_symlink() or entry.is_file())


def _check_classes(root: Path, files: list[ImageFile]) -> tuple[str, ...]:
    if not files:
        raise DataError(f"expected {_SHAPE}, but {shown(root)} holds no images; check the path")
    trained = {file.label for file in files if file.subset in (None, "train")}
    if extra := sorted({file.label for file in files} - trained):
        raise DataError(
            f"expected the classes of train/ in val/ and test/ too, but {', '.join(extra)} is not in "
            f"{shown(root / 'train')}; add training images or remove the folder"
        )
    if len(trained) < 2:
        raise DataError(
            f"expected at least two classes in {shown(root)}, but found only {sorted(trained)[0]!r}; "
            "a classifier needs a folder for each of two or more classes"
        )
    return tuple(sorted(trained))
