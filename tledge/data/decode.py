"""Turn one image file into RGB pixels, whatever its colour mode, orientation or bit depth."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from tledge.core.errors import DataError
from tledge.core.image_size import ImageSize, height_width
from tledge.data.names import shown

# Pillow's antialiased bilinear filter; the image is stretched to the input's size. Stored in manifest and artefacts.
RESIZE_METHOD = "bilinear"

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
# Pillow reports damage in many ways, depending on which decoder meets it.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    struct.error,
    zlib.error,
)
# EXIF orientation and what turns the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Once, and for Pillow alone: `catch_warnings` around each decode is not thread-safe and left a filter behind that
# silenced every warning of the process.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def read_content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: it cannot be read; the message is the reason and does not name the file.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from None


def open_rgb(source: Path | bytes) -> Image.Image:
    """Decode an image completely, at its own size.

    EXIF orientation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits, and CMYK and
    palettes are converted. Of an animation the first frame is taken.

    Args:
        source: a path, or the content of a file.

    Returns:
        An image in mode RGB.

    Raises:
        DataError: truncated, empty, no permission, too large, or not a BMP, JPEG, PNG or WebP file; the message is
            the reason, to follow the name of the file.
    """
    content = source if isinstance(source, bytes) else read_content(source)
    if not content:
        raise DataError("is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        image.load()
        if image.format == "PNG":
            _scale_transparent_value(image, depth_bits=content[24])
        return _to_rgb(_upright(image))
    except Image.DecompressionBombError:
        raise DataError(f"is too large (more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels)") from None
    except UnidentifiedImageError:
        raise DataError(f"is no {', '.join(_FORMATS)} image") from None
    except _DAMAGE as error:
        raise DataError(f"is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})") from None


Resizer: TypeAlias = Callable[[Image.Image, ImageSize], NDArray[np.uint8]]
"""From an RGB image and a size in pixels to (height, width, 3) uint8."""


def resize(image: Image.Image, size_px: ImageSize) -> NDArray[np.uint8]:
    """Stretch an RGB image to (height, width, 3) uint8."""
    height, width = height_width(size_px)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.uint8)


def stored_size(path: Path) -> tuple[int, int] | None:
    """Height and width that a file states, without decoding it; None where it cannot be read."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return image.height, image.width
    except (Image.DecompressionBombError, *_DAMAGE):
        return None


def decode(path: Path, size_px: ImageSize) -> NDArray[np.uint8]:
    """Decode and resize one file to (height, width, 3) uint8 RGB.

    Raises:
        DataError: the file is unreadable; the message names it.
    """
    try:
        return resize(open_rgb(path), size_px)
    except DataError as error:
        raise DataError(f"expected an image, but {shown(path)} {error}; replace or remove it") from None


def _scale_transparent_value(image: Image.Image, depth_bits: int) -> None:
    # Pillow brings samples to 8 bits but leaves the transparent value at the file's depth, so that it matches nothing
    # or another value. Mode P is no case of it (an index), nor I (kept at 16 bits).
    value = image.info.get("transparency")
    if image.mode in ("1", "L") and isinstance(value, int):
        top = 2**depth_bits - 1
        image.info["transparency"] = (value & top) * 255 // top
    elif image.mode == "RGB" and isinstance(value, tuple) and depth_bits == 16:
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it writes the EXIF block anew, and fails on odd tags of an image that is whole.
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGE:
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    # Pillow clips instead of scaling when it narrows 16-bit grey, which turns most pixels white.
    values = np.asarray(image).astype(np.uint32)
    narrowed = ((values + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:
        narrowed[values == image.info["transparency"]] = 255
    return Image.fromarray(narrowed).convert("RGB")
