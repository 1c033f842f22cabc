"""Ways to bring a picture to a model's input: the modes that a run can be trained with, and what apps do otherwise.

A mode says what becomes of a picture of another shape; a filter says how pixels are made. Training and everything else
that reads a run's pictures use the run's mode with the antialiased filter of `tledge.data.decode.resize`; apps may use
another filter, or another mode.

The filters were held against OpenCV 5.0.0 on 41 photographs (320 x 240, to 96 and 224 px) and noise that shrinks, grows
or does both: `nearest` is `INTER_NEAREST_EXACT` to the last bit, `bilinear_no_antialias` (`INTER_LINEAR`) and `area`
(`INTER_AREA`) differ nowhere by more than one value of 255, on the photographs in less than 0.2 % of all values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tledge.core.image_size import ImageSize, height_width, image_size
from tledge.core.types import ResizeMode
from tledge.data.decode import Resizer, resize

_COEFFICIENT = 2048  # OpenCV's fixed point: 11 bits


def bilinear_no_antialias(image: Image.Image, size_px: ImageSize) -> NDArray[np.uint8]:
    """Each pixel from the four around its centre, however much the picture shrinks: fine patterns alias.

    OpenCV's `INTER_LINEAR`, its default, in its fixed-point arithmetic; Android's `Bitmap.createScaledBitmap` and
    TensorFlow's `tf.image.resize` interpolate alike and may round to the neighbouring value.
    """
    height, width = height_width(size_px)
    return _interpolated(
        np.asarray(image), _between_centres(image.height, height), _between_centres(image.width, width)
    )


def area(image: Image.Image, size_px: ImageSize) -> NDArray[np.uint8]:
    """The mean over the part of the picture that a pixel covers: OpenCV's `INTER_AREA`.

    A picture that is smaller than the input in one direction is interpolated, at OpenCV's places for it.
    """
    height, width = height_width(size_px)
    pixels = np.asarray(image)
    if image.height < height or image.width < width:
        return _interpolated(pixels, _between_cells(image.height, height), _between_cells(image.width, width))
    rows = np.tensordot(_coverage(image.height, height), pixels.astype(np.float32), (1, 0))
    columns = np.tensordot(rows, _coverage(image.width, width), (1, 1))
    return np.rint(columns.swapaxes(1, 2)).astype(np.uint8)


def bicubic(image: Image.Image, size_px: ImageSize) -> NDArray[np.uint8]:
    """Pillow's default, antialiased: what `Image.resize` does in a Python service unless it is told otherwise."""
    height, width = height_width(size_px)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.uint8)


def nearest(image: Image.Image, size_px: ImageSize) -> NDArray[np.uint8]:
    """The pixel at each centre: the default of Keras's `load_img`, Pillow's `NEAREST`, `INTER_NEAREST_EXACT`.

    OpenCV's `INTER_NEAREST` is another: it takes the pixel at the corner.
    """
    height, width = height_width(size_px)
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST), np.uint8)


def crop(image: Image.Image, size_px: ImageSize, stretch: Resizer = resize) -> NDArray[np.uint8]:
    """The shorter side fits, the middle of the longer one is kept: what lies beside it is gone.

    Cut before it is resized, in whole pixels of the picture, so that nothing of what is gone shows at the edges and a
    very long picture takes no memory.
    """
    height, width = height_width(size_px)
    if image.height * width > height * image.width:
        rows, columns = _in_proportion(image.width, height, width), image.width
    else:
        rows, columns = image.height, _in_proportion(image.height, width, height)
    left, top = (image.width - columns) // 2, (image.height - rows) // 2
    return stretch(image.crop((left, top, left + columns, top + rows)), size_px)


def letterbox(image: Image.Image, size_px: ImageSize, stretch: Resizer = resize) -> NDArray[np.uint8]:
    """The longer side fits: the whole picture without distortion, in the middle, with black bars.

    Black, since `tf.image.resize_with_pad`, OpenCV's `copyMakeBorder` and a fresh canvas or bitmap give it.
    """
    height, width = height_width(size_px)
    if image.height * width > height * image.width:
        rows, columns = height, _in_proportion(height, image.width, image.height)
    else:
        rows, columns = _in_proportion(width, image.height, image.width), width
    left, top = (width - columns) // 2, (height - rows) // 2
    whole = np.zeros((height, width, 3), np.uint8)
    whole[top : top + rows, left : left + columns] = stretch(image, image_size(rows, columns))
    return whole


def resizer_of(mode: ResizeMode, stretch: Resizer = resize) -> Resizer:
    """A mode with a filter, by default that of training."""
    return _MODES[mode](stretch)


def other_resizers(mode: ResizeMode) -> Mapping[str, Resizer]:
    """What apps do otherwise, by the name in check.json: this mode with other filters, then training's with others."""
    filters = {name: resizer_of(mode, stretch) for name, stretch in _FILTERS.items()}
    return {**filters, **{other: resizer_of(other) for other in RESIZE_MODES if other != mode}}


RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)
IN_WORDS: Mapping[ResizeMode, str] = {
    "stretch": "stretched",
    "crop": "shorter side fits, middle cut out",
    "letterbox": "longer side fits, black bars",
}

_FILTERS: Mapping[str, Resizer] = {
    "bilinear-no-antialias": bilinear_no_antialias,
    "area": area,
    "bicubic": bicubic,
    "nearest": nearest,
}
_MODES: Mapping[ResizeMode, Callable[[Resizer], Resizer]] = {
    "stretch": lambda stretch: stretch,
    "crop": lambda stretch: partial(crop, stretch=stretch),
    "letterbox": lambda stretch: partial(letterbox, stretch=stretch),
}


def _in_proportion(length: int, wanted: int, of: int) -> int:
    """`length` times `wanted / of`, rounded, halves up, in whole numbers: the same in every language; at least 1."""
    return max(1, (2 * length * wanted + of) // (2 * of))


_Places: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]


def _between_centres(length: int, size: int) -> _Places:
    """For each of `size` pixels its two neighbours among `length` and the weight of the second, in fixed point."""
    at = ((np.arange(size) + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    return _places(first, at - first, length)


def _between_cells(length: int, size: int) -> _Places:
    """The same where a picture grows under `INTER_AREA`: pixels are cells that overlap."""
    # Not length / size: at whole numbers the last bit decides.
    first = np.floor(np.arange(size) * (1 / (size / length))).astype(np.int64)
    part = ((np.arange(size) + 1) - (first + 1) * (size / length)).astype(np.float32)
    return _places(first, np.where(part <= 0, 0, part - np.floor(part)), length)


def _places(first: NDArray[np.int64], part: NDArray[Any], length: int) -> _Places:
    part = np.where((first < 0) | (first >= length - 1), 0, part)
    first = np.clip(first, 0, length - 1)
    return first, np.minimum(first + 1, length - 1), part


def _interpolated(pixels: NDArray[np.uint8], rows: _Places, columns: _Places) -> NDArray[np.uint8]:
    top, bottom, down = rows
    left, right, across = columns
    over, under = (
        pixels[np.ix_(row, left)] * _fixed(1 - across)[:, None] + pixels[np.ix_(row, right)] * _fixed(across)[:, None]
        for row in (top, bottom)
    )
    # OpenCV drops four bits, multiplies, drops sixteen, and rounds the sum by the last two.
    upper = (over >> 4) * _fixed(1 - down)[:, None, None] >> 16
    lower = (under >> 4) * _fixed(down)[:, None, None] >> 16
    return (upper + lower + 2 >> 2).astype(np.uint8)


def _fixed(part: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(np.rint(part * _COEFFICIENT), np.int64)


def _coverage(length: int, size: int) -> NDArray[np.float32]:
    """(size, length), how much of each pixel lies in each cell of a coarser grid, as shares that sum to 1."""
    edges = np.arange(size + 1)[:, None] * (length / size)
    starts = np.arange(length)
    covered = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    return np.asarray(np.clip(covered, 0, None) * (size / length), np.float32)
