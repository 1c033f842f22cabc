"""Divide images into train, val and test: seeded, stratified, exact duplicates never apart."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import DataError, SettingsError
from tledge.core.types import SUBSETS, Subset
from tledge.data.listing import ImageFile
from tledge.data.pixels import LoadedImages

VAL_FRACTION: float = 0.2
TEST_FRACTION: float = 0.2
"""Shares of the images that a training sets aside unless it is told otherwise."""

_NAMED_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One line of `split.csv`."""

    path: str
    label: str
    subset: Subset
    sha256: str


@dataclass(frozen=True)
class Split:
    """Rows in the order of the images they came from; `dropped` are copies that were left out on request."""

    rows: tuple[SplitRow, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class _Image:
    index: int
    path: str
    label: str
    subset: Subset | None


def split_images(
    images: LoadedImages, *, val_fraction: float, test_fraction: float, seed: int, drop_duplicates: bool = False
) -> Split:
    """Assign every image to a subset.

    Each class is shuffled by a generator of its own, so new images of one class do not move those of another. Images
    with equal bytes or equal decoded pixels form a group that is assigned whole; the larger groups go to train while
    there are enough others, so that no score hangs on one picture counted often. Subsets that the folder gives are
    kept; val or test is taken from train when the folder has none.

    Args:
        images: decoded images with their digests.
        val_fraction: share of the images for validation, above 0.
        test_fraction: share for the test, above 0; the two leave something for training.
        seed: same seed and same data give the same split.
        drop_duplicates: where copies straddle given subsets keep one (test before val before train), and leave out
            images that appear under two classes, instead of refusing them.

    Raises:
        SettingsError: fractions that leave a subset empty.
        DataError: too few distinct images of a class, or duplicates as above without `drop_duplicates`.
    """
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise SettingsError(
            f"expected val and test fractions above 0 that together stay below 1, but got {val_fraction} and "
            f"{test_fraction}; the defaults are 0.2 and 0.2"
        )
    rows = [_Image(i, file.path, file.label, file.subset) for i, file in enumerate(images.files)]
    groups = _groups(rows, images)
    groups, dropped = _settle_duplicates(groups, drop_duplicates)
    by_label: dict[str, list[list[_Image]]] = defaultdict(list)
    for group in groups:
        by_label[group[0].label].append(group)
    assigned: dict[int, Subset] = {}
    fractions: dict[Subset, float] = {"val": val_fraction, "test": test_fraction}
    # Of what is kept: a val that was nothing but copies of test is gone, and made anew from train.
    given = {row.subset for group in groups for row in group}
    for label in sorted({row.label for row in rows}):
        assigned |= _assign_class(label, by_label[label], {s: f for s, f in fractions.items() if s not in given}, seed)
    kept = tuple(
        SplitRow(row.path, row.label, assigned[row.index], images.sha256[row.index])
        for row in rows
        if row.index in assigned
    )
    return Split(kept, tuple(dropped))


def data_fingerprint(rows: Sequence[SplitRow]) -> str:
    """SHA-256 over path, class and content of all images, whatever their order and subset."""
    lines = sorted(f"{row.path}\t{row.label}\t{row.sha256}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def training_counts(files: Sequence[ImageFile], val_fraction: float, test_fraction: float) -> dict[str, int]:
    """How many images of each class a split would leave to train on, copies apart; no file is opened.

    Args:
        files: of a listing.
        val_fraction: share for validation where the folder gives none.
        test_fraction: share for the test where the folder gives none.
    """
    given = {file.subset for file in files}
    free = Counter(file.label for file in files if file.subset in (None, "train"))
    fractions: dict[Subset, float] = {"val": val_fraction, "test": test_fraction}
    taken = [fraction for subset, fraction in fractions.items() if subset not in given]
    return {label: count - sum(max(1, round(part * count)) for part in taken) for label, count in sorted(free.items())}


def stratified_sample(
    labels: Sequence[str], count: int, seed: int, wanted: Callable[[int], bool] = lambda _: True
) -> NDArray[np.int64]:
    """Draw at most `count` indices, as even over the classes as these allow; sorted.

    An index that is not `wanted`, asked once in the order of drawing, makes room for another of its class.
    """
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    queues = {label: list(rng.permutation(members[label])) for label in sorted(members)}
    drawn: list[int] = []
    while len(drawn) < count and any(queues.values()):
        for queue in queues.values():
            while queue and len(drawn) < count:
                index = int(queue.pop())
                if wanted(index):
                    drawn.append(index)
                    break
    return np.asarray(sorted(drawn), np.int64)


def _groups(rows: Sequence[_Image], images: LoadedImages) -> list[list[_Image]]:
    """Join images that share bytes; those that share pixels include them, since equal bytes decode equally."""
    groups: Mapping[str, list[_Image]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.path):
        groups[images.pixels_sha256[row.index]].append(row)
    return list(groups.values())


def _settle_duplicates(groups: list[list[_Image]], drop: bool) -> tuple[list[list[_Image]], list[str]]:
    """Refuse or drop groups of two classes or of two given subsets."""
    kept: list[list[_Image]] = []
    dropped: list[str] = []
    problems: list[str] = []
    for group in groups:
        labels, subsets = {row.label for row in group}, {row.subset for row in group}
        if len(labels) == 1 and len(subsets) == 1:
            kept.append(group)
            continue
        problems.append(_named(group))
        if len(labels) > 1:
            dropped += [row.path for row in group]
            continue
        highest = max((s for s in subsets if s is not None), key=SUBSETS.index)
        kept.append([row for row in group if row.subset == highest])
        dropped += [row.path for row in group if row.subset != highest]
    if problems and not drop:
        more = f" and {len(problems) - _NAMED_AT_MOST} more" if len(problems) > _NAMED_AT_MOST else ""
        raise DataError(
            "expected each image in one class and one subset, but these are the same picture: "
            f"{'; '.join(problems[:_NAMED_AT_MOST])}{more}. Remove the copies, or pass --drop-duplicates"
        )
    return kept, dropped


def _named(group: list[_Image]) -> str:
    """The paths of one picture, those that show the conflict first."""
    one_of_each = {(row.label, row.subset): row for row in reversed(group)}
    ordered = sorted(group, key=lambda row: one_of_each[row.label, row.subset] is not row)
    more = f" = {len(group) - _NAMED_AT_MOST} more" if len(group) > _NAMED_AT_MOST else ""
    return " = ".join(row.path for row in ordered[:_NAMED_AT_MOST]) + more


def _assign_class(
    label: str, groups: list[list[_Image]], fractions: Mapping[Subset, float], seed: int
) -> dict[int, Subset]:
    """Subset of each image of one class, by index."""
    assigned: dict[int, Subset] = {row.index: row.subset for group in groups for row in group if row.subset}
    # Only train is divided further: what the folder calls val or test stays that.
    free = [group for group in groups if group[0].subset in (None, "train")]
    needed = len(fractions) + 1
    if len(free) < needed:
        raise DataError(
            f"expected at least {needed} different images of the class {label!r}, so that every subset gets one, "
            f"but there are {len(free)}; add images"
        )
    name_seed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big")
    order = np.random.default_rng([seed, name_seed]).permutation(len(free))
    # Taken from the end: pictures without copies first. The sort is stable, so the rest stays shuffled.
    shuffled = sorted((free[i] for i in order), key=len, reverse=True)
    total = sum(len(group) for group in free)
    for subset, fraction in fractions.items():
        target = max(1, round(fraction * total))
        others_waiting = len([s for s in fractions if SUBSETS.index(s) > SUBSETS.index(subset)]) + 1
        taken = 0
        while len(shuffled) > others_waiting and (taken == 0 or taken + len(shuffled[-1]) / 2 <= target):
            group = shuffled.pop()
            taken += len(group)
            assigned |= {row.index: subset for row in group}
    assigned |= {row.index: "train" for group in shuffled for row in group}
    return assigned
