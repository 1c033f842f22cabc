"""A data set that TensorFlow Datasets has prepared: a folder of TFRecord files and what they hold, as JSON.

`features.json` says which feature is the image and which the class, `dataset_info.json` how the images are divided.
TensorFlow reads the records, so the package itself is not needed: it would import what modules `features.json` names.
Images are written as they are, not encoded anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tledge.core.dependencies import require_installed, require_tensorflow
from tledge.core.errors import DataError
from tledge.core.foreign import foreign
from tledge.core.parsing import parse_json
from tledge.core.progress import say
from tledge.core.types import SUBSETS, Subset
from tledge.data.label_source import LABEL_NAMES
from tledge.data.names import counted, listed, shown
from tledge.data.packed import (
    IMAGE_NAMES,
    UNLABELLED,
    ArchiveKind,
    Columns,
    PackedImages,
    labelled,
    named,
    only,
    require_room,
)
from tledge.data.subsets import subset_called

_FEATURES, _INFO = "features.json", "dataset_info.json"
_FORM = "tfrecord"
_AT_ONCE = 32


@dataclass(frozen=True)
class _Split:
    """Images of one name: how many its files hold, and these."""

    name: str
    images: int
    shards: tuple[Path, ...]


def _files(path: Path) -> list[Path]:
    """All files of a prepared data set, or of the only version of one."""
    if not path.is_dir():
        return []
    # A folder that nobody may read is named by whoever lists the images.
    found = [
        one
        for one in (path, *sorted(path.glob("*/")))
        if os.path.isfile(one / _FEATURES) and os.path.isfile(one / _INFO)
    ]
    if not found:
        return []
    # The folder itself, before one in it; `complete` refuses several versions.
    chosen = found[:1] if found[0] == path else found
    return sorted(file for one in chosen for file in one.glob("[!.]*") if file.is_file())


def _complete(path: Path, found: list[Path]) -> list[Path]:
    require_installed("tensorflow")
    if len(versions := sorted({file.parent.name for file in found})) > 1:
        raise DataError(f"expected one version in {shown(path)}, but there are {listed(versions)}; pass one's folder")
    folder = found[0].parent
    _columns(folder)
    for split in _splits(folder, found):
        for shard in split.shards:
            require_room(shard, shard.stat().st_size)
    return found


def _read(files: list[Path]) -> Iterator[PackedImages]:
    columns, splits = _columns(files[0].parent), _splits(files[0].parent, files)
    known: dict[str, Subset | None] = {split.name: subset_called(split.name) for split in splits}
    if len(splits) == 1:
        known = {splits[0].name: None}
    for subset in (*SUBSETS, None):
        part = [split for split in splits if known[split.name] == subset]
        if subset is None and len(splits) > 1:
            for split in part:
                say(f"data: left out {counted(split.images, 'image')} of {shown(split.name)}, which is no subset")
        elif part:
            rows = (row for split in part for row in _images(split, columns))
            yield PackedImages(subset, labelled(rows, columns.classes))


def _columns(folder: Path) -> Columns:
    with foreign(lambda reason: _refusal(folder / _FEATURES, reason)):
        features = _json(folder / _FEATURES)["featuresDict"]["features"]
        kinds = {str(name): str(one["pythonClassName"]).rpartition(".")[2] for name, one in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    image, label = only(images) or named(images, IMAGE_NAMES), only(labels) or named(labels, LABEL_NAMES)
    if image is None or label is None:
        raise DataError(
            f"expected one feature of images and one of classes in {shown(folder)}, but it has "
            f"{listed([f'{name} ({kind})' for name, kind in kinds.items()])}; write its images into folders of classes"
        )
    names = folder / f"{label}.labels.txt"
    with foreign(lambda reason: _refusal(names, reason)):
        classes = tuple(names.read_text(encoding="utf-8").splitlines()) if names.is_file() else None
    return Columns(image, label, classes)


def _splits(folder: Path, files: Sequence[Path]) -> list[_Split]:
    with foreign(lambda reason: _refusal(folder / _INFO, reason)):
        info = _json(folder / _INFO)
        form, name = str(info.get("fileFormat", _FORM)), str(info["name"])
        stated = {str(one["name"]): sum(map(int, one["shardLengths"])) for one in info["splits"]}
    if form != _FORM:
        raise DataError(
            f"expected {_FORM} files in {shown(folder)}, but they are {shown(form)}; prepare it again with "
            f"file_format='{_FORM}'"
        )
    return [_Split(split, images, _shards(folder, name, split, files)) for split, images in stated.items() if images]


def _shards(folder: Path, name: str, split: str, files: Sequence[Path]) -> tuple[Path, ...]:
    shard = re.compile(rf"{re.escape(f'{name}-{split}.{_FORM}')}-\d+-of-(\d+)")
    matches = [(file, found) for file in files if (found := shard.fullmatch(file.name))]
    if {int(found[1]) for _, found in matches} != {len(matches)}:
        of = max((int(found[1]) for _, found in matches), default=1)
        raise DataError(
            f"expected all files of {shown(split)} in {shown(folder)}, but there are {len(matches)} of {of}; prepare "
            "or copy it again"
        )
    return tuple(file for file, _ in matches)


def _json(file: Path) -> dict[str, Any]:
    with foreign(lambda reason: _refusal(file, reason)):
        found = parse_json(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        return found


def _refusal(file: Path, reason: str) -> DataError:
    return DataError(
        f"expected a data set of TensorFlow Datasets, but {shown(file)} cannot be read ({reason}); prepare or copy it "
        "again"
    )


def _images(split: _Split, columns: Columns) -> Iterator[tuple[Path, object, str, bytes]]:
    tf, _ = require_tensorflow()
    wanted = {columns.image: tf.io.FixedLenFeature([], tf.string), columns.label: tf.io.FixedLenFeature([], tf.int64)}
    count = 0
    folder = split.shards[0].parent
    batches = iter(tf.data.TFRecordDataset([str(shard) for shard in split.shards]).batch(_AT_ONCE))
    while True:
        with foreign(lambda reason: _refusal(folder, reason)):
            if (batch := next(batches, None)) is None:
                break
            found = tf.io.parse_example(batch, wanted)
            rows = list(zip(found[columns.image].numpy(), found[columns.label].numpy().tolist(), strict=True))
        count += len(rows)
        for content, label in rows:
            yield folder, None if label == UNLABELLED else label, "", content
    if count != split.images:
        raise _refusal(folder, f"{split.name} has {count} of {split.images} images")


TFDS = ArchiveKind("images", _files, _complete, _read)
