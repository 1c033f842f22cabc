"""Ways to resize against what OpenCV 5.0.0 gave for the same noise, and against the plain stretch."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tledge.core.image_size import ImageSize
from tledge.data.decode import Resizer, resize
from tledge.data.resizers import (
    RESIZE_MODES,
    area,
    bilinear_no_antialias,
    crop,
    letterbox,
    other_resizers,
    resizer_of,
)

RESIZERS = {**other_resizers("stretch"), **{f"as {mode}": resizer_of(mode) for mode in RESIZE_MODES}}
NOISE = Image.fromarray(np.random.default_rng(7).integers(0, 256, (5, 7, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("resizer", "size_px", "expected"),
    [
        (bilinear_no_antialias, 3, [[162, 126, 146], [117, 233, 52], [122, 164, 165]]),
        (area, 3, [[136, 123, 121], [143, 141, 105], [136, 151, 158]]),
    ],
)
def test_red_of_noise_that_shrinks_is_opencvs(resizer: Resizer, size_px: int, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(resizer(NOISE, size_px)[:, :, 0], expected)


@pytest.mark.parametrize(
    ("resizer", "first", "last"),
    [
        (
            bilinear_no_antialias,
            [139, 207, 136, 28, 106, 170, 211, 156, 10],
            [122, 92, 94, 140, 230, 238, 209, 143, 63],
        ),
        (area, [139, 212, 140, 20, 106, 176, 211, 166, 10], [122, 90, 93, 131, 230, 239, 208, 149, 63]),
    ],
)
def test_red_of_noise_that_grows_is_opencvs(resizer: Resizer, first: list[int], last: list[int]) -> None:
    found = resizer(NOISE, 9)[:, :, 0].astype(int)
    np.testing.assert_allclose(found[[0, -1]], [first, last], atol=1)


@pytest.mark.parametrize("name", RESIZERS)
def test_an_image_of_the_right_size_stays_as_it_is(name: str) -> None:
    square = NOISE.crop((0, 0, 5, 5))
    np.testing.assert_array_equal(RESIZERS[name](square, 5), np.asarray(square))
    assert RESIZERS[name](NOISE, 16).shape == (16, 16, 3)


def test_the_middle_and_the_whole() -> None:
    """Left third red, middle third green, right third blue: the crop sees green alone, the letterbox all and bars."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    for third in range(3):
        pixels[:, 30 * third : 30 * third + 30, third] = 255
    wide = Image.fromarray(pixels)
    assert (crop(wide, 12) == (0, 255, 0)).all()
    boxed = letterbox(wide, 12)
    assert not boxed[:4].any()
    assert not boxed[8:].any()
    np.testing.assert_array_equal(boxed[4:8], np.asarray(wide.resize((12, 4), Image.Resampling.BILINEAR)))
    assert not np.array_equal(boxed, resize(wide, 12))


@pytest.mark.parametrize("name", RESIZERS)
def test_height_comes_before_width(name: str) -> None:
    assert RESIZERS[name](NOISE, (4, 10)).shape == (4, 10, 3)
    np.testing.assert_array_equal(RESIZERS[name](NOISE, (5, 7)), np.asarray(NOISE))


def test_what_apps_do_otherwise() -> None:
    filters = ["bilinear-no-antialias", "area", "bicubic", "nearest"]
    assert list(other_resizers("stretch")) == [*filters, "crop", "letterbox"]
    assert list(other_resizers("crop")) == [*filters, "stretch", "letterbox"]
    np.testing.assert_array_equal(other_resizers("letterbox")["area"](NOISE, 7)[1:6], area(NOISE, (5, 7)))
    cut = NOISE.crop((1, 0, 6, 5))
    np.testing.assert_array_equal(
        other_resizers("crop")["nearest"](NOISE, 3), other_resizers("stretch")["nearest"](cut, 3)
    )


@pytest.mark.parametrize(
    ("height", "width", "size_px", "rows", "columns"),
    [(30, 90, 12, 4, 12), (90, 30, 12, 12, 4), (10, 10, (6, 9), 6, 6), (3, 1000, 8, 1, 8), (45, 60, (30, 80), 30, 40)],
)
def test_a_letterboxed_picture_is_whole(height: int, width: int, size_px: ImageSize, rows: int, columns: int) -> None:
    white = Image.new("RGB", (width, height), (255, 255, 255))
    lit = letterbox(white, size_px).all(axis=2)
    inside = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    assert tuple(map(len, inside)) == (rows, columns)
    for places, length in zip(inside, lit.shape, strict=True):
        assert np.all(np.diff(places) == 1)
        assert length - 1 - places[-1] - places[0] in (0, 1)  # in the middle


def test_a_crop_keeps_the_shape_of_the_input() -> None:
    """Of a picture of one row for each row of the input, exactly the columns in the middle."""
    wide = np.random.default_rng(1).integers(0, 256, (12, 41, 3), np.uint8)
    np.testing.assert_array_equal(crop(Image.fromarray(wide), (12, 16)), wide[:, 12:28])
    tall = wide.swapaxes(0, 1)
    np.testing.assert_array_equal(crop(Image.fromarray(tall), (16, 12)), tall[12:28])
    assert crop(Image.new("RGB", (60_000, 1)), 224).shape == (224, 224, 3)
