"""The size of a model's input: one number for a square, height and width for any other rectangle."""

from __future__ import annotations

ImageSize = int | tuple[int, int]
"""Pixels: the side of a square, or (height, width) of anything else. A square is never a pair, so that equal sizes are
equal, and files about squares hold the whole number that they always held; JSON has [height, width] otherwise."""

# No classifier takes more. A check of its own and no constraint of the type: of a number or a pair with constraints,
# msgspec (0.22.0) goes wrong in memory.
_LARGEST_PX = 8192


def require_possible(size: ImageSize) -> None:
    """Check a size that a file says.

    Raises:
        ValueError: a side is not within 1 to 8192.
    """
    if not all(1 <= side <= _LARGEST_PX for side in height_width(size)):
        raise ValueError(f"expected image_size_px of 1 to {_LARGEST_PX}, but got {short_text(size)}")


def image_size(height: int, width: int) -> ImageSize:
    """The size of these sides, in pixels."""
    return height if height == width else (height, width)


def height_width(size: ImageSize) -> tuple[int, int]:
    """Both sides in pixels, as arrays of images have them: rows first."""
    return (size, size) if isinstance(size, int) else size


def sides_text(size: ImageSize) -> str:
    """Both sides in words, as in `224 x 224` or `96 x 128 (height x width)`: others put the width first."""
    return f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]} (height x width)"


def short_text(size: ImageSize) -> str:
    """In front of px: `224` or `96 x 128`, height first."""
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]}"
