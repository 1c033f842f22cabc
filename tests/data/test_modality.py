"""What data is: images, texts in folders and tables, or something tledge does not select for."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_digits
from tledge.core.errors import DataError
from tledge.data.modality import ImageData, TextData, detect, images_to_train
from tledge.selection.text import recommend

SENTENCE = "a quick brown fox jumps over the lazy dog"


def write_texts(folder: Path, counts: dict[str, int], words: int = 9) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.txt").write_text("word " * words)
    return folder


def test_images(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 2)
    (data / "README.txt").write_text("about this data")
    assert detect(data) == ImageData(data)
    archive = tmp_path / "data.npz"
    np.savez(archive, x=np.zeros((2, 4, 4), np.uint8), y=[0, 1])
    assert detect(archive) == ImageData(archive)


def test_a_folder_of_texts(tmp_path: Path) -> None:
    data = detect(write_texts(tmp_path, {"pos": 5, "neg": 7}))
    assert isinstance(data, TextData)
    assert (data.classes, data.labelled, data.unlabelled, data.median_words) == (("neg", "pos"), 12, 0, 9)


def test_a_folder_of_texts_with_subsets_and_unlabelled_ones(tmp_path: Path) -> None:
    data = detect(write_texts(tmp_path, {"train/pos": 3, "train/neg": 3, "train/unsup": 40, "test/pos": 1}))
    assert isinstance(data, TextData)
    assert (data.classes, data.labelled, data.unlabelled) == (("neg", "pos"), 6, 40)  # a test is not learned from


def test_lists_beside_the_classes_are_no_texts(tmp_path: Path) -> None:
    # As in the archive of IMDb reviews.
    write_texts(tmp_path, {"train/pos": 3, "train/neg": 3})
    (tmp_path / "train" / "urls_pos.txt").write_text("a list of addresses")
    (tmp_path / "README.txt").write_text("about this data")
    data = detect(tmp_path)
    assert isinstance(data, TextData)
    assert (data.classes, data.labelled) == (("neg", "pos"), 6)


@pytest.mark.parametrize(
    ("header", "columns"),
    [("label,text", ("text", "label")), ("Sentiment,Review", ("Review", "Sentiment")), ("a,b", ("b", "a"))],
)
def test_a_csv_of_texts(header: str, columns: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text(header + "\n" + "".join(f'{"good" if i % 2 else "bad"},"{SENTENCE}, {i}"\n' for i in range(40)))
    data = detect(path)
    assert isinstance(data, TextData)
    assert data.columns == columns
    assert (data.classes, data.labelled, data.median_words) == (("bad", "good"), 40, 10)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_usual_delimiter(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    rows = [["id", "text", "label"], *([str(i), f"{SENTENCE}, {i}", "ab"[i % 2]] for i in range(40))]
    path.write_text("".join(delimiter.join(f'"{cell}"' for cell in row) + "\n" for row in rows))
    data = detect(path)
    assert isinstance(data, TextData)
    assert (data.columns, data.classes, data.labelled) == (("text", "label"), ("a", "b"), 40)


def test_a_lone_quotation_mark_in_tsv_is_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "texts.tsv"
    marks = ['"' if i in (3, 20) else "" for i in range(40)]
    path.write_text("text\tlabel\n" + "".join(f"{mark}{SENTENCE}\t{'ab'[i % 2]}\n" for i, mark in enumerate(marks)))
    data = detect(path)
    assert isinstance(data, TextData)
    assert (data.labelled, data.classes, data.median_words) == (40, ("a", "b"), 9)


def test_a_text_may_be_as_long_as_a_book(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("text,label\n" + "".join(f'"{"word " * 40_000}","{"ab"[i % 2]}"\n' for i in range(12)))
    limit = csv.field_size_limit()
    data = detect(path)
    assert isinstance(data, TextData)
    assert (data.labelled, data.median_words) == (12, 40_000)
    assert csv.field_size_limit() == limit


def test_jsonl_with_texts_that_have_no_label(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": SENTENCE, "label": "spam" if i < 5 else None, "id": i} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = detect(path)
    assert isinstance(data, TextData)
    assert (data.labelled, data.unlabelled, data.classes) == (5, 15, ("spam",))


def test_a_table_without_labels(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("id,sentence\n" + "".join(f"{i},{SENTENCE}\n" for i in range(30)))
    data = detect(path)
    assert isinstance(data, TextData)
    assert (data.columns, data.labelled, data.unlabelled) == (("sentence", None), 0, 30)


def test_mixed_data_is_refused(tmp_path: Path) -> None:
    data = write_digits(tmp_path, 3)
    write_texts(tmp_path, {"notes": 4})
    with pytest.raises(DataError, match="mixes 9 images and 4"):
        detect(data)


def touch(folder: Path, counts: dict[str, int]) -> Path:
    """Empty files: 20 of `left/.png` are `left/0.png` to `left/19.png`."""
    for name, count in counts.items():
        label, suffix = name.split("/")
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / label / f"{number}{suffix}").touch()
    return folder


@pytest.mark.parametrize(
    "counts",
    [
        {"a/.png": 50, "a/.txt": 50, "b/.png": 50, "b/.txt": 50},
        {"a/.png": 4, "a/.wav": 300, "b/.png": 4, "b/.wav": 300},
        {"a/.png": 5, "b/.png": 5, "b/.txt": 4},
        {"a/.png": 2, "b/.png": 2, "b/.txt": 2},
    ],
)
def test_select_and_train_refuse_the_same_mixtures(counts: dict[str, int], tmp_path: Path) -> None:
    touch(tmp_path, counts)
    for look in (detect, images_to_train):
        with pytest.raises(DataError, match="mixes"):
            look(tmp_path)


def test_texts_with_an_image_or_two_in_each_class_are_no_images(tmp_path: Path) -> None:
    write_texts(tmp_path, {"pos": 60, "neg": 60})
    touch(tmp_path, {"pos/.png": 1, "neg/.png": 2})
    assert isinstance(detect(tmp_path), TextData)
    with pytest.raises(DataError, match="holds texts, and tledge trains images"):
        images_to_train(tmp_path)


@pytest.mark.parametrize(
    "extra",
    [
        {"a/.txt": 2},
        {"a/.txt": 1, "b/.txt": 2},
        {"a/.xml": 8, "b/.xml": 8, "b/.json": 8},  # annotations, one or more for each image
        {"a/.svg": 5},
    ],
)
def test_what_usually_lies_beside_images_does_no_harm(extra: dict[str, int], tmp_path: Path) -> None:
    touch(tmp_path, {"a/.png": 8, "b/.jpg": 8} | extra)
    for name in ("README.txt", "Thumbs.db", ".DS_Store", "a/README.txt", "b/Thumbs.db", "b/desktop.ini", "a/LICENSE"):
        (tmp_path / name).touch()
    assert detect(tmp_path) == ImageData(tmp_path)
    assert len(images_to_train(tmp_path).files) == 16


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("numbers.csv", "a,b\n1,2\n3,4\n", "column of text"),
        ("paths.csv", "path,label\nx/1.jpg,cat\nx/2.jpg,dog\n", "column of text"),
        ("empty.csv", "", "has none"),
        ("text.csv", "text,label\n", "has none"),
        ("broken.jsonl", '{"text": "a"}\n\n{"text": ', "line 3 of"),
        ("digits.jsonl", f'{{"text": "{SENTENCE}", "n": {"9" * 5000}}}\n', "line 1 of"),
        ("deep.jsonl", '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n", "line 1 of"),
        ("lone.csv", "text,label\n" + f'"{SENTENCE},good\n{SENTENCE},bad\n' * 9, "double the quotation marks"),
        ("open.csv", f'text,label\n"{SENTENCE},good\n' + f"{SENTENCE},bad\n" * 9, "double the quotation marks"),
        ("list.jsonl", "[1]\n", "one JSON object a line, but line 1"),
        ("latin.csv", b"text\nna\xefve\n", "save it as UTF-8"),
        ("headless.csv", f"{SENTENCE} and so on and on,good\n" * 9, "begins with a text"),
        ("model.bin", "x", r"\.bin file"),
    ],
)
def test_unknown_files_are_refused(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=says):
        detect(path)


def test_unknown_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        detect(tmp_path / "missing")
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "1.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"1 \.wav"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("a/1.txt", "1 that were read are empty"),
        ("1.txt", "sort the files into folders"),
        ("1.png", "sort the files into folders"),
        ("train.csv", "pass one of the files"),
        ("a/b/1.txt", "no files in folders of classes"),
    ],
)
def test_a_folder_of_another_shape_says_what_it_holds(file: str, says: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(DataError, match=says):
        detect(tmp_path)


def texts(labelled: int, unlabelled: int, words: int) -> TextData:
    return TextData(Path("t"), ("a", "b") if labelled else (), labelled, unlabelled, words)


@pytest.mark.parametrize(
    ("data", "first", "rule"),
    [
        (texts(20_000, 0, 800), "ulmfit", "longer than"),
        (texts(200, 50_000, 100), "ulmfit", "without a label"),
        (texts(0, 50_000, 100), "ulmfit", "do not have two labels yet"),
        (texts(200, 0, 100), "bert", "not 10 times as many without a label"),
        (texts(20_000, 50_000, 100), "bert", "or more"),
    ],
)
def test_the_text_model_follows_from_amount_and_length(data: TextData, first: str, rule: str) -> None:
    advice = recommend(data, cores=2)
    assert advice.ranked[0] == first
    assert rule in advice.rule
    assert set(advice.ranked) == set(advice.reasons) == {"bert", "ulmfit"}
    assert str(data.labelled) in " ".join(advice.reasons["bert"])
