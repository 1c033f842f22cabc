"""Sets of images for `select_rank_correlation.py`: all classes, pairs, halves, few images; folders of links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from tledge.data.scan import list_images
from tledge.pipeline import write_digits

DIGIT_PAIRS = ((1, 7), (3, 8), (4, 9), (5, 6), (8, 9), (3, 5))
SMALL_PX, PHOTOS_PX = 32, 96
TEST_EACH = 100


@dataclass(frozen=True)
class ImageSet:
    """A data folder, the size it is looked at, and which shares of it validate and test."""

    name: str
    folder: Path
    image_size_px: int
    val_fraction: float = 0.2
    test_fraction: float = 0.4


def link_set(target: Path, source: Path, classes: tuple[str, ...], per_class: int | None = None) -> Path:
    """A data folder of some classes, of each the first images."""
    for name in classes:
        (target / name).mkdir(parents=True)
        for path in sorted((source / name).iterdir())[:per_class]:
            (target / name / path.name).symlink_to(path.resolve())
    return target


def photo_sets(photos: Path, folder: Path) -> Iterator[ImageSet]:
    """All classes, all pairs, few images."""
    names = tuple(sorted(path.name for path in photos.iterdir() if path.is_dir()))
    for classes in (names, *combinations(names, 2)):
        name = f"photos {'+'.join(classes)}"
        yield ImageSet(name, link_set(folder / name, photos, classes), PHOTOS_PX)
    name = f"photos {'+'.join(names)}, 12 each"
    yield ImageSet(name, link_set(folder / name, photos, names, 12), PHOTOS_PX)


def small_sets(
    kind: str, source: Path, pairs: tuple[tuple[int, int], ...], classes: tuple[str, ...], folder: Path
) -> Iterator[ImageSet]:
    """All classes, both halves, pairs, few images; 16 (few: 4) of a class to train on and 8 (2) to validate."""
    half = len(classes) // 2
    chosen = [classes, classes[:half], classes[half:], *((classes[a], classes[b]) for a, b in pairs)]
    for train, val, sets in ((16, 8, chosen), (4, 2, [classes])):
        each = train + val + TEST_EACH
        for wanted in sets:
            name = f"{kind} {'+'.join(wanted)}, {train} each"
            linked = link_set(folder / name, source, wanted, each)
            yield ImageSet(name, linked, SMALL_PX, val / each, TEST_EACH / each)


def image_sets(photos: Path, more: list[Path], folder: Path) -> Iterator[ImageSet]:
    """Every set, made in `folder`."""
    yield from photo_sets(photos, folder)
    write_digits(folder / "all digits")
    yield from small_sets("digits", folder / "all digits", DIGIT_PAIRS, tuple("0123456789"), folder)
    for path in more:
        listing = list_images(path)
        root = listing.root / "train" if (listing.root / "train").is_dir() else listing.root
        count = len(listing.classes)
        pairs = tuple((a, (a + count // 2) % count) for a in range(count // 2))
        yield from small_sets(path.resolve().name, root, pairs, listing.classes, folder)
