"""Every kind of image file becomes the right RGB pixels, or is refused with a reason."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import DataError
from tledge.data.decode import RESIZE_METHOD, decode, open_rgb, resize

WHITE = (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def pixels(content: bytes) -> np.ndarray:
    image = open_rgb(content)
    assert image.mode == "RGB"
    return np.asarray(image)


def oriented(orientation: int) -> bytes:
    """Red left half, blue right half, as stored: 8 x 4."""
    image = Image.new("RGB", (8, 4), "blue")
    image.paste("red", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "PNG", exif=exif)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("PPM", {})),
        *(("TIFF", {"compression": name}) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")),
    ],
)
def test_lossless_formats_are_exact(kind: str, options: dict[str, Any]) -> None:
    image = noise()
    assert np.array_equal(pixels(encoded(image, kind, **options)), np.asarray(image))


@pytest.mark.parametrize(
    ("orientation", "size", "top_left", "bottom_right"),
    [
        (1, (8, 4), "red", "blue"),
        (2, (8, 4), "blue", "red"),
        (3, (8, 4), "blue", "red"),
        (4, (8, 4), "red", "blue"),
        (5, (4, 8), "red", "blue"),
        (6, (4, 8), "red", "blue"),
        (7, (4, 8), "blue", "red"),
        (8, (4, 8), "blue", "red"),
    ],
)
def test_exif_orientation(orientation: int, size: tuple[int, int], top_left: str, bottom_right: str) -> None:
    image = open_rgb(oriented(orientation))
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    assert image.size == size
    assert image.getpixel((0, 0)) == colours[top_left]
    assert image.getpixel((size[0] - 1, size[1] - 1)) == colours[bottom_right]


def test_every_orientation_agrees_with_pillow_on_an_asymmetric_image() -> None:
    from PIL import ImageOps

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(noise(5, 3), "PNG", exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        assert np.array_equal(pixels(content), np.asarray(expected)), orientation


def test_orientation_of_16_bit_grey() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = np.array([[0, 65535]], np.uint16)
    assert pixels(encoded(Image.fromarray(grey), "PNG", exif=exif))[:, 0, 0].tolist() == [0, 255]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_broken_exif_does_not_cost_the_image() -> None:
    content = encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40)
    assert open_rgb(content).size == (40, 30)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)])
def test_cmyk_jpeg_keeps_its_colour(colour: tuple[int, int, int]) -> None:
    content = encoded(Image.new("RGB", (16, 16), colour).convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(content)).mode == "CMYK"
    assert np.abs(pixels(content).astype(int) - colour).max() <= 4


def test_ycck_jpeg_keeps_its_colour() -> None:
    # Pillow writes no YCCK: store red's Y, Cb, Cr, K in the four planes and declare Adobe transform 2. Pillow inverts
    # what it writes; inside YCCK is the inverted colour, (0, 255, 255).
    planes = (255 - 179, 255 - 171, 255 - 1, 0)
    content = bytearray(encoded(Image.new("CMYK", (16, 16), planes), "JPEG", quality=95))
    marker = content.index(b"Adobe")
    content[marker + 11] = 2
    assert np.abs(pixels(bytes(content)).astype(int) - (255, 0, 0)).max() <= 6


def test_16_bit_grey_is_scaled_and_rounded_not_clipped() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(ramp / 257.0).astype(np.uint8)
    result = pixels(encoded(Image.fromarray(ramp), "PNG"))
    for channel in range(3):
        assert np.array_equal(result[..., channel], expected)


def test_16_bit_grey_with_a_transparent_value() -> None:
    grey = np.array([[1000, 1001, 65535]], np.uint16)
    result = pixels(encoded(Image.fromarray(grey), "PNG", transparency=1000))
    assert result[0, :, 0].tolist() == [255, 4, 255]


def row_png(width: int, depth_bits: int, colour_type: int, row: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of one row in a layout that Pillow reads but does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth_bits, colour_type, 0, 0, 0))
    key = chunk(b"tRNS", transparent) if transparent else b""
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + key + data + chunk(b"IEND", b"")


def test_16_bit_rgb_png() -> None:
    row = struct.pack(">6H", 65535, 0, 32896, 0, 65535, 257)
    assert pixels(row_png(2, 16, 2, row)).tolist() == [[[255, 0, 128], [0, 255, 1]]]
    key = struct.pack(">3H", 0x0102, 0x0304, 0x0506)
    assert pixels(row_png(2, 16, 2, key + row[:6], key)).tolist() == [[list(WHITE), [255, 0, 128]]]


def test_16_bit_png_with_alpha() -> None:
    grey = struct.pack(">4H", 1000, 65535, 50000, 0)
    assert pixels(row_png(2, 16, 4, grey)).tolist() == [[[3, 3, 3], list(WHITE)]]
    colour = struct.pack(">8H", 65535, 0, 32896, 65535, 65535, 0, 0, 0)
    assert pixels(row_png(2, 16, 6, colour)).tolist() == [[[255, 0, 128], list(WHITE)]]


@pytest.mark.parametrize(
    ("depth_bits", "row", "greys"),
    [(1, b"\x40", [0, 255]), (2, b"\x1b", [0, 85, 170, 255]), (4, b"\x05\xf1", [0, 85, 255, 17])],
)
def test_shallow_grey_png_and_each_of_its_values_transparent(depth_bits: int, row: bytes, greys: list[int]) -> None:
    assert pixels(row_png(len(greys), depth_bits, 0, row))[0, :, 0].tolist() == greys
    for hidden in greys:
        key = struct.pack(">H", hidden * (2**depth_bits - 1) // 255)
        expected = [255 if grey == hidden else grey for grey in greys]
        assert pixels(row_png(len(greys), depth_bits, 0, row, key))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("depth_bits", [1, 2, 4])
def test_shallow_palette_with_transparency(depth_bits: int) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50] + [7, 8, 9] * (2**depth_bits - 2))
    image.putpixel((1, 0), 1)
    for hidden, expected in ((0, [list(WHITE), [200, 100, 50]]), (1, [[10, 20, 30], list(WHITE)])):
        content = encoded(image, "PNG", transparency=hidden)
        assert content[24] == depth_bits
        assert pixels(content)[0].tolist() == expected


def test_grey_and_bilevel() -> None:
    assert pixels(encoded(Image.new("L", (3, 2), 77), "PNG"))[0, 0].tolist() == [77, 77, 77]
    assert pixels(encoded(Image.new("L", (16, 16), 77), "JPEG"))[0, 0].tolist() == [77, 77, 77]
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    for kind in ("PNG", "BMP"):
        assert pixels(encoded(bits, kind))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_palette() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(encoded(image, "PNG"))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    assert pixels(encoded(image, "PNG", transparency=0))[0].tolist() == [[255, 255, 255], [200, 100, 50]]
    assert pixels(encoded(image, "PNG", transparency=b"\xff\x00"))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_pixels_are_white_and_half_transparent_ones_blend(kind: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (255, 0, 0, 128))
    row = pixels(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))[0].astype(int)
    assert row[0].tolist() == list(WHITE)
    assert row[1].tolist() == [0, 0, 0]
    assert np.abs(row[2] - (255, 127, 127)).max() <= 1


def test_grey_with_alpha_and_single_transparent_values() -> None:
    alpha = Image.new("LA", (2, 1), (9, 0))
    alpha.putpixel((1, 0), (9, 255))
    assert pixels(encoded(alpha, "PNG"))[0].tolist() == [[255, 255, 255], [9, 9, 9]]
    grey = Image.new("L", (2, 1), 9)
    grey.putpixel((1, 0), 10)
    assert pixels(encoded(grey, "PNG", transparency=9))[0].tolist() == [[255, 255, 255], [10, 10, 10]]
    colour = Image.new("RGB", (2, 1), (1, 2, 3))
    colour.putpixel((1, 0), (1, 2, 4))
    assert pixels(encoded(colour, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [1, 2, 4]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_first_frame_of_an_animation(kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    second = Image.new("RGB", (8, 8), "blue")
    content = encoded(Image.new("RGB", (8, 8), "red"), kind, save_all=True, append_images=[second], **options)
    assert np.array_equal(pixels(content), np.full((8, 8, 3), (255, 0, 0)))


def test_multi_picture_jpeg_of_a_phone() -> None:
    second = Image.new("RGB", (8, 8), "blue")
    content = encoded(Image.new("RGB", (16, 16), "red"), "MPO", save_all=True, append_images=[second])
    image = open_rgb(content)
    assert image.size == (16, 16)
    assert image.getpixel((0, 0))[0] > 250


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_what_phones_and_browsers_save(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.new("RGB", (64, 32), "blue")
    image.paste("red", (0, 0, 32, 32))
    exif = Image.Exif()
    if kind == "AVIF":  # HEIF turns by a field of its own, which decoders follow
        exif[0x0112] = 6
    whole = encoded(image, kind, quality=95, exif=exif)
    upright = pixels(whole).astype(int) if kind == "AVIF" else pixels(whole).astype(int).transpose(1, 0, 2)
    assert upright.shape == (64, 32, 3)
    assert np.abs(upright[10, 16] - (255, 0, 0)).max() < 30
    assert np.abs(upright[50, 16] - (0, 0, 255)).max() < 30
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(DataError):
            open_rgb(whole[: int(len(whole) * share)])


def test_heic_without_its_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tledge.data.decode._formats", lambda with_heif: ("PNG",))
    with pytest.raises(DataError, match=r"HEIC image, which needs one more package \(`pip install 'tledge\[heic\]'`\)"):
        open_rgb(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99)


def test_gif_with_a_transparent_colour_and_tiff_of_deep_grey() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(encoded(image, "GIF", transparency=0))[0].tolist() == [[255, 255, 255], [200, 100, 50]]
    grey = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert pixels(encoded(Image.fromarray(grey), "TIFF"))[0, :, 0].tolist() == [0, 100, 255]


def test_texts_and_profiles_of_a_png_are_no_part_of_the_picture() -> None:
    from PIL.PngImagePlugin import PngInfo

    image, info = noise(), PngInfo()
    info.add_text("prompt", "x" * 3_000_000, zip=True)
    info.add_itxt("workflow", "y" * 3_000_000, zip=True)
    for content in (encoded(image, "PNG", pnginfo=info), encoded(image, "PNG", icc_profile=b"\0" * 3_000_000)):
        assert np.array_equal(pixels(content), np.asarray(image))
        with pytest.raises(DataError, match="damaged"):
            open_rgb(content[:-1000])


def test_wide_image_is_stretched_to_the_square() -> None:
    image = Image.new("RGB", (400, 10), "black")
    image.paste("white", (200, 0, 400, 10))
    result = resize(image, 20)
    assert (result.shape, result.dtype, RESIZE_METHOD) == ((20, 20, 3), np.uint8, "bilinear")
    assert result[:, :9].max() == 0
    assert result[:, 11:].min() == 255


def test_resize_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = resize(Image.fromarray(stripes), 16)[:, 1:-1].astype(int)
    assert np.abs(inner - 128).max() <= 2


def test_decode_is_deterministic_and_same_for_path_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(noise(301, 203), "JPEG"))
    first = decode(path, 64)
    assert (first.shape, first.dtype) == ((64, 64, 3), np.uint8)
    for _ in range(3):
        assert np.array_equal(decode(path, 64), first)
    assert np.array_equal(resize(open_rgb(path.read_bytes()), 64), first)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    whole = encoded(noise(), kind)
    for share in (0.01, 0.1, 0.5, 0.9, 0.98):
        path = tmp_path / f"cut-{share}.jpg"
        path.write_bytes(whole[: max(1, int(len(whole) * share))])
        with pytest.raises(DataError, match=path.name) as caught:
            decode(path, 8)
        assert "\n" not in str(caught.value)


def test_refused_files_are_named_with_the_reason(tmp_path: Path) -> None:
    contents = {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"no picture here\n" * 20, "is no AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"),
        "eps.jpg": (encoded(noise(), "EPS"), "is no AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"),
        "floats.tif": (encoded(Image.new("F", (3, 2), 0.5), "TIFF"), "holds floats"),
        "deep.tif": (encoded(Image.new("I", (3, 2), 70_000), "TIFF"), "greys beyond 16 bits"),
        "damaged.png": (encoded(noise(), "PNG")[:200], "damaged"),
    }
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} .*{reason}"):
            decode(tmp_path / name, 8)
    with pytest.raises(DataError, match=r"gone\.jpg cannot be read \(No such file"):
        decode(tmp_path / "gone.jpg", 8)
    with pytest.raises(DataError, match="cannot be read"):
        decode(tmp_path, 8)


def test_a_few_missing_bytes_are_noticed_unless_every_pixel_is_there() -> None:
    for kind, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {})):
        whole = encoded(noise(), kind, **options)
        refused = 0
        for missing in range(1, 60):
            try:
                assert np.array_equal(pixels(whole[:-missing]), pixels(whole)), (kind, missing)
            except DataError:
                refused += 1
        # PNG ends in 20 bytes of checksums and of an empty chunk.
        assert refused >= 59 - (20 if kind == "PNG" else 0), kind


def test_a_name_with_a_line_break_is_shown_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\\nb\.jpg") as caught:
        decode(tmp_path / "a\nb.jpg", 8)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(), "PNG"))
    path.chmod(0)
    with pytest.raises(DataError, match=r"a\.png cannot be read \(Permission denied"):
        decode(path, 8)


def test_decompression_bomb_is_refused_as_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(DataError, match=r"too large \(more than 1000 pixels\)"):
        open_rgb(encoded(noise(), "PNG"))


def test_large_images_pass_without_noise_and_threads_leave_other_warnings_alone() -> None:
    # In a process of its own: pytest rearranges warning filters.
    script = """
import io, warnings
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from tledge.data.decode import open_rgb
Image.MAX_IMAGE_PIXELS = 5000
stream = io.BytesIO()
Image.new("RGB", (90, 90)).save(stream, "JPEG")
before = list(warnings.filters)
with ThreadPoolExecutor(16) as pool:
    list(pool.map(open_rgb, [stream.getvalue()] * 1500))
assert list(warnings.filters) == before
warnings.warn("someone else's")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "DecompressionBomb" not in done.stderr
    assert "someone else's" in done.stderr


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_random_damage_never_escapes_as_another_error() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    sources = [encoded(noise(), kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    sources += [encoded(noise(), "BMP"), encoded(noise().quantize(), "PNG", transparency=0)]
    sources += [encoded(noise(), kind) for kind in ("GIF", "PPM", "AVIF")]
    sources += [encoded(noise(), "TIFF", compression=name) for name in ("raw", "tiff_lzw", "jpeg")]
    rng = np.random.default_rng(1)
    for source in sources:
        for _ in range(300):
            damaged = np.frombuffer(source, np.uint8).copy()
            damaged[rng.integers(0, min(len(damaged), 400), 3)] = rng.integers(0, 256, 3)
            # Anything but DataError escapes and fails the test.
            with contextlib.suppress(DataError):
                assert open_rgb(damaged.tobytes()).mode == "RGB"
