"""Folders that TensorFlow Datasets has prepared: unpacked as they are; others refused in a line."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import DataError, MissingDependencyError
from tledge.core.user_folders import cache_folder
from tledge.data.scan import list_images
from tledge.runs.rundir import folder_of_images

tf = pytest.importorskip("tensorflow")

LABELS = [0, 1, 2, 0, 1, 2]
CORE = "tensorflow_datasets.core.features"
# As the package writes it, shortened.
FEATURES: Mapping[str, Any] = {
    "image": {"image": {"dtype": "uint8"}, "pythonClassName": f"{CORE}.image_feature.Image"},
    "label": {"classLabel": {"numClasses": "3"}, "pythonClassName": f"{CORE}.class_label_feature.ClassLabel"},
    "file_name": {"text": {}, "pythonClassName": f"{CORE}.text_feature.Text"},
}


def _encoded(number: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (9, 8, 3), np.uint8)
    Image.fromarray(pixels).save(content, "JPEG" if number % 2 else "PNG")
    return content.getvalue()


FILES = [_encoded(number) for number in range(len(LABELS))]


def write(
    folder: Path,
    splits: Mapping[str, Sequence[Sequence[int]]],
    features: Mapping[str, Any] = FEATURES,
    *,
    names: str = "cat\ndog\nowl\n",
    info: Mapping[str, Any] | None = None,
) -> Path:
    """A prepared data set; `splits` are the classes of the images of each shard."""
    folder.mkdir(parents=True)
    for split, shards in splits.items():
        for number, labels in enumerate(shards):
            name = f"my-animals-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
            with tf.io.TFRecordWriter(str(folder / name)) as writer:
                for content, label in zip(FILES, labels, strict=False):
                    writer.write(_example(content, label))
    described = [
        {"name": split, "shardLengths": [str(len(labels)) for labels in shards]} for split, shards in splits.items()
    ]
    said = {"name": "my-animals", "version": "1.0.0", "fileFormat": "tfrecord", "splits": described, **(info or {})}
    (folder / "dataset_info.json").write_text(json.dumps(said))
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": dict(features)}}))
    if names:
        (folder / "label.labels.txt").write_text(names)
    return folder


def _example(content: bytes, label: int) -> bytes:
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"../a"])),
    }
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def test_it_is_unpacked_as_it_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "my_animals" / "1.0.0", {"train": [LABELS]})
    listing = list_images(folder)
    assert listing.classes == ("cat", "dog", "owl")
    assert {file.subset for file in listing.files} == {None}
    assert [(listing.root / file.path).read_bytes() for file in listing.files] == [FILES[i] for i in (0, 3, 1, 4, 2, 5)]
    assert [Path(file.path).suffix for file in listing.files] == [".png", ".jpg", ".jpg", ".png", ".png", ".jpg"]
    assert listing.form == "images of 1.0.0"
    assert folder_of_images(folder) == listing.root
    above = list_images(folder.parent)
    assert above.files == listing.files
    assert "tensorflow_datasets" not in sys.modules


def test_shards_and_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tledge")
    splits = {"train": [LABELS, LABELS[:3]], "validation": [LABELS[:3]], "test": [LABELS], "pre-train": [LABELS[:4]]}
    listing = list_images(write(tmp_path / "a", splits))
    assert [sum(file.subset == subset for file in listing.files) for subset in ("train", "val", "test")] == [9, 3, 6]
    assert [record.getMessage() for record in caplog.records] == [
        "data: left out 4 images of pre-train, which is no subset"
    ]


def test_numbers_without_names_and_images_without_a_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tledge")
    listing = list_images(write(tmp_path / "a", {"train": [LABELS], "test": [[-1] * 6]}, names=""))
    assert listing.classes == ("0", "1", "2")
    assert {file.subset for file in listing.files} == {"train"}
    assert [record.getMessage() for record in caplog.records] == ["data: left out 6 images without a class"]


def test_several_images_or_classes_are_told_by_their_names(tmp_path: Path) -> None:
    features = {"mask": FEATURES["image"], **FEATURES, "colour": FEATURES["label"]}
    assert list_images(write(tmp_path / "a", {"train": [LABELS]}, features)).classes == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("features", "info", "says"),
    [
        ({"image": FEATURES["image"]}, {}, r"one of classes in .*, but it has image \(Image\); write its images"),
        ({"a": FEATURES["image"], "b": FEATURES["image"], "label": FEATURES["label"]}, {}, "one feature of images"),
        ({"image": "x", "label": FEATURES["label"]}, {}, "features.json cannot be read"),
        ({"other": FEATURES["image"], "label": FEATURES["label"]}, {}, "cannot be read .*other"),
        (FEATURES, {"fileFormat": "array_record"}, "they are array_record; prepare it again"),
        (FEATURES, {"splits": [{"name": "train", "shardLengths": ["7"]}]}, "train has 6 of 7 images"),
        (FEATURES, {"splits": [{"name": "train", "shardLengths": ["many"]}]}, "dataset_info.json cannot be read"),
        (FEATURES, {"splits": [{"name": "test", "shardLengths": ["6"]}]}, "there are 0 of 1; prepare or copy it again"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_left(
    features: dict[str, Any], info: dict[str, Any], says: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", {"train": [LABELS]}, features, info=info)
    with pytest.raises(DataError, match=says) as caught:
        list_images(folder)
    assert "\n" not in str(caught.value)
    assert not list(cache_folder().glob("images/*"))


def test_a_class_that_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="numbers of the 2 classes"):
        list_images(write(tmp_path / "a", {"train": [LABELS]}, names="cat\ndog"))


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "gone"])
def test_damaged_files(damage: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"train": [LABELS, LABELS]})
    shard = folder / "my-animals-train.tfrecord-00001-of-00002"
    content = bytearray(shard.read_bytes())
    content[20:60] = bytes(one ^ 255 for one in content[20:60])
    shard.write_bytes({"empty": b"", "text": b"TFRecord" * 9, "cut": shard.read_bytes()[:-9]}.get(damage, content))
    if damage == "gone":
        shard.unlink()
    with pytest.raises(DataError, match="prepare or copy it again") as caught:
        list_images(folder)
    assert "\n" not in str(caught.value)
    assert not list(cache_folder().glob("images/*"))


def test_versions_beside_each_other(tmp_path: Path) -> None:
    for version in ("1.0.0", "2.0.0"):
        write(tmp_path / "a" / version, {"train": [LABELS]})
    with pytest.raises(DataError, match=r"one version in .*, but there are 1\.0\.0, 2\.0\.0; pass one's folder"):
        list_images(tmp_path / "a")


def test_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "a", {"train": [LABELS]})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tledge\[full\]'"):
        list_images(folder)
