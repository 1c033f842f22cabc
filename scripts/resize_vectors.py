"""Write export/resize_vectors.txt: pictures, and what Pillow makes of them in each mode, for code in other languages.

Usage: python scripts/resize_vectors.py            (a test says when it is due)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tledge.core.image_size import image_size
from tledge.data.resizers import RESIZE_MODES, resizer_of

PATH = Path(__file__).parents[1] / "export" / "resize_vectors.txt"
# (height, width) before and after: shrinking, growing, one of each, untouched, so tall that the passes change order, a
# strip, other shapes than a square, and halves to round.
SIZES = (
    ((19, 31), (8, 8)),
    ((31, 19), (8, 8)),
    ((5, 7), (9, 9)),
    ((7, 5), (6, 10)),
    ((8, 8), (8, 8)),
    ((40, 9), (12, 8)),
    ((3, 60), (8, 8)),
    ((9, 14), (6, 4)),
    ((1, 1), (3, 5)),
)


def vectors() -> str:
    """One line for each picture and mode: mode, four sides, pixels before and after in hex."""
    rng = np.random.default_rng(0)
    lines = []
    for (rows, columns), (height, width) in SIZES:
        picture = rng.integers(0, 256, (rows, columns, 3), np.uint8)
        for mode in RESIZE_MODES:
            pixels = resizer_of(mode)(Image.fromarray(picture), image_size(height, width))
            sides = f"{mode} {rows} {columns} {height} {width}"
            lines.append(f"{sides} {picture.tobytes().hex()} {pixels.tobytes().hex()}\n")
    return "".join(lines)


if __name__ == "__main__":
    PATH.write_text(vectors())
