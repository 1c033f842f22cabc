"""Images in Parquet files, as Hugging Face's `datasets` writes them: unpacked as they are; others refused in a line."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import DataError, MissingDependencyError
from tledge.core.user_folders import cache_folder
from tledge.data.scan import list_images
from tledge.runs.rundir import folder_of_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = np.random.default_rng(7).integers(0, 256, (6, 9, 8, 3), np.uint8)
LABELS = [0, 1, 2, 0, 1, 2]
NAMES = ["cat", "dog", "owl"]


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


FILES = [encoded(pixels) for pixels in IMAGES]
EMBEDDED = pa.struct({"bytes": pa.binary(), "path": pa.string()})
ELSEWHERE = [{"bytes": None, "path": "a\n.png"}] * 6
STRUCTS = [{"bytes": content, "path": None} for content in FILES]


def features(**others: Any) -> bytes:
    said = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}, **others}
    return json.dumps({"info": {"features": said}}).encode()


def write(path: Path, columns: dict[str, Any], said: bytes | None = None, **options: Any) -> Path:
    """A Parquet file; `said` is what `datasets` puts into its schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table if said is None else table.replace_schema_metadata({"huggingface": said}), path, **options)
    return path


def hugging(path: Path, labels: list[int | None] = LABELS) -> Path:
    return write(path, {"image": STRUCTS, "label": labels, "note": ["x"] * len(labels)}, features())


def test_a_file_of_datasets_is_unpacked_as_it_is(tmp_path: Path) -> None:
    listing = list_images(hugging(tmp_path / "animals.parquet"))
    assert listing.classes == ("cat", "dog", "owl")
    assert {file.subset for file in listing.files} == {None}
    assert [(listing.root / file.path).read_bytes() for file in listing.files] == [FILES[i] for i in (0, 3, 1, 4, 2, 5)]
    assert listing.form == "images of animals.parquet"
    assert folder_of_images(tmp_path / "animals.parquet") == listing.root


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001-0a69dc.parquet"),
        ("data/train-00000.parquet", "data/train-00001.parquet", "data/validation-00000.parquet"),
        ("train/0000.parquet", "train/0001.parquet", "validation/0000.parquet"),
        ("cifar10-train.parquet", "cifar10-train2.parquet", "cifar10-valid.parquet"),
    ],
)
def test_shards_and_subsets_by_their_names(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        hugging(tmp_path / name)
    (tmp_path / "README.md").write_text("A data set.")
    listing = list_images(tmp_path)
    assert [sum(file.subset == subset for file in listing.files) for subset in ("train", "val", "test")] == [12, 6, 0]


def test_files_of_one_subset_are_a_set_to_divide(tmp_path: Path) -> None:
    for name in ("test-00000-of-00002.parquet", "test-00001-of-00002.parquet"):
        hugging(tmp_path / name)
    assert {file.subset for file in list_images(tmp_path).files} == {None}


def test_other_folders_under_the_same_names_are_another_set(tmp_path: Path) -> None:
    hugging(tmp_path / "a" / "train" / "0.parquet")
    hugging(tmp_path / "a" / "validation" / "0.parquet", LABELS[::-1])
    hugging(tmp_path / "b" / "test" / "0.parquet")
    hugging(tmp_path / "b" / "train" / "0.parquet", LABELS[::-1])
    first, second = list_images(tmp_path / "a"), list_images(tmp_path / "b")
    assert first.root != second.root
    assert {file.subset for file in second.files} == {"train", "test"}


@pytest.mark.parametrize(
    "columns",
    [
        {"img": FILES, "label": ["cat", "dog", "owl"] * 2},
        {"x": FILES, "class": pa.array(["cat", "dog", "owl"] * 2).dictionary_encode(), "id": ["a"] * 6},
        {"image": STRUCTS, "mask": FILES, "label": ["cat", "dog", "owl"] * 2},
        {"image": pa.array(FILES, pa.large_binary()), "label": pa.array(["cat", "dog", "owl"] * 2, pa.large_string())},
    ],
)
def test_columns_are_found_without_a_word_of_datasets(columns: dict[str, Any], tmp_path: Path) -> None:
    listing = list_images(write(tmp_path / "a.parquet", columns))
    assert listing.classes == ("cat", "dog", "owl")
    assert (listing.root / "owl" / "000002.png").read_bytes() == FILES[2]


def test_suffixes_and_what_is_no_image(tmp_path: Path) -> None:
    images = [
        {"bytes": encoded(IMAGES[0], "JPEG"), "path": "a.JPEG"},
        {"bytes": encoded(IMAGES[1], "JPEG"), "path": "a.bin"},
        {"bytes": encoded(IMAGES[2], "WEBP"), "path": "deep/er.webp"},
        {"bytes": b"no image", "path": "../../etc/passwd"},
        {"bytes": b"", "path": None},
        {"bytes": FILES[5], "path": None},
    ]
    listing = list_images(write(tmp_path / "a.parquet", {"image": images, "label": ["a", "b"] * 3}))
    assert [Path(file.path).name for file in listing.files] == [
        *("000000.jpeg", "000002.webp", "000004.png"),
        *("000001.jpg", "000003.png", "000005.png"),
    ]


def test_images_without_a_class_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tledge")
    hugging(tmp_path / "train.parquet", [0, 1, 2, None, 1, 2])
    hugging(tmp_path / "test.parquet", [-1] * 6)
    assert {file.subset for file in list_images(tmp_path).files} == {"train"}
    said = [record.getMessage() for record in caplog.records]
    assert said == ["data: left out 1 image without a class", "data: left out 6 images without a class"]
    numbers = write(tmp_path / "sign" / "a.parquet", {"image": FILES, "label": [-1, 1] * 3})
    assert list_images(numbers).classes == ("-1", "1")  # nobody says there that -1 is none


def test_a_folder_of_images_with_a_table_in_it_stays_one(tmp_path: Path) -> None:
    hugging(tmp_path / "train.parquet")
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(FILES[0])
    assert list_images(tmp_path).form == "one folder a class, not divided"


@pytest.mark.parametrize(
    ("columns", "said", "says"),
    [
        ({"text": ["a"] * 6, "label": LABELS}, None, "but it has text, label; rename the right one to image"),
        ({"a": FILES, "b": FILES, "label": LABELS}, None, "but a, b could all be it"),
        ({"image": FILES, "weight": [0.5] * 6}, None, "a column of classes, whole numbers or names, called label"),
        ({"image": FILES, "label": [0.5] * 6}, None, "a column of classes"),
        ({"image": FILES, "label": [[1]] * 6}, None, "a column of classes"),
        ({"image": STRUCTS, "label": [0, 1, 3] * 2}, features(), "numbers of the 3 classes"),
        ({"image": STRUCTS, "label": LABELS}, b"{", "what it says of its columns is damaged"),
        ({"image": STRUCTS, "label": LABELS}, b'{"info": {"features": []}}', "what it says of its columns is damaged"),
        ({"image": pa.array(ELSEWHERE, EMBEDDED), "label": LABELS}, None, r"row 0 only names 'a\\n.png'"),
        ({"image": [{"bytes": FILES[0]}, None] * 3, "label": LABELS}, None, "row 1 has none"),
        ({"image": FILES, "label": ["a", "../b"] * 3}, None, "labels that can name folders"),
        ({"image": FILES, "label": ["a", "b\x1b"] * 3}, None, "labels that can name folders"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_left(
    columns: dict[str, Any], said: bytes | None, says: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.parquet", columns, said)
    with pytest.raises(DataError, match=says) as caught:
        list_images(path)
    assert "\n" not in str(caught.value)
    assert not list(cache_folder().glob("images/*"))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_damaged_files(damage: str, tmp_path: Path) -> None:
    path = hugging(tmp_path / "a.parquet")
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(one ^ 255 for one in content[20:60])
    path.write_bytes({"empty": b"", "text": b"PAR1" * 9, "cut": path.read_bytes()[:-9], "flipped": content}[damage])
    with pytest.raises(DataError, match=r"but .*a\.parquet cannot be read") as caught:
        list_images(path)
    assert "\n" not in str(caught.value)
    assert not list(cache_folder().glob("images/*"))


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    hugging(tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", {"image": FILES, "label": LABELS})
    with pytest.raises(DataError, match="the same columns and classes"):
        list_images(tmp_path)
    hugging(tmp_path / "test.parquet")
    hugging(tmp_path / "extra.parquet")
    with pytest.raises(DataError, match=r"extra\.parquet says no subset"):
        list_images(tmp_path)


def test_one_value_in_every_row_does_not_fill_the_disk(tmp_path: Path) -> None:
    """A dictionary holds it once: 64 kB in the file, 128 MB in rows."""
    value = np.random.default_rng(0).bytes(1 << 16)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array([value]))
    path = write(tmp_path / "a.parquet", {"image": column, "label": [0, 1] * 1000}, store_schema=False)
    assert path.stat().st_size < 1 << 18
    with pytest.raises(DataError, match="unpacks to more than 10 times what it says"):
        list_images(path)
    assert not list(cache_folder().glob("images/*"))


def test_rows_that_do_not_fit_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hugging(tmp_path / "a.parquet")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 100}))
    with pytest.raises(DataError, match="arrays that fit the free memory"):
        list_images(path)


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hugging(tmp_path / "a.parquet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tledge\[parquet\]'"):
        list_images(path)
