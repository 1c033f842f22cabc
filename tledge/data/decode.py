"""Turn one image file into RGB pixels, whatever its colour mode, orientation or bit depth."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tledge.errors import DataError

# Pillow's antialiased bilinear filter; the image is stretched to the square. Stored in manifest and artefacts.
RESIZE_METHOD = "bilinear"

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
# Pillow reports damage in many ways, depending on which decoder meets it.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError)


def open_rgb(source: Path | bytes) -> Image.Image:
    """Decode an image completely, at its own size.

    EXIF orientation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits, and CMYK and
    palettes are converted. Of an animation the first frame is taken.

    Args:
        source: a path, or the content of a file.

    Returns:
        An image in mode RGB.

    Raises:
        DataError: truncated, empty, no permission, too large, or not a BMP, JPEG, PNG or WebP file.
    """
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from None
    if not content:
        raise DataError("is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise DataError(f"is no {', '.join(_FORMATS)} image") from None
    except _DAMAGE as error:
        raise DataError(f"is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})") from None


def resize(image: Image.Image, size_px: int) -> NDArray[np.uint8]:
    """Stretch an RGB image to (size_px, size_px, 3) uint8."""
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR), np.uint8)


def decode(path: Path, size_px: int) -> NDArray[np.uint8]:
    """Decode and resize one file to (size_px, size_px, 3) uint8 RGB.

    Raises:
        DataError: the file is unreadable; the message names it.
    """
    try:
        return resize(open_rgb(path), size_px)
    except DataError as error:
        raise DataError(f"expected an image, but {path} {error}; replace or remove it") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    # Pillow clips instead of scaling when it narrows 16-bit grey, which turns most pixels white.
    values = np.asarray(image, np.float64)
    narrowed = np.clip(np.round(values / 257.0), 0, 255).astype(np.uint8)
    return Image.fromarray(narrowed, "L").convert("RGB")
