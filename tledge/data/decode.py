"""Turn one image file into RGB pixels, whatever its colour mode, orientation or bit depth."""

from __future__ import annotations

import functools
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

from tledge.core.dependencies import installed
from tledge.core.errors import DataError
from tledge.core.image_size import ImageSize, height_width
from tledge.data.names import shown

# Pillow's antialiased bilinear filter. Stored in manifest and artefacts, beside the mode (`tledge.data.resizers`).
RESIZE_METHOD = "bilinear"

_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# The kinds of a HEIF file that are pictures of HEVC, which need a package of their own.
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_UNREAD_MODES = {"F": "holds floats, whose range nobody says", "LAB": "holds LAB colours"}
# Of a PNG, what is no part of the picture; Pillow refuses a whole file over the length of a text or of a profile.
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_NOTES = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_LARGEST_GREY = 65535
# Pillow reports damage in many ways, depending on which decoder meets it.
_DAMAGE = (
    RuntimeError,
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


def open_rgb(source: Path | bytes, *, at_least_px: int | None = None) -> Image.Image:
    """Decode an image completely, at its own size.

    EXIF orientation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits, and CMYK and
    palettes are converted. Of an animation the first frame is taken.

    Args:
        source: a path, or the content of a file.
        at_least_px: where a smaller image will do, the side that is needed; JPEG files are then decoded at 1/2, 1/4 or
            1/8 of their size, many times as fast. None for the whole image.

    Returns:
        An image in mode RGB.

    Raises:
        DataError: truncated, empty, no permission, too large, of another kind than AVIF, BMP, GIF, HEIC (with the
            extra `heic`), JPEG, PNG, PPM, TIFF and WebP, or in floats; the message is the reason, to follow the name
            of the file.
    """
    content = source if isinstance(source, bytes) else read_content(source)
    if not content:
        raise DataError("is empty (0 bytes)")
    try:
        try:
            image = _loaded(content, at_least_px)
        except _DAMAGE:
            if (bare := _without_notes(content)) is None:
                raise
            image = _loaded(bare, at_least_px)
        if image.format == "PNG":
            _scale_transparent_value(image, depth_bits=content[24])
        return _to_rgb(_upright(image))
    except Image.DecompressionBombError:
        raise DataError(f"is too large (more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels)") from None
    except UnidentifiedImageError:
        if _is_heic(content):
            raise DataError("is a HEIC image, which needs one more package (`pip install 'tledge[heic]'`)") from None
        raise DataError(f"is no {', '.join(_formats(with_heif=False))} image") from None
    except _DAMAGE as error:
        raise DataError(f"is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})") from None


def _loaded(content: bytes, at_least_px: int | None) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=_formats(with_heif=_is_heic(content)))
    if at_least_px is not None:
        image.draft(None, (at_least_px, at_least_px))
    image.load()
    return image


@functools.cache
def _formats(*, with_heif: bool) -> tuple[str, ...]:
    """Those of `_FORMATS` that this Pillow reads."""
    Image.init()
    if with_heif and installed("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN and (with_heif or name != "HEIF"))


def _is_heic(content: bytes) -> bool:
    return content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS and b"avif" not in content[8:64]


def _without_notes(content: bytes) -> bytes | None:
    """A PNG without its texts and its colour profile, which Pillow does not use; None where it has none."""
    if not content.startswith(_PNG_SIGNATURE):
        return None
    kept, start, end = [_PNG_SIGNATURE], len(_PNG_SIGNATURE), 0
    while start < len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : start + 8] not in _PNG_NOTES:
            kept.append(content[start:end])
        start = end
    bare = b"".join(kept)
    return bare if len(bare) < len(content) else None


Resizer: TypeAlias = Callable[[Image.Image, ImageSize], NDArray[np.uint8]]
"""From an RGB image and a size in pixels to (height, width, 3) uint8."""


def resize(image: Image.Image, size_px: ImageSize) -> NDArray[np.uint8]:
    """Stretch an RGB image to (height, width, 3) uint8."""
    height, width = height_width(size_px)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.uint8)


def stored_size(path: Path) -> tuple[int, int] | None:
    """Height and width that a file states, without decoding it; None where it cannot be read."""
    try:
        with Image.open(path, formats=_formats(with_heif=True)) as image:
            return image.height, image.width
    except (Image.DecompressionBombError, *_DAMAGE):
        return None


def decode(path: Path, size_px: ImageSize, resizer: Resizer = resize) -> NDArray[np.uint8]:
    """Decode and resize one file to (height, width, 3) uint8 RGB.

    Raises:
        DataError: the file is unreadable; the message names it.
    """
    try:
        return resizer(open_rgb(path), size_px)
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
    if image.mode in _UNREAD_MODES:
        raise DataError(f"{_UNREAD_MODES[image.mode]}; save it with 8 bits a channel")
    if image.mode.startswith("I"):
        return _deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    # Pillow clips instead of scaling when it narrows 16-bit grey, which turns most pixels white.
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= _LARGEST_GREY:
        raise DataError("holds greys beyond 16 bits; save it with 8 bits a channel")
    narrowed = ((values + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:
        narrowed[values == image.info["transparency"]] = 255
    return Image.fromarray(narrowed).convert("RGB")
