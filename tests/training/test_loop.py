"""A training that was interrupted goes on with the same steps; what is kept of it is believed only where it fits."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.test_head import training_task
from tests.training.test_random_resizing import SIDE
from tledge.core.errors import TledgeError
from tledge.core.image_size import ImageSize
from tledge.core.types import Images
from tledge.data.pixels import PixelStore
from tledge.training import loop
from tledge.training.fit import fit_on_pixels
from tledge.training.loop import Loop
from tledge.training.task import Training, TrainingTask

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PixelStore:
    """60 pictures of noise, every other one of which is darker."""
    folder = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    for number in range(60):
        values = generator.integers(0, 160 if number % 2 else 256, (SIDE, SIDE, 3))
        Image.fromarray(values.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return PixelStore(sorted(folder.glob("*.png")), SIDE)


@pytest.fixture(autouse=True)
def every_moment_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short, epochs and batches are worth keeping."""
    monkeypatch.setattr(loop, "_SHARE", math.inf)
    monkeypatch.setattr(loop, "_WITHIN_EPOCH_S", 0.0)


def darker(image: Image.Image, size_px: ImageSize) -> Images:
    """A way to resize whose pictures differ."""
    return np.asarray(image) // 2


def task_of(store: PixelStore, folder: Path, *, augment: bool = False, **changes: Any) -> TrainingTask:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=1))(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(2, activation="softmax", kernel_initializer=keras.initializers.HeNormal(seed=2))(x)
    task = training_task(keras.Model(pixels, x), store, np.arange(60) % 2, folder, epochs=5)
    others = (darker,) if augment else ()
    return replace(task, augment=augment, other_resizers=others, work=folder / "work", **changes)


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, epochs: int, batches: int) -> None:
    """Ctrl-C once so many epochs, and batches of the next, are done and kept."""
    original: Callable[..., None] = getattr(Loop, name)

    def until(self: Loop, number: int, logs: Any = None) -> None:
        original(self, number, logs)
        if (len(self.rows), self._batches) == (epochs, batches):
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, name, until)


def numbers(training: Training) -> list[tuple[float, ...]]:
    return [(e.epoch, e.loss, e.accuracy, e.val_loss, e.val_accuracy) for e in training.history]


@pytest.mark.parametrize(
    ("augment", "name", "epochs", "batches", "line"),
    [
        (False, "_epoch_ends", 1, 0, "resumed after epoch 1 of 5"),
        (True, "_batch_ends", 0, 2, "resumed after batch 2 of 3 in epoch 1 of 5"),
        (True, "_batch_ends", 2, 1, "resumed after batch 1 of 3 in epoch 3 of 5"),
    ],
)
def test_the_same_steps_follow(
    augment: bool,
    name: str,
    epochs: int,
    batches: int,
    line: str,
    store: PixelStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    undisturbed = task_of(store, tmp_path / "undisturbed", augment=augment)
    expected = fit_on_pixels(undisturbed)
    with monkeypatch.context() as patch:
        interrupt(patch, name, epochs, batches)
        with pytest.raises(KeyboardInterrupt):
            fit_on_pixels(task_of(store, tmp_path, augment=augment))
    again = task_of(store, tmp_path, augment=augment)
    with caplog.at_level(logging.INFO, "tledge"):
        found = fit_on_pixels(again, pytest.fail)
    assert [record.message for record in caplog.records] == [f"training {line}"]
    assert numbers(found) == numbers(expected)
    assert found.best_epoch == expected.best_epoch
    for one, other in zip(undisturbed.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_training_that_stopped_early_is_not_continued(
    store: PixelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A step so long that the second epoch is worse than the first.
    task = task_of(store, tmp_path, patience=1, learning_rate=0.5)
    expected = fit_on_pixels(task)
    again = task_of(store, tmp_path, patience=1, learning_rate=0.5)
    assert len(expected.history) < 5
    with caplog.at_level(logging.INFO, "tledge"):
        assert fit_on_pixels(again, pytest.fail) == expected
    assert caplog.messages == [f"training was finished before, after epoch {len(expected.history)} of 5"]
    for one, other in zip(task.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_damaged_or_fits_another_net_is_passed_over(
    store: PixelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, "_epoch_ends", 1, 0)
        with pytest.raises(KeyboardInterrupt):
            fit_on_pixels(task_of(store, tmp_path))
    kept = tmp_path / "work" / "training.npz"
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    with np.load(kept) as arrays:
        other = dict(arrays) | {"weights-0": np.zeros((3, 3, 3, 5), np.float32)}
    np.savez(tmp_path / "other.npz", **other)
    began: list[int] = []
    for content in (whole[:-100], bytes(flipped), b"", (tmp_path / "other.npz").read_bytes()):
        kept.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.INFO, "tledge"):
            fit_on_pixels(task_of(store, tmp_path, epochs=1), lambda: began.append(1))
        (line,) = caplog.messages
        assert line.startswith(f"training begins anew: {kept} cannot be gone on from, ")
    assert len(began) == 4


def test_a_training_goes_on_where_nothing_can_be_kept(
    store: PixelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "work").write_bytes(b"no folder")
    with caplog.at_level(logging.INFO, "tledge"):
        assert len(fit_on_pixels(task_of(store, tmp_path, epochs=2)).history) == 2
    (line,) = caplog.messages
    assert line.startswith("training goes on, but how far it is can no longer be kept: ")


def test_a_training_that_diverged_is_not_kept(store: PixelStore, tmp_path: Path) -> None:
    with pytest.raises(TledgeError, match="diverged"):
        fit_on_pixels(task_of(store, tmp_path, learning_rate=1e38))
    assert not (tmp_path / "work").exists()
