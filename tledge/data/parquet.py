"""Parquet files as Hugging Face's `datasets` writes them: a column of images, as the bytes of their files, and classes.

The schema says which column is what and how the classes are called (metadata `huggingface`); without it, columns are
known by type and name. Images are written as they are, not encoded anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tledge.core.dependencies import require, require_installed
from tledge.core.errors import DataError
from tledge.core.foreign import foreign
from tledge.core.parsing import parse_json
from tledge.core.types import SUBSETS, Subset
from tledge.data.label_source import LABEL_NAMES
from tledge.data.names import listed, shown
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
from tledge.data.subsets import subset_called, subset_within
from tledge.data.tree import holds_images

_SUFFIX = ".parquet"
# Where a data set keeps its files, besides folders called like subsets.
_FOLDERS = ("data",)
# Few at a time: a value that a file holds once may stand in every row.
_ROWS_AT_ONCE = 4
# That value again: images may be there several times, not thousands of times.
_MOST_COPIES, _FREE_BYTES = 10, 1 << 20


def _files(path: Path) -> list[Path]:
    """A Parquet file; or those of a folder without images, or of the folders of its subsets."""
    if path.is_file():
        return [path] if path.suffix == _SUFFIX else []
    inner = [one for one in path.glob("*/") if subset_called(one.name) or one.name in _FOLDERS]
    found = sorted(file for one in (path, *inner) for file in one.glob(f"[!.]*{_SUFFIX}") if file.is_file())
    return found if found and not holds_images(path) else []


def _complete(path: Path, found: list[Path]) -> list[Path]:
    require_installed("pyarrow")
    subsets = _subsets(found)
    if None in subsets.values() and set(subsets.values()) != {None}:
        odd = next(file for file, subset in subsets.items() if subset is None)
        raise DataError(
            f"expected names of Parquet files such as train-*, validation-* and test-* in {shown(path)}, but "
            f"{shown(odd.name)} says no subset; rename it or move it away"
        )
    return found


def _subsets(files: Sequence[Path]) -> dict[Path, Subset | None]:
    """Of each file, by a word of its name or by its folder; none where all are of one: that is a set on its own."""
    named = {file: subset_within(file.stem) or subset_called(file.parent.name) for file in files}
    return named if len(set(named.values())) > 1 else dict.fromkeys(files)


def _read(files: list[Path]) -> Iterator[PackedImages]:
    pyarrow = require("pyarrow.parquet")
    columns = [_columns(pyarrow, file) for file in files]
    for file, one in zip(files, columns, strict=True):
        if one != columns[0]:
            raise DataError(
                f"expected the same columns and classes in all files, but {shown(file)} and {shown(files[0])} differ; "
                "pass those of one data set"
            )
    subsets = _subsets(files)
    for subset in (*SUBSETS, None):
        if part := [file for file in files if subsets[file] == subset]:
            yield PackedImages(subset, labelled(_images(pyarrow, part, columns[0]), columns[0].classes))


def _opened(pyarrow: Any, file: Path) -> Any:
    with foreign(lambda reason: _refusal(file, reason)):
        return pyarrow.ParquetFile(file)


def _refusal(file: Path, reason: str) -> DataError:
    return DataError(f"expected a Parquet file, but {shown(file)} cannot be read ({reason}); replace it")


def _columns(pyarrow: Any, file: Path) -> Columns:
    with _opened(pyarrow, file) as opened:
        schema = opened.schema_arrow
        groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
        require_room(file, max((group.total_byte_size for group in groups), default=0))
    features = _features(file, schema)
    names = [name for name in schema.names if schema.names.count(name) == 1]
    images = [name for name in names if _holds_files(schema.field(name).type)]
    declared = [name for name in images if features.get(name, {}).get("_type") == "Image"]
    image = only(declared) or only(images) or named(declared or images, IMAGE_NAMES)
    if image is None:
        raise DataError(
            f"expected one column of images, as bytes or as Hugging Face's images, in {shown(file)}, but "
            f"{f'{listed(images)} could all be it' if images else f'it has {listed(schema.names)}'}; rename the right "
            f"one to image, and the others"
        )
    labels = [name for name in names if name != image and _tells_classes(schema.field(name).type)]
    declared = [name for name in labels if features.get(name, {}).get("_type") == "ClassLabel"]
    label = named(declared, LABEL_NAMES) or only(declared) or named(labels, LABEL_NAMES)
    if label is None:
        raise DataError(
            f"expected a column of classes, whole numbers or names, called label in {shown(file)}, but it has "
            f"{listed(schema.names)}; rename the right one"
        )
    known = features.get(label, {}).get("names")
    return Columns(image, label, tuple(map(str, known)) if isinstance(known, list) else None)


def _features(file: Path, schema: Any) -> dict[str, dict[str, Any]]:
    """What `datasets` says of each column, empty where it did not write the file."""
    said = (schema.metadata or {}).get(b"huggingface")
    if said is None:
        return {}
    try:
        found = parse_json(said)["info"]["features"]
        return {name: one for name, one in found.items() if isinstance(one, dict)}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _refusal(file, "what it says of its columns is damaged") from None


def _holds_files(kind: Any) -> bool:
    types = require("pyarrow.types")
    if types.is_struct(kind):
        inner = kind.get_field_index("bytes")
        return bool(inner >= 0 and _holds_files(kind.field(inner).type))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _tells_classes(kind: Any) -> bool:
    types = require("pyarrow.types")
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))


def _images(pyarrow: Any, files: Sequence[Path], columns: Columns) -> Iterator[tuple[Path, object, str, bytes]]:
    for file in files:
        rows = _rows(pyarrow, file, columns)
        number, left = -1, _MOST_COPIES * _stated_bytes(pyarrow, file) + _FREE_BYTES
        while True:
            with foreign(lambda reason, file=file: _refusal(file, reason)):  # type: ignore[misc]
                row = next(rows, None)
            if row is None:
                break
            number += 1
            image, label = row
            name, content = ("", image) if isinstance(image, bytes | None) else (image.get("path"), image.get("bytes"))
            if content is None:
                raise DataError(
                    f"expected the images themselves in {shown(file)}, but row {number} "
                    f"{f'only names {shown(str(name))}' if name else 'has none'}; save it with the images in it"
                )
            left -= len(content)
            if left < 0:
                raise _refusal(file, f"it unpacks to more than {_MOST_COPIES} times what it says that it holds")
            kept_back = label == UNLABELLED and columns.classes is not None
            yield file, None if kept_back else label, str(name), content


def _stated_bytes(pyarrow: Any, file: Path) -> int:
    with _opened(pyarrow, file) as opened:
        metadata = opened.metadata
        return sum(int(metadata.row_group(number).total_byte_size) for number in range(metadata.num_row_groups))


def _rows(pyarrow: Any, file: Path, columns: Columns) -> Iterator[tuple[Any, Any]]:
    with pyarrow.ParquetFile(file) as opened:
        for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=[columns.image, columns.label]):
            yield from zip(batch[columns.image].to_pylist(), batch[columns.label].to_pylist(), strict=True)


PARQUET = ArchiveKind("images", _files, _complete, _read)
