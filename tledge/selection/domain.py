"""What stands out about the images themselves: grey ones, tiny ones, classes that are hard to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX
from tledge.selection.sample import Sample

_LOOK_PX = 64
_GREY_LEVELS = 2.0
_MOSTLY = 0.9
_TINY_PX = 64
_CONFUSED_SHARE = 0.2
_NAMED_AT_MOST = 3


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes and the share, 0..1, of their images that the linear probe takes for the other."""

    first: str
    second: str
    share: float


@dataclass(frozen=True)
class Domain:
    """Share of grey images, median of the shorter sides in pixels, classes that are confused, and notes for people."""

    grey_share: float
    median_side_px: int
    confused: tuple[ConfusedPair, ...]
    notes: tuple[str, ...]


def describe(sample: Sample, named: Sequence[int], image_size_px: int) -> Domain:
    """Look at the images and at what the best trunk's linear probe called them.

    Args:
        sample: the images.
        named: the class the probe names for each of them.
        image_size_px: side of the input they are stretched to.
    """
    looks = [_look(path) for path in sample.paths]
    grey = float(np.mean([look[0] for look in looks]))
    side = int(np.median([look[1] for look in looks]))
    confused = _confused(sample, np.asarray(named, np.int64))
    notes = []
    if sample.copies:
        notes.append(f"{sample.copies} of the images drawn were copies of others and were left out")
    if grey >= _MOSTLY:
        notes.append(f"{grey:.0%} of the images are grey; trunks that learned from colour photographs lose some use")
    if side < _TINY_PX:
        smaller = max(side, MIN_IMAGE_SIZE_PX)
        enlarged = f" and are enlarged to {image_size_px} px" if side < image_size_px else ""
        advice = f"; --image-size {smaller} trains faster" if smaller < image_size_px else ""
        notes.append(f"the images are tiny (median {side} px){enlarged}{advice}")
    notes += [
        f"{pair.first} and {pair.second} are hard to tell apart: {pair.share:.0%} of their images are confused"
        for pair in confused[:_NAMED_AT_MOST]
    ]
    return Domain(grey, side, confused, tuple(notes))


def _look(path: Path) -> tuple[bool, int]:
    """Whether an image is grey, and its shorter side in pixels."""
    with Image.open(path) as image:
        side = min(image.size)
        image.draft("RGB", (_LOOK_PX, _LOOK_PX))  # a JPEG is decoded at a fraction of its size
        pixels = np.asarray(image.convert("RGB").resize((_LOOK_PX, _LOOK_PX)), np.float32)
    return bool(np.abs(pixels - pixels.mean(axis=2, keepdims=True)).mean() < _GREY_LEVELS), side


def _confused(sample: Sample, named: np.ndarray) -> tuple[ConfusedPair, ...]:
    counts = np.zeros((len(sample.classes), len(sample.classes)))
    np.add.at(counts, (sample.labels, named), 1)
    sizes = counts.sum(axis=1)
    pairs = [
        ConfusedPair(sample.classes[a], sample.classes[b], float((counts[a, b] + counts[b, a]) / (sizes[a] + sizes[b])))
        for a in range(len(sizes))
        for b in range(a)
    ]
    return tuple(sorted((p for p in pairs if p.share >= _CONFUSED_SHARE), key=lambda p: -p.share))
