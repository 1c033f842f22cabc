"""Bounded memory and honesty of the pixel store; the rest of the decoding pass is in test_data_load.py."""

from __future__ import annotations

import gc
import os
import shutil
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import DataError
from tledge.data import pixels as pixels_module
from tledge.data.decode import open_rgb
from tledge.data.pixels import LoadedImages, PixelStore, load_images
from tledge.data.scan import list_images
from tledge.data.split import split_images

COUNT, SIZE = 200, 64
ONE = SIZE * SIZE * 3


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 different images of two classes; no test changes them."""
    root = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(folder / f"{number:03}.png")
    return root


@pytest.fixture
def few(many: Path, tmp_path: Path) -> Path:
    """Four images of each class, to change."""
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for path in sorted((many / label).iterdir())[:4]:
            shutil.copy(path, tmp_path / "data" / label)
    return tmp_path / "data"


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "available_cores", lambda: 2)


def load(root: Path, *, skip: bool = False, budget: int = 0) -> LoadedImages:
    return load_images(list_images(root), SIZE, skip_unreadable=skip, budget_bytes=budget)


class Alive:
    """Counts images decoded at full size, and the most of them that existed at one time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.total = self.now = self.most = 0
        self._lock = threading.Lock()
        monkeypatch.setattr(pixels_module, "open_rgb", self._open)

    def _open(self, content: bytes) -> Image.Image:
        image = open_rgb(content)
        with self._lock:
            self.total += 1
            self.now += 1
            self.most = max(self.most, self.now)
        weakref.finalize(image, self._gone)
        return image

    def _gone(self) -> None:
        with self._lock:
            self.now -= 1


def peak_bytes(work: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("two_cores")
def test_only_one_image_per_thread_exists_at_full_size(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = Alive(monkeypatch)
    loaded = load(many)
    assert alive.total == COUNT
    loaded.pixels.take(range(COUNT))
    assert alive.total == 2 * COUNT
    assert alive.most <= 2
    assert alive.now == 0


@pytest.mark.usefixtures("two_cores")
def test_batches_do_not_run_ahead_of_a_slow_consumer(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = load(many).pixels
    alive = Alive(monkeypatch)
    consumed, ahead = 0, []
    for batch in store.batches(np.arange(COUNT), 4):
        time.sleep(0.004)
        ahead.append(alive.total - consumed)
        consumed += len(batch)
    assert (consumed, alive.total) == (COUNT, COUNT)
    # Three batches under way or waiting, and the one in the consumer's hands.
    assert max(ahead) <= 4 * 4
    # It does run ahead: otherwise the consumer would wait for every batch.
    assert max(ahead) > 4


@pytest.mark.usefixtures("two_cores")
def test_streaming_needs_a_fraction_of_the_memory(many: Path) -> None:
    kept = peak_bytes(lambda: load(many, budget=COUNT * ONE))
    streamed = peak_bytes(lambda: load(many))
    assert kept > COUNT * ONE
    assert streamed < COUNT * ONE / 4
    store = load(many).pixels
    assert peak_bytes(lambda: [batch.sum() for batch in store.batches(np.arange(COUNT), 8)]) < COUNT * ONE / 3


def test_streamed_and_kept_pixels_are_equal(many: Path) -> None:
    streamed, kept = load(many).pixels, load(many, budget=COUNT * ONE).pixels
    assert (streamed.kept, streamed.nbytes_kept, kept.nbytes_kept) == (None, 0, COUNT * ONE)
    order = np.random.default_rng(1).permutation(COUNT)
    assert np.array_equal(streamed.take(order), kept.take(order))
    for batch_size in (1, 7, COUNT, 10 * COUNT):
        pairs = list(zip(streamed.batches(order, batch_size), kept.batches(order, batch_size), strict=True))
        assert all(np.array_equal(one, other) for one, other in pairs)
        assert np.array_equal(np.concatenate([one for one, _ in pairs]), kept.take(order))
    assert list(streamed.batches([], 4)) == list(kept.batches([], 4)) == []


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_changing_what_was_taken_does_not_change_the_store(few: Path, budget: int) -> None:
    store = load(few, budget=budget).pixels
    first = store.take([0]).copy()
    store.take([0])[:] = 0
    next(iter(store.batches([0], 1)))[:] = 0
    assert np.array_equal(store.take([0]), first)
    assert first.any()


def test_an_index_out_of_range_is_an_error_either_way(few: Path) -> None:
    for budget in (0, 1 << 30):
        with pytest.raises(IndexError):
            load(few, budget=budget).pixels.take([8])


def test_an_upright_photo_and_its_turned_copy_are_one_picture(few: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(few / "a/000.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(few / "a/turned.png", exif=exif)
    loaded = load(few)
    digests = {file.path: digest for file, digest in zip(loaded.files, loaded.pixels_sha256, strict=True)}
    assert digests["a/turned.png"] == digests["a/000.png"]
    assert len(set(digests.values())) == 8


def test_skipped_files_shift_neither_pixels_nor_digests(few: Path) -> None:
    (few / "a/000.png").write_bytes(b"")
    shutil.copy(few / "b/001.png", few / "b/000-cut.png")
    os.truncate(few / "b/000-cut.png", 500)
    for budget in (0, 1 << 30):
        loaded = load(few, skip=True, budget=budget)
        assert [path for path, _ in loaded.unreadable] == ["a/000.png", "b/000-cut.png"]
        taken = loaded.pixels.take(range(7))
        for index, file in enumerate(loaded.files):
            assert loaded.pixels.paths[index] == few / file.path
            assert np.array_equal(taken[index], PixelStore([few / file.path], SIZE).take([0])[0])
        split = split_images(loaded, val_fraction=0.2, test_fraction=0.2, seed=0)
        assert [row.path for row in split.rows] == [file.path for file in loaded.files]
        assert [row.sha256 for row in split.rows] == list(loaded.sha256)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission_is_named(few: Path) -> None:
    (few / "b/001.png").chmod(0)
    with pytest.raises(DataError, match=r"b/001\.png cannot be read \(Permission denied\)"):
        load(few)
    assert load(few, skip=True).unreadable == (("b/001.png", "cannot be read (Permission denied)"),)


def test_a_folder_that_takes_the_place_of_a_file_is_named(few: Path) -> None:
    listing = list_images(few)
    (few / "a/000.png").unlink()
    (few / "a/000.png").mkdir()
    with pytest.raises(DataError, match=r"a/000\.png cannot be read \(Is a directory\)"):
        load_images(listing, SIZE, skip_unreadable=False)


def test_an_error_in_the_stream_reaches_the_consumer_and_leaves_no_thread(few: Path) -> None:
    store = load(few).pixels
    (few / "b/003.png").write_bytes(b"changed")
    threads = threading.active_count()
    batches = store.batches(np.arange(8), 2)
    # Files are sorted: b/003.png is the sixth, so the first two batches are whole.
    assert [len(next(batches)), len(next(batches))] == [2, 2]
    with pytest.raises(DataError, match=r"b/003\.png has changed"):
        next(batches)
    assert threading.active_count() == threads


def test_an_interrupted_pass_leaves_no_thread(many: Path) -> None:
    threads = threading.active_count()

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_images(list_images(many), SIZE, skip_unreadable=False, progress=interrupt)
    gc.collect()
    assert threading.active_count() == threads


def test_messages_about_a_root_with_a_line_break_stay_on_one_line(few: Path) -> None:
    odd = few.rename(few.parent / "my\ndata")
    loaded = load(odd)
    (odd / "a/000.png").write_bytes(b"")
    for work in (lambda: load(odd), lambda: loaded.pixels.take([0])):
        with pytest.raises(DataError, match=r"my\\ndata.*") as caught:
            work()
        assert "\n" not in str(caught.value)
        assert "a/000.png" in str(caught.value)
