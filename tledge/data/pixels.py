"""Decoded pixels of many images: kept in memory when they fit a budget, decoded again in a stream when not."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tledge.data.decode import decode, open_rgb, resize
from tledge.data.scan import ImageFile, Listing
from tledge.environment import available_cores
from tledge.errors import DataError
from tledge.types import Images

BUDGET_BYTES = 1 << 30
_NAMED_AT_MOST = 10

Progress = Callable[[int, int], None]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class PixelStore:
    """Images of one size by index. `kept` is (N, S, S, 3) uint8, or None when they are decoded anew on every access."""

    def __init__(self, paths: Sequence[Path], size_px: int, kept: Images | None = None) -> None:
        self.paths = tuple(paths)
        self.size_px = size_px
        self.kept = kept

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Images:
        """Pixels of the images at `indices`, (len(indices), S, S, 3) uint8.

        Raises:
            DataError: a file changed or vanished since it was listed.
        """
        wanted = np.asarray(indices, np.int64)
        if self.kept is not None:
            return self.kept[wanted]
        pixels = np.empty((len(wanted), self.size_px, self.size_px, 3), np.uint8)
        for position, image in enumerate(
            _in_order(lambda index: decode(self.paths[index], self.size_px), (int(i) for i in wanted))
        ):
            pixels[position] = image
        return pixels

    def batches(self, indices: Sequence[int] | NDArray[np.int64], batch_size: int) -> Iterator[Images]:
        """Pixels in batches of at most `batch_size`; the next batch is decoded while the caller works on one."""
        parts = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
        if self.kept is not None:
            yield from map(self.take, parts)
        else:
            yield from _in_order(self.take, parts, workers=1)


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
    size_px: int,
    *,
    skip_unreadable: bool,
    budget_bytes: int = BUDGET_BYTES,
    progress: Progress | None = None,
) -> LoadedImages:
    """Decode every listed file once: find the unreadable ones, hash bytes and pixels, resize.

    Args:
        listing: what `list_images` found.
        size_px: side of the stored images.
        skip_unreadable: leave unreadable files out instead of refusing them all by name.
        budget_bytes: pixels beyond this are not kept but decoded again when needed.
        progress: called with (images done, images in all).

    Raises:
        DataError: unreadable files and not `skip_unreadable`, or a class with no readable image.
    """
    total = len(listing.files)
    keep = total * size_px * size_px * 3 <= budget_bytes
    kept = np.empty((total, size_px, size_px, 3), np.uint8) if keep else None
    whole: list[int] = []
    digests: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str]] = []
    outcomes = _in_order(lambda file: _examine(listing.root / file.path, size_px), listing.files)
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
    store = PixelStore(
        [listing.root / file.path for file in files], size_px, None if kept is None else kept[: len(whole)]
    )
    return LoadedImages(files, tuple(d[0] for d in digests), tuple(d[1] for d in digests), tuple(unreadable), store)


def _examine(path: Path, size_px: int) -> tuple[str, str, NDArray[np.uint8]] | str:
    """Digests and pixels of one file, or why it cannot be read."""
    try:
        content = path.read_bytes()
        image = open_rgb(content)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except DataError as error:
        return str(error)
    decoded = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return hashlib.sha256(content).hexdigest(), decoded, resize(image, size_px)


def _judge(listing: Listing, whole: list[int], unreadable: list[tuple[str, str]], skip: bool) -> None:
    if unreadable and not skip:
        named = "; ".join(f"{path} {reason}" for path, reason in unreadable[:_NAMED_AT_MOST])
        more = f"; and {len(unreadable) - _NAMED_AT_MOST} more" if len(unreadable) > _NAMED_AT_MOST else ""
        raise DataError(
            f"expected {len(listing.files)} readable images in {listing.root}, but {len(unreadable)} are not: "
            f"{named}{more}. Replace or remove them, or pass --skip-unreadable"
        )
    if lost := set(listing.classes) - {listing.files[index].label for index in whole}:
        raise DataError(f"expected readable images of every class, but {', '.join(sorted(lost))} has none; add some")


def _in_order(work: Callable[[_In], _Out], items: Iterable[_In], workers: int | None = None) -> Iterator[_Out]:
    """Map in threads, results in order, with a bounded number of items in flight so that memory stays bounded."""
    threads = workers or available_cores()
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
