#!/usr/bin/env python3
"""Resize pictures as the models of a kit learned from them: Pillow 13's antialiased bilinear filter, with numpy alone.

    pixels = resize_picture(picture, (224, 224), "letterbox")     # both (height, width, 3) uint8, RGB

`python3 tledge_resize.py [resize_vectors.txt]` compares with the pixels that Pillow made. Source: Pillow's Resample.c
(8 bits per channel), which is equal to the last bit; a Pillow before version 13 shrinks tall pictures in the other
order, and single values differ by 1 of 255.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MODES = ("stretch", "crop", "letterbox")
ONE = 2.0**22  # weights are whole numbers of 22 bits; their sums stay exact in float64


def resize_picture(picture: np.ndarray[Any, Any], size: Sequence[int], mode: str = "stretch") -> np.ndarray[Any, Any]:
    """Bring a picture, (h, w, 3) uint8, upright, RGB, to the (height, width) of a model.

    `stretch` squeezes it, `crop` keeps the largest part of the model's shape in the middle, `letterbox` keeps all of it
    between black bars.
    """
    if mode not in MODES:
        raise ValueError(f"expected a mode ({', '.join(MODES)}), but got {mode!r}")
    (height, width), (rows, columns) = size, picture.shape[:2]
    tall = rows * width > height * columns  # taller than the model's shape
    if mode == "crop":
        kept = (in_proportion(columns, height, width), columns) if tall else (rows, in_proportion(rows, width, height))
        top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
        return stretch(picture[top : top + kept[0], left : left + kept[1]], height, width)
    if mode == "letterbox":
        whole = np.zeros((height, width, 3), np.uint8)
        fits = (height, in_proportion(height, columns, rows)) if tall else (in_proportion(width, rows, columns), width)
        top, left = (height - fits[0]) // 2, (width - fits[1]) // 2
        whole[top : top + fits[0], left : left + fits[1]] = stretch(picture, *fits)
        return whole
    return stretch(picture, height, width)


def in_proportion(length: int, wanted: int, of: int) -> int:
    """`length` times `wanted / of`, rounded, halves up; at least 1."""
    return max(1, (2 * length * wanted + of) // (2 * of))


def stretch(picture: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """Squeeze a picture to exactly this size."""
    rows, columns = picture.shape[:2]
    pixels = np.asarray(picture, np.uint8)
    # Values are rounded to bytes between the two passes, so their order shows.
    down_first = rows > height and rows - height > 2 * (columns - width)
    for down in (True, False) if down_first else (False, True):
        pixels = to_rows(pixels, height) if down else to_rows(pixels.swapaxes(0, 1), width).swapaxes(0, 1)
    return np.ascontiguousarray(pixels)


def to_rows(pixels: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    """One pass: (rows, columns, 3) to (length, columns, 3)."""
    rows = len(pixels)
    if rows == length:
        return pixels
    scale = rows / length
    support = max(scale, 1.0)  # half the width of the triangle that weighs, wider where the picture shrinks
    made = np.empty((length, *pixels.shape[1:]), np.uint8)
    for row in range(length):
        center = (row + 0.5) * scale
        first, last = max(0, int(center - support + 0.5)), min(rows, int(center + support + 0.5))
        weights = np.maximum(0.0, 1.0 - np.abs((np.arange(first, last) - center + 0.5) * (1.0 / support)))
        weights /= np.cumsum(weights)[-1]  # summed one after the other, as in C
        sums = np.tensordot(np.floor(0.5 + weights * ONE), pixels[first:last].astype(np.float64), 1)
        made[row] = np.minimum(np.floor((sums + ONE / 2) / ONE), 255)
    return made


def check(vectors: Path) -> int:
    """Compare with a file of vectors: in each line mode, size, size wanted, pixels, pixels expected, both in hex."""
    worst = 0
    lines = vectors.read_text().splitlines()
    for line in lines:
        mode, *numbers, given, expected = line.split()
        rows, columns, height, width = map(int, numbers)
        picture = np.frombuffer(bytes.fromhex(given), np.uint8).reshape(rows, columns, 3)
        wanted = np.frombuffer(bytes.fromhex(expected), np.uint8).reshape(height, width, 3)
        found = resize_picture(picture, (height, width), mode).astype(int)
        worst = max(worst, int(np.abs(found - wanted).max()))
    print(f"{len(lines)} pictures, largest difference {worst} of 255")
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(check(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "resize_vectors.txt")))
