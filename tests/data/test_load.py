"""The one decoding pass: digests, unreadable files by name, pixels kept or streamed, memory bounded."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import DataError
from tledge.data import pixels as pixels_module
from tledge.data.decode import decode
from tledge.data.pixels import LoadedImages, PixelStore, load_images
from tledge.data.scan import list_images

SIZE = 16
ONE = SIZE * SIZE * 3


def make(root: Path, per_class: int = 6, classes: tuple[str, ...] = ("a", "b")) -> Path:
    rng = np.random.default_rng(0)
    for label in classes:
        (root / label).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 256, (20 + number, 30, 3), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number:03}.png")
    return root


def load(root: Path, *, skip: bool = False, budget: int = 1 << 30, workers: int | None = None) -> LoadedImages:
    return load_images(list_images(root), SIZE, skip_unreadable=skip, budget_bytes=budget, workers=workers)


def test_digests_and_pixels_of_every_file_in_order(tmp_path: Path) -> None:
    loaded = load(make(tmp_path))
    assert len(loaded.files) == len(loaded.pixels) == 12
    assert loaded.unreadable == ()
    for index, file in enumerate(loaded.files):
        path = tmp_path / file.path
        assert loaded.sha256[index] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert np.array_equal(loaded.pixels.take([index])[0], decode(path, SIZE))


def test_pixel_digest_sees_through_the_file_format_but_not_through_shape(tmp_path: Path) -> None:
    make(tmp_path)
    with Image.open(tmp_path / "a/000.png") as image:
        image.save(tmp_path / "a/copy.bmp")
        turned = np.asarray(image).reshape(30, 20, 3)
    Image.fromarray(turned).save(tmp_path / "b/reshaped.png")
    loaded = load(tmp_path)
    at = {file.path: index for index, file in enumerate(loaded.files)}
    original, copy, reshaped = at["a/000.png"], at["a/copy.bmp"], at["b/reshaped.png"]
    assert loaded.sha256[original] != loaded.sha256[copy]
    assert loaded.pixels_sha256[original] == loaded.pixels_sha256[copy]
    assert loaded.pixels_sha256[original] != loaded.pixels_sha256[reshaped]


def test_streaming_keeps_nothing_and_yields_the_same(tmp_path: Path) -> None:
    make(tmp_path)
    kept, streamed = load(tmp_path, budget=12 * ONE), load(tmp_path, budget=12 * ONE - 1)
    assert kept.pixels.nbytes_kept == 12 * ONE
    assert streamed.pixels.kept is None
    assert streamed.pixels.nbytes_kept == 0
    assert (streamed.sha256, streamed.pixels_sha256) == (kept.sha256, kept.pixels_sha256)
    order = np.array([7, 0, 0, 11, 3])
    assert np.array_equal(streamed.pixels.take(order), kept.pixels.take(order))
    assert streamed.pixels.take(order).shape == (5, SIZE, SIZE, 3)
    assert streamed.pixels.take([]).shape == kept.pixels.take([]).shape == (0, SIZE, SIZE, 3)
    for store in (kept.pixels, streamed.pixels):
        batches = list(store.batches(np.arange(12), 5))
        assert [len(batch) for batch in batches] == [5, 5, 2]
        assert np.array_equal(np.concatenate(batches), kept.pixels.take(range(12)))


def test_every_file_is_decoded_exactly_once_and_few_are_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, per_class=60)
    lock = threading.Lock()
    started = finished = 0
    seen: list[int] = []
    original = pixels_module._examine

    def counting(path: Path, size_px: int, resizer: Any) -> object:
        nonlocal started
        with lock:
            started += 1
            seen.append(started - finished)
        return original(path, size_px, resizer)

    def progress(done: int, total: int) -> None:
        nonlocal finished
        assert (done, total) == (finished + 1, 120)
        time.sleep(0.001)
        with lock:
            finished = done

    monkeypatch.setattr(pixels_module, "_examine", counting)
    load_images(list_images(tmp_path), SIZE, skip_unreadable=False, progress=progress, workers=3)
    assert (started, finished) == (120, 120)
    # A slow consumer does not make decoded images pile up: 2 * workers + 1, and the one in the consumer's hands.
    assert max(seen) <= 2 * 3 + 2


def test_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    one, many = load(tmp_path, workers=1), load(tmp_path, workers=8)
    assert (one.files, one.sha256, one.pixels_sha256) == (many.files, many.sha256, many.pixels_sha256)
    assert np.array_equal(one.pixels.take(range(12)), many.pixels.take(range(12)))


def test_next_batch_is_decoded_while_the_caller_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(make(tmp_path), budget=0)
    decoded: set[str] = set()
    second_batch = {str(tmp_path / file.path) for file in loaded.files[4:8]}
    ready = threading.Event()
    original = pixels_module.read_content

    def watched(path: Path) -> bytes:
        decoded.add(str(path))
        if second_batch <= decoded:
            ready.set()
        return original(path)

    monkeypatch.setattr(pixels_module, "read_content", watched)
    batches = loaded.pixels.batches(np.arange(12), 4)
    next(batches)
    assert ready.wait(5)
    assert sum(len(batch) for batch in batches) == 8


def test_a_caller_may_stop_in_the_middle(tmp_path: Path) -> None:
    batches = load(make(tmp_path), budget=0).pixels.batches(np.arange(12), 1)
    next(batches)
    before = threading.active_count()
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before


def test_unreadable_files_are_all_named_with_reasons(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "a/empty.jpg").touch()
    (tmp_path / "a/text.jpg").write_text("no picture")
    (tmp_path / "b/cut.png").write_bytes((tmp_path / "b/000.png").read_bytes()[:300])
    (tmp_path / "b/link.jpg").symlink_to("gone.jpg")
    Image.new("L", (4, 4)).save(tmp_path / "b/eps.jpg", "EPS")
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    message = str(caught.value)
    for part in (
        "a/empty.jpg is empty",
        "a/text.jpg is no",
        "b/cut.png is damaged",
        "b/link.jpg cannot",
        "b/eps.jpg is no",
    ):
        assert part in message
    assert "--skip-unreadable" in message
    assert "\n" not in message
    for budget in (1 << 30, 0):
        loaded = load(tmp_path, skip=True, budget=budget)
        assert [path for path, _ in loaded.unreadable] == [
            "a/empty.jpg",
            "a/text.jpg",
            "b/cut.png",
            "b/eps.jpg",
            "b/link.jpg",
        ]
        assert len(loaded.files) == len(loaded.sha256) == len(loaded.pixels) == 12
        for index, file in enumerate(loaded.files):
            assert np.array_equal(loaded.pixels.take([index])[0], decode(tmp_path / file.path, SIZE))


def test_many_unreadable_files_are_counted(tmp_path: Path) -> None:
    make(tmp_path)
    for number in range(25):
        (tmp_path / f"a/bad{number:02}.jpg").touch()
    with pytest.raises(DataError, match="and 15 more") as caught:
        load(tmp_path)
    assert "bad09" in str(caught.value)
    assert "bad10" not in str(caught.value)


def test_class_without_a_readable_image_cannot_be_skipped(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/1.jpg").touch()
    with pytest.raises(DataError, match="every class, but c has none"):
        load(tmp_path, skip=True)


def test_file_that_changes_or_vanishes_between_passes_is_named(tmp_path: Path) -> None:
    store = load(make(tmp_path), budget=0).pixels
    Image.new("RGB", (20, 30)).save(tmp_path / "a/001.png")
    (tmp_path / "b/002.png").unlink()
    with pytest.raises(DataError, match=r"a/001\.png has changed"):
        store.take([1])
    with pytest.raises(DataError, match=r"b/002\.png cannot be read"):
        list(store.batches(np.arange(12)[6:], 3))
    assert len(store.take([0, 2])) == 2


def test_store_from_paths_alone(tmp_path: Path) -> None:
    make(tmp_path)
    paths = sorted(tmp_path.glob("*/*.png"))
    store = PixelStore(paths, SIZE)
    assert (len(store), store.size_px, store.nbytes_kept) == (12, SIZE, 0)
    assert np.array_equal(store.take([3])[0], decode(paths[3], SIZE))
