"""Decoded pixels of many images: kept in memory when they fit a budget, decoded again in a stream when not."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tledge.core.arrays import BUDGET_BYTES
from tledge.core.environment import available_cores
from tledge.core.errors import DataError
from tledge.core.image_size import ImageSize, height_width
from tledge.core.progress import Steps
from tledge.core.types import Images
from tledge.data.decode import Resizer, open_rgb, read_content, resize
from tledge.data.listing import ImageFile, Listing
from tledge.data.names import shown

_NAMED_AT_MOST = 10

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class PixelStore:
    """Images of one size by index.

    Args:
        paths: the files.
        size_px: of the images.
        kept: their pixels, (N, H, W, 3) uint8, or None when they are decoded anew on every access.
        sha256: hex digests of the files as first read; None when any content is accepted.
        resizer: what brings decoded images to that size.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size_px: ImageSize,
        kept: Images | None = None,
        sha256: Sequence[str] | None = None,
        resizer: Resizer = resize,
    ) -> None:
        self.paths = tuple(paths)
        self.size_px = size_px
        self.kept = kept
        self.sha256 = sha256
        self._resizer = resizer

    def resized_by(self, resizer: Resizer) -> PixelStore:
        """The same files, decoded on every access and brought to the same size in another way."""
        return PixelStore(self.paths, self.size_px, sha256=self.sha256, resizer=resizer)

    def part(self, start: int, stop: int) -> PixelStore:
        """Some of the same files, from any working directory, decoded on every access."""
        sha256 = None if self.sha256 is None else self.sha256[start:stop]
        paths = [path.absolute() for path in self.paths[start:stop]]
        return PixelStore(paths, self.size_px, sha256=sha256, resizer=self._resizer)

    def at_size(self, size_px: ImageSize) -> PixelStore:
        """The same files at another size, brought to it in the same way and decoded on every access."""
        if size_px == self.size_px:
            return self
        return PixelStore(self.paths, size_px, sha256=self.sha256, resizer=self._resizer)

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self, index: int) -> str:
        """SHA-256 in hex of the image's file; only of stores that know the digests."""
        assert self.sha256 is not None
        return self.sha256[index]

    @property
    def nbytes_kept(self) -> int:
        """Bytes of pixels in memory; 0 when they are streamed."""
        return 0 if self.kept is None else self.kept.nbytes

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Images:
        """Pixels of the images at `indices`, (len(indices), H, W, 3) uint8.

        Raises:
            DataError: a file changed or vanished since it was first read, or is unreadable.
        """
        wanted = np.asarray(indices, np.int64)
        if self.kept is not None:
            return self.kept[wanted]
        pixels = np.empty((len(wanted), *height_width(self.size_px), 3), np.uint8)
        for position, image in enumerate(_in_order(self._decode, (int(i) for i in wanted))):
            pixels[position] = image
        return pixels

    def batches(self, indices: Sequence[int] | NDArray[np.int64], batch_size: int) -> Iterator[Images]:
        """Pixels in batches of at most `batch_size`; further batches, a bounded number, are decoded meanwhile."""
        parts = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        if self.kept is not None:
            yield from map(self.take, parts)
        else:
            yield from _in_order(self.take, parts, workers=1)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        try:
            content = read_content(self.paths[index])
            if self.sha256 is not None and hashlib.sha256(content).hexdigest() != self.sha256[index]:
                raise DataError("has changed since it was first read")
            return self._resizer(open_rgb(content), self.size_px)
        except DataError as error:
            name = shown(self.paths[index])
            raise DataError(f"expected an image, but {name} {error}; restore it or start again") from None


@dataclass(frozen=True)
class LoadedImages:
    """The result of the one pass that decodes every file: digests in hex, and pixels by the order of `files`.

    `unreadable` lists (path, reason) of files that were skipped.
    """

    files: tuple[ImageFile, ...]
    sha256: tuple[str, ...]
    pixels_sha256: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    pixels: PixelStore


def load_images(
    listing: Listing,
    size_px: ImageSize,
    *,
    skip_unreadable: bool,
    resizer: Resizer = resize,
    budget_bytes: int = BUDGET_BYTES,
    progress: Steps | None = None,
    workers: int | None = None,
) -> LoadedImages:
    """Decode every listed file once: find the unreadable ones, hash bytes and pixels, resize.

    Args:
        listing: what `list_images` found.
        size_px: of the stored images.
        skip_unreadable: leave unreadable files out instead of refusing them all by name.
        resizer: what brings decoded images to that size.
        budget_bytes: pixels beyond this are not kept but decoded again when needed.
        progress: called with (images done, images in all).
        workers: threads that decode; None for one per available core. At most 2 * workers + 1 images are in flight.

    Raises:
        DataError: unreadable files and not `skip_unreadable`, or a class with no readable image.
    """
    total = len(listing.files)
    shape = (total, *height_width(size_px), 3)
    kept = np.empty(shape, np.uint8) if math.prod(shape) <= budget_bytes else None
    whole: list[int] = []
    digests: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str]] = []
    outcomes = _in_order(lambda file: _examine(listing.root / file.path, size_px, resizer), listing.files, workers)
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, str):
            unreadable.append((listing.files[index].path, outcome))
        else:
            if kept is not None:
                kept[len(whole)] = outcome[2]
            whole.append(index)
            digests.append(outcome[:2])
        if progress is not None:
            progress(index + 1, total)
    _judge(listing, whole, unreadable, skip_unreadable)
    files = tuple(listing.files[index] for index in whole)
    sha256 = tuple(digest for digest, _ in digests)
    paths = [listing.root / file.path for file in files]
    store = PixelStore(paths, size_px, None if kept is None else kept[: len(whole)], sha256, resizer)
    return LoadedImages(files, sha256, tuple(digest for _, digest in digests), tuple(unreadable), store)


def _examine(path: Path, size_px: ImageSize, resizer: Resizer) -> tuple[str, str, NDArray[np.uint8]] | str:
    """Digests and pixels of one file, or why it cannot be read."""
    try:
        content = read_content(path)
        image = open_rgb(content)
    except DataError as error:
        return str(error)
    decoded = hashlib.sha256(f"{image.size}".encode())
    decoded.update(image.tobytes())
    return hashlib.sha256(content).hexdigest(), decoded.hexdigest(), resizer(image, size_px)


def _judge(listing: Listing, whole: list[int], unreadable: list[tuple[str, str]], skip: bool) -> None:
    if unreadable and not skip:
        named = "; ".join(f"{path} {reason}" for path, reason in unreadable[:_NAMED_AT_MOST])
        more = f"; and {len(unreadable) - _NAMED_AT_MOST} more" if len(unreadable) > _NAMED_AT_MOST else ""
        raise DataError(
            f"expected {len(listing.files)} readable images in {shown(listing.root)}, but {len(unreadable)} are not: "
            f"{named}{more}. Replace or remove them, or pass --skip-unreadable"
        )
    if lost := set(listing.classes) - {listing.files[index].label for index in whole}:
        raise DataError(f"expected readable images of every class, but {', '.join(sorted(lost))} has none; add some")


def _in_order(work: Callable[[_In], _Out], items: Iterable[_In], workers: int | None = None) -> Iterator[_Out]:
    """Map in threads, results in order, with a bounded number of items in flight so that memory stays bounded."""
    threads = available_cores() if workers is None else workers
    pending: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
