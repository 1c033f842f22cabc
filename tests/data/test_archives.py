"""Images that come as arrays: IDX and .npz become folders; damaged ones are refused."""

from __future__ import annotations

import gzip
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import DataError
from tledge.core.user_folders import cache_folder
from tledge.data.archives import unpack
from tledge.data.scan import list_images
from tledge.runs.images import how_to_restore

RNG = np.random.default_rng(5)
IMAGES = RNG.integers(0, 256, (12, 6, 5), np.uint8)
LABELS = np.asarray([0, 1, 7] * 4, np.uint8)


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}i", *values.shape) + values.tobytes()


def write_mnist(folder: Path, prefix: str, *, compressed: bool) -> None:
    folder.mkdir(exist_ok=True)
    for name, values in ((f"{prefix}-images-idx3-ubyte", IMAGES), (f"{prefix}-labels-idx1-ubyte", LABELS)):
        content = gzip.compress(idx(values)) if compressed else idx(values)
        (folder / (name + ".gz" * compressed)).write_bytes(content)


def pixels(root: Path, path: str) -> np.ndarray:
    return np.asarray(Image.open(root / path))


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_of_train_and_test(compressed: bool, tmp_path: Path) -> None:
    data = tmp_path / "mnist"
    write_mnist(data, "train", compressed=compressed)
    write_mnist(data, "t10k", compressed=compressed)
    listing = list_images(data)
    assert listing.classes == ("0", "1", "7")
    assert {file.subset for file in listing.files} == {"train", "test"}
    assert len(listing.files) == 24
    np.testing.assert_array_equal(pixels(listing.root, "test/7/000005.png"), IMAGES[5])


def test_one_idx_file_has_no_subset(tmp_path: Path) -> None:
    write_mnist(tmp_path, "digits", compressed=False)
    listing = list_images(tmp_path / "digits-images-idx3-ubyte")
    assert {file.subset for file in listing.files} == {None}


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
def test_npz_with_subsets(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **dict(zip(names, (IMAGES, LABELS[:, None], IMAGES, LABELS), strict=True)))
    listing = list_images(path)
    assert sum(file.subset == "test" for file in listing.files) == 12


@pytest.mark.parametrize(
    "images", [np.stack([IMAGES] * 3, -1), IMAGES[..., None], IMAGES / 255.0, IMAGES.astype(np.int64)]
)
def test_npz_of_any_usual_kind_gives_the_same_pixels(images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=images, labels=np.asarray(["cat", "dog", "owl"] * 4))
    listing = list_images(path)
    assert listing.classes == ("cat", "dog", "owl")
    grey = np.asarray(Image.open(listing.root / "owl/000005.png").convert("L"))
    np.testing.assert_array_equal(grey, IMAGES[5])


def test_the_same_archive_is_unpacked_once(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=IMAGES, y=LABELS)
    first = list_images(path).root
    stamp = (first / "0/000000.png").stat().st_mtime_ns
    assert list_images(path).root == first
    assert (first / "0/000000.png").stat().st_mtime_ns == stamp
    np.savez(path, x=255 - IMAGES, y=LABELS)
    assert list_images(path).root != first


def test_an_archive_is_unpacked_again_where_images_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=IMAGES, y=LABELS)
    listing = list_images(path)
    (listing.root / listing.files[3].path).unlink()
    again = list_images(path)
    assert again == listing
    (listing.root / ".count").write_bytes(b"\xff")
    assert list_images(path) == listing
    np.testing.assert_array_equal(pixels(again.root, "7/000005.png"), IMAGES[5])
    assert len(list(listing.root.parent.iterdir())) == 1


def test_images_that_are_gone_from_the_cache_are_unpacked_again_and_others_restored(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=IMAGES, y=LABELS)
    assert "`tledge select` with the same archive" in how_to_restore(list_images(path).root.resolve())
    assert how_to_restore(tmp_path).startswith("restore it, or say with --data DIR")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"x": IMAGES}, "but it holds x;"),
        ({"x": IMAGES, "y": LABELS[:-1]}, "N labels"),
        ({"x": IMAGES.astype(float) - 300, "y": LABELS}, "pixels as bytes"),
        ({"x": IMAGES, "y": np.asarray(["a/b"] * 12)}, "name folders"),
        ({"x": IMAGES, "y": np.asarray([{}] * 12)}, "cannot be read"),
    ],
)
def test_other_arrays_are_refused_and_nothing_is_left(
    content: dict[str, np.ndarray], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **content)
    with pytest.raises(DataError, match=says):
        list_images(path)
    assert not list(cache_folder().glob("images/*"))


@pytest.mark.parametrize("keep", [0, 3, 15, 100])
def test_truncated_idx(keep: int, tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", compressed=False)
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:keep])
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        list_images(tmp_path)


def test_labels_of_no_characters(tmp_path: Path) -> None:
    path, labels = tmp_path / "data.npz", np.array(["cat", "dog"] * 3)
    labels.view(np.uint32)[1] = 0x7FFFFFFF
    np.savez(path, x=np.zeros((6, 8, 8), np.uint8), y=labels)
    with pytest.raises(DataError, match=r"expected arrays in .*data\.npz, but it cannot be read"):
        list_images(path)


def test_truncated_npz_and_missing_labels(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=IMAGES, y=LABELS)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        list_images(path)
    write_mnist(tmp_path / "idx", "train", compressed=True)
    (tmp_path / "idx" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="labels"):
        list_images(tmp_path / "idx")


@pytest.mark.parametrize(
    ("prefixes", "says"),
    [
        (("emnist-balanced-train", "emnist-letters-train"), "emnist-letters-train-images-idx3-ubyte is the second"),
        (("train", "digits"), "digits-images-idx3-ubyte is neither train nor test"),
        (("a", "b"), "neither train nor test"),
    ],
)
def test_two_idx_files_for_one_subset_are_refused(prefixes: tuple[str, ...], says: str, tmp_path: Path) -> None:
    for prefix in prefixes:
        write_mnist(tmp_path, prefix, compressed=False)
    with pytest.raises(DataError, match=says):
        list_images(tmp_path)
    assert not list(cache_folder().glob("images/*"))


def test_an_idx_file_and_its_compressed_copy_are_refused(tmp_path: Path) -> None:
    for compressed in (False, True):
        write_mnist(tmp_path, "train", compressed=compressed)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is the second for train"):
        list_images(tmp_path)
    assert len(list_images(tmp_path / "train-images-idx3-ubyte").files) == 12


def test_class_folders_beside_idx_files_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", compressed=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").touch()
    assert len(list_images(tmp_path).files) == 12
    (tmp_path / "notes" / "1.png").touch()
    with pytest.raises(DataError, match="IDX files and images in the folder notes"):
        list_images(tmp_path)


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    with (tmp_path / "data.npz").open("wb") as stream:
        np.save(stream, IMAGES)
    with pytest.raises(DataError, match="single one"):
        list_images(tmp_path / "data.npz")


def npy(header: bytes, content: bytes = b"") -> bytes:
    """A .npy member with this header, whatever is in it."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


HEADER = b"{'descr': '|u1', 'fortran_order': False, 'shape': %s}\n"


@pytest.mark.parametrize(
    "images",
    [
        npy(HEADER % b"(4000000000, 4000000000, 4000000000)"),
        npy(HEADER % b"(18446744073709551616, 1, 1)"),
        npy(HEADER % b"(-1, -1, 5)", b"12345"),
        npy(HEADER % b"(" + b"(" * 5000),
        npy(b"{" * 9000),
        npy(b"\xff" * 50),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}\n", pickle.dumps([1, 2])),
        npy(b"{'descr': '<U3', 'fortran_order': False, 'shape': (2, 1, 1)}\n", b"0" * 24),
        npy(b"{'descr': '<c8', 'fortran_order': False, 'shape': (2, 1, 1)}\n", b"0" * 16),
        npy(b"{'descr': '<M8[s]', 'fortran_order': False, 'shape': (2, 1, 1)}\n", b"0" * 16),
        npy(b"{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2, 1, 1)}\n", b"00"),
        npy(HEADER % b"(2, 0, 0)"),
        npy(HEADER % b"(2, 1, 70000)", bytes(140_000)),
        pickle.dumps([1, 2]),
        b"no array at all",
        b"",
    ],
)
def test_hostile_members_are_refused_in_one_line(images: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2,)}\n", b"01"))
        archive.writestr("notes.txt", "not an array")
    with pytest.raises(DataError) as caught:
        unpack(tmp_path / "x.npz")
    assert str(tmp_path / "x.npz") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("sizes", [(2**31, 2**31, 4), (2**32 - 1,) * 3, (1, 2**31, 2**31), (2**20, 2**20, 0)])
def test_idx_headers_that_promise_too_much(sizes: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    pack = gzip.compress if suffix else bytes
    images = tmp_path / f"images-idx3-ubyte{suffix}"
    images.write_bytes(pack(bytes((0, 0, 8, 3)) + struct.pack(">3I", *sizes)))
    (tmp_path / "labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 1) + b"0")
    with pytest.raises(DataError) as caught:
        unpack(images)
    assert str(images) in str(caught.value)


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """Of 64 MB behind a header of three values, no more than those are read."""
    images = tmp_path / "images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + struct.pack(">3I", 1, 1, 3) + bytes(1 << 26)))
    (tmp_path / "labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + struct.pack(">I", 1) + b"0")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"3 values in .* it has more"):
            unpack(images)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
