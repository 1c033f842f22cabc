"""Random resizers: half of the pictures, another half each epoch, the same for a seed, in training alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.test_head import training_task
from tledge.core.image_size import ImageSize, height_width
from tledge.core.types import Images
from tledge.data.decode import Resizer
from tledge.data.pixels import PixelStore
from tledge.training.random_resizing import RandomResizing

SIDE = 8


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    """60 pictures of another size, each of one grey of its own."""
    for number in range(60):
        Image.new("RGB", (12, 9), (number,) * 3).save(tmp_path / f"{number:02d}.png")
    return PixelStore(sorted(tmp_path.glob("*.png")), SIDE)


def brighter(by: int) -> Resizer:
    """A resizer whose pictures can be told from others."""

    def resizer(image: Image.Image, size_px: ImageSize) -> Images:
        return np.full((*height_width(size_px), 3), image.getpixel((0, 0))[0] + by, np.uint8)

    return resizer


def ways_of(epoch: Images, rows: np.ndarray) -> np.ndarray:
    return (epoch[:, 0, 0, 0] - rows) // 60


def test_each_epoch_draws_other_ways_for_about_half(store: PixelStore) -> None:
    first, again = (RandomResizing(store, [brighter(60), brighter(120)], seed=3) for _ in range(2))
    rows, epochs = np.arange(60), []
    for _ in range(20):
        first.draw(60)
        again.draw(60)
        epochs.append(ways_of(first.take(rows, rows), rows))
        backwards = rows[::-1]  # in whatever order and batches they are taken
        parts = [again.take(part, part) for part in np.array_split(backwards, 7)]
        np.testing.assert_array_equal(ways_of(np.concatenate(parts), backwards)[::-1], epochs[-1])
    ways = np.stack(epochs)
    shares = [np.mean(ways == way) for way in range(3)]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.06)
    assert not any(np.array_equal(one, other) for one, other in pairwise(ways))
    other = RandomResizing(store, [brighter(60), brighter(120)], seed=4)
    other.draw(60)
    assert not np.array_equal(ways_of(other.take(rows, rows), rows), ways[0])


def test_rows_are_those_of_the_training_images(store: PixelStore) -> None:
    """Training images stand anywhere in the store: ways go by their own numbers."""
    images = RandomResizing(store, [brighter(60)], seed=0)
    images.draw(3)
    indices, rows = np.asarray([40, 7, 59]), np.arange(3)
    whole = ways_of(images.take(indices, rows), indices)
    for row in rows:
        assert ways_of(images.take(indices[[row]], rows[[row]]), indices[[row]]) == whole[row]


def test_validation_and_the_saved_model_know_nothing_of_it(store: PixelStore, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    from tledge.training.fit import fit_on_pixels

    seen: list[int] = []

    def spying(image: Image.Image, size_px: ImageSize) -> Images:
        seen.append(image.getpixel((0, 0))[0])
        return brighter(100)(image, size_px)

    pixels = keras.Input((SIDE, SIDE, 3))
    scores = keras.layers.Dense(2, activation="softmax")(keras.layers.GlobalAveragePooling2D()(pixels))
    model = keras.Model(pixels, scores)
    task = training_task(model, store, np.arange(60) % 2, tmp_path, epochs=4)
    task = replace(task, augment=True, other_resizers=(spying,))
    training = fit_on_pixels(task)
    assert len(training.history) == 4
    assert set(seen) <= set(task.train[0].tolist())
    assert len(set(seen)) > 30
    assert 40 <= len(seen) <= 120  # of 40 images in four epochs, half
    assert len(model.layers) == 3
