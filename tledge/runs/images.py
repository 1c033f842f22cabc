"""A run's images, where they are now, and other labelled folders: what is trained on, checked on and calibrated on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tledge.core.errors import DataError, RunError
from tledge.core.files import sha256_file
from tledge.core.image_size import ImageSize, height_width
from tledge.core.progress import say
from tledge.core.types import Images, Labels, ResizeMode, Subset
from tledge.core.user_folders import unpacked_folder
from tledge.data.decode import Resizer
from tledge.data.label_source import FOLDERS, DataSettings
from tledge.data.names import shown
from tledge.data.pixels import PixelStore
from tledge.data.resizers import resizer_of
from tledge.data.scan import list_images, list_pictures
from tledge.data.split import SplitRow, data_fingerprint, stratified_sample
from tledge.runs.manifest import Manifest, read_split
from tledge.runs.rundir import RunDir, folder_of_images


@dataclass(frozen=True)
class ImageSet:
    """Images without their classes: where they are from, their fingerprint, the files, their pixels by image size.

    `mode` is how pictures of another shape come to it. `paths` are relative to `root`. Models may differ in their input
    size: the reference of an optimized run can have a larger one than its artefacts.
    """

    root: Path
    fingerprint: str
    paths: tuple[str, ...]
    stores: Mapping[ImageSize, PixelStore]
    mode: ResizeMode

    @property
    def n(self) -> int:
        """Images."""
        return len(self.paths)

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of the files in hex."""
        store = next(iter(self.stores.values()))
        return tuple(map(store.digest, range(self.n)))

    def resized_by(self, resizer: Resizer) -> ImageSet:
        """The same images, without their classes, brought to the same sizes in another way."""
        stores = {size: store.resized_by(resizer) for size, store in self.stores.items()}
        return ImageSet(self.root, self.fingerprint, self.paths, stores, self.mode)

    def part(self, start: int, stop: int) -> ImageSet:
        """Some of the same images, for another process to answer; the fingerprint is still that of all."""
        stores = {size: store.part(start, stop) for size, store in self.stores.items()}
        return ImageSet(self.root, self.fingerprint, self.paths[start:stop], stores, self.mode)

    def batches(self, batch_size: int) -> Iterator[Mapping[ImageSize, Images]]:
        """All images in order, each batch in every size: {size: (at most batch_size, height, width, 3) uint8}.

        An image is decoded once for each size; only a few batches are in memory.

        Raises:
            DataError: an image has changed, or is unreadable.
        """
        everything = np.arange(self.n)
        streams = [store.batches(everything, batch_size) for store in self.stores.values()]
        for parts in zip(*streams, strict=True):
            yield dict(zip(self.stores, parts, strict=True))


@dataclass(frozen=True)
class UnlabelledImages(ImageSet):
    """Images whose classes nobody has said; `copies` files of the folder are the same as one of them, left out."""

    copies: int = 0


@dataclass(frozen=True)
class CheckImages(ImageSet):
    """What to check on, with the true classes; `of_run` says whether they are one of the run's own subsets."""

    labels: Labels
    of_run: bool = False


def data_root(run: RunDir, manifest: Manifest) -> Path:
    """The folder of images, resolved against the run.

    Raises:
        RunError: the folder is gone.
    """
    # Resolved, since ".." behind a symbolic link leads to where the link points.
    root = (run.path.resolve() / manifest.data_root).resolve()
    if not root.is_dir():
        raise RunError(f"expected the run's images in {root}, but that folder is gone; {how_to_restore(root)}")
    return root


def require_images(run: RunDir, root: Path, rows: Sequence[SplitRow]) -> None:
    """Check that some of a run's images are there; in a folder that was said anew, each by its digest too.

    Raises:
        DataError: an image is gone, or is another file than at training.
    """
    for row in rows:
        file = root / row.path
        if not file.is_file():
            raise DataError(
                f"expected the {row.subset} images in {root}, but {shown(row.path)} is gone; {how_to_restore(root)}"
            )
        if run.data is not None and sha256_file(file) != row.sha256:
            raise DataError(
                f"expected the run's own images in {root}, but {shown(row.path)} is another file than at training (its "
                "SHA-256 differs); restore it, or pass another --data"
            )


def how_to_restore(root: Path) -> str:
    """What to do about images that are gone from a run's data folder, as the end of a message."""
    if root.is_relative_to(unpacked_folder().resolve()):
        return (
            "they were unpacked into the cache: `tledge select` with the same archive unpacks them again, and so does "
            "--data ARCHIVE"
        )
    return "restore it, or say with --data DIR where the images are now"


def run_images(run: RunDir, manifest: Manifest, sizes: Iterable[ImageSize], subset: Subset = "test") -> CheckImages:
    """One of the run's subsets: checks look at test images, choices are made on validation images.

    Args:
        run: the run.
        manifest: its manifest.
        sizes: the image sizes in pixels that are needed.
        subset: which images.

    Raises:
        RunError: their folder is gone.
        DataError: images are gone; a changed one is noticed when it is decoded, or at once if their folder is another
            than at training.
    """
    root = data_root(run, manifest)
    rows = read_split(run, subset)
    require_images(run, root, rows)
    return replace(as_images(root, rows, manifest.classes, sizes, manifest.resize), of_run=True)


def holds_test_images(data: Path, run: RunDir) -> bool:
    """Whether a folder, or an archive, is where the run's own images went: most test images are at their places there.

    Most and not all, so that a damaged copy is refused by name instead of passing for other images, training images
    among them.

    Raises:
        RunError: the run's list of images is damaged.
        DataError: `data` is no folder, or a damaged archive.
    """
    root, rows = folder_of_images(data), read_split(run, "test")
    found = 0
    for seen, row in enumerate(rows):
        # No file is read that cannot turn the answer any more.
        if 2 * found > len(rows) or 2 * (found + len(rows) - seen) <= len(rows):
            break
        file = root / row.path
        found += file.is_file() and sha256_file(file) == row.sha256
    return 2 * found > len(rows)


def other_images(
    data: Path, manifest: Manifest, sizes: Iterable[ImageSize], reading: DataSettings = FOLDERS
) -> CheckImages:
    """All images of a folder, or those of its test/ subfolder if it is divided, resized as the run's own; `reading`
    says how their classes are told.

    Raises:
        DataError: no images, or classes that the model does not know.
    """
    root, rows = folder_rows(data, manifest.classes, "the run's classes", reading)
    return as_images(root, rows, manifest.classes, sizes, manifest.resize)


def folder_rows(
    data: Path, classes: Sequence[str], whose: str, reading: DataSettings = FOLDERS
) -> tuple[Path, tuple[SplitRow, ...]]:
    """All images of a folder, or those of its test/ subfolder if it is divided, with the digests of the files.

    The folder is returned too, since images that came as arrays lie elsewhere.

    Args:
        data: the folder.
        classes: every class that may be in it.
        whose: what `classes` are, for the message.
        reading: how the classes of the images are told.

    Raises:
        DataError: no images, or other classes.
    """
    listing = list_images(data, reading.labels_from).called(classes)
    if unknown := sorted(set(listing.classes) - set(classes)):
        raise DataError(
            f"expected {whose} ({', '.join(classes)}) in {data}, but found {', '.join(unknown)}; "
            "give each folder the name of its class, or pass a folder of these classes alone"
        )
    say(f"data: {listing.understood}")
    files = [file for file in listing.files if file.subset in (None, "test")] or list(listing.files)
    rows = tuple(SplitRow(f.path, f.label, "test", _sha256_of_image(listing.root / f.path)) for f in files)
    return listing.root, rows


def as_images(
    root: Path, rows: Sequence[SplitRow], classes: Sequence[str], sizes: Iterable[ImageSize], mode: ResizeMode
) -> CheckImages:
    """Images by their rows, decoded when they are needed.

    Raises:
        DataError: there are none.
    """
    if not rows:
        raise DataError(f"expected images to check on in {root}, but there are none; pass --data")
    stores = _stores(root, [row.path for row in rows], [row.sha256 for row in rows], sizes, mode)
    number = {label: index for index, label in enumerate(classes)}
    labels = np.asarray([number[row.label] for row in rows], np.int64)
    return CheckImages(root, data_fingerprint(rows), tuple(row.path for row in rows), stores, mode, labels)


def unlabelled_images(
    folder: Path, known: Mapping[str, str], sizes: Iterable[ImageSize], mode: ResizeMode
) -> UnlabelledImages:
    """All images of a folder and of the folders in it, whatever they show; of equal files only the first.

    Args:
        folder: the folder.
        known: images that must not be among them, by the SHA-256 of the file: the kind of image each is.
        sizes: the image sizes in pixels that are needed.
        mode: how pictures of another shape come to them.

    Raises:
        DataError: no images, one that cannot be read, or one that is known.
    """
    first, copies = distinct_pictures(folder)
    if among := [(path, known[digest]) for digest, path in first.items() if digest in known]:
        path, kind = among[0]
        raise DataError(
            f"expected images that are neither the run's own nor labelled in {shown(folder)}, but {len(among):,} of "
            f"{len(first):,} are ({shown(path)} is one of the {kind} images); move these away: what is checked on "
            "counts once, and answers to trained images change less than others"
        )
    # Copies are left out: the same image twice is no second sample.
    digests, chosen = tuple(first), tuple(first.values())
    fingerprint = data_fingerprint([SplitRow(path, "", "test", digest) for digest, path in first.items()])
    stores = _stores(folder, chosen, digests, sizes, mode)
    return UnlabelledImages(folder, fingerprint, chosen, stores, mode, copies)


def distinct_pictures(folder: Path) -> tuple[dict[str, str], int]:
    """All images of a folder and of the folders in it: by the SHA-256 of the file the first path, and how many copies.

    Raises:
        DataError: no images, or one that cannot be read.
    """
    paths = list_pictures(folder)
    first: dict[str, str] = {}
    for path in paths:
        first.setdefault(_sha256_of_image(folder / path), path)
    return first, len(paths) - len(first)


def _sha256_of_image(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(
            f"expected an image, but {shown(path)} cannot be read ({error.strerror}); replace or remove it"
        ) from None


def _stores(
    root: Path, paths: Sequence[str], digests: Sequence[str], sizes: Iterable[ImageSize], mode: ResizeMode
) -> dict[ImageSize, PixelStore]:
    files, resizer = [root / path for path in paths], resizer_of(mode)
    ordered = sorted(set(sizes), key=height_width)
    return {size: PixelStore(files, size, sha256=digests, resizer=resizer) for size in ordered}


class TrainingSamples:
    """Stratified samples of a run's training images, decoded when first needed.

    They calibrate int8 files, verify exports and are looked at by a diagnosis.

    Raises:
        RunError: the run lists no training images, or their folder is gone.
    """

    def __init__(self, run: RunDir, manifest: Manifest) -> None:
        self._run = run
        self._rows = read_split(run, "train")
        if not self._rows:
            raise RunError(f"expected training images in {run.split}, but it lists none; train again")
        self._root = data_root(run, manifest)
        self._size_px = manifest.image_size_px
        self._resizer = resizer_of(manifest.resize)
        self._seed = manifest.seed
        self._decoded: dict[int, tuple[Images, str]] = {}

    def take(self, count: int) -> tuple[Images, str]:
        """A stratified sample of at most `count` images, and the SHA-256 over the files' digests.

        Raises:
            DataError: one of them is gone, changed or unreadable.
        """
        if count not in self._decoded:
            chosen = _sample(self._rows, count, self._seed)
            require_images(self._run, self._root, chosen)
            paths = [self._root / row.path for row in chosen]
            store = PixelStore(paths, self._size_px, sha256=[row.sha256 for row in chosen], resizer=self._resizer)
            self._decoded[count] = store.take(np.arange(len(paths))), _digest(chosen)
        return self._decoded[count]


def sample_digest(run: RunDir, manifest: Manifest, count: int) -> tuple[str, int]:
    """What `TrainingSamples.take` says of its sample, and how many images that has; the images are not needed."""
    chosen = _sample(read_split(run, "train"), count, manifest.seed)
    return _digest(chosen), len(chosen)


def _sample(rows: tuple[SplitRow, ...], count: int, seed: int) -> list[SplitRow]:
    return [rows[i] for i in stratified_sample([row.label for row in rows], count, seed)]


def _digest(rows: list[SplitRow]) -> str:
    return hashlib.sha256("".join(row.sha256 for row in rows).encode()).hexdigest()
