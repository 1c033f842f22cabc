"""Data folders as people have them: what is understood, what is left out and said, what is refused and how to go on."""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import DataError
from tledge.data.listing import Listing
from tledge.data.modality import ImageData, detect, images_to_train
from tledge.data.pixels import load_images
from tledge.data.scan import image_root, list_images
from tledge.data.split import split_images
from tledge.data.subsets import subset_called, subset_within


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def subsets(listing: Listing) -> dict[str, set[tuple[str, str]]]:
    """By subset: the class of every file and the first part of its path."""
    found: dict[str, set[tuple[str, str]]] = {}
    for file in listing.files:
        found.setdefault(file.subset or "", set()).add((file.path.split("/")[0], file.label))
    return found


def refused(root: Path, labels_from: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        list_images(root, labels_from)
    message = str(caught.value)
    assert "\n" not in message
    assert "remove the folder" not in message
    return message


def of(folder: str, *classes: str) -> list[str]:
    return [f"{folder}/{name}/{number}.jpg" for name in classes for number in range(2)]


# --- the same as before ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folders", "digest"),
    [
        (("ant", "Bee", "Käfer"), "ad692abd3c152152"),
        (("train/ant", "train/Bee", "val/ant", "val/Bee"), "9e59deacfe846bb9"),
        (("train/ant", "train/Bee", "test/ant", "test/Bee"), "4d7fa7e4644bfb8d"),
        (("train/ant", "train/Bee"), "7709b08da5fffcd4"),
    ],
)
def test_splits_of_layouts_that_were_always_read_stay_what_they_are(
    tmp_path: Path, folders: tuple[str, ...], digest: str
) -> None:
    rng = np.random.default_rng(3)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        for number in range(9):
            Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8)).save(tmp_path / folder / f"{number:02d}.bmp")
    images = load_images(list_images(tmp_path), 4, skip_unreadable=False)
    rows = split_images(images, val_fraction=0.2, test_fraction=0.2, seed=1).rows
    lines = "".join(f"{row.path},{row.label},{row.subset},{row.sha256}\n" for row in rows)
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(digest)


# --- names of subsets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        *(
            ("train", "train"),
            ("Train", "train"),
            ("TRAINING", "train"),
            ("training_set", "train"),
            ("Trainset", "train"),
        ),
        *(("train2017", "train"), ("val", "val"), ("Valid", "val"), ("validation", "val"), ("dev", "val")),
        *(("test", "test"), ("Testing", "test"), ("test1", "test"), ("Test Images", "test"), ("eval", "test")),
        *(("cat", None), ("trains", None), ("test_tube", None), ("invalid", None), ("train station", None), ("", None)),
    ],
)
def test_names_of_subsets(name: str, subset: str | None) -> None:
    assert subset_called(name) == subset


def test_subsets_as_words_of_longer_names() -> None:
    assert [subset_within(name) for name in ("seg_train", "asl-alphabet-test", "train_test", "constraint")] == [
        *("train", "test", None, None)
    ]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        *(("Train", "Val", "Test"), ("training", "validation", "testing"), ("TRAIN", "valid", "TEST")),
        *(("train", "dev", "eval"), ("train", "eval", "test"), ("seg_train", "seg_val", "seg_test")),
    ],
)
def test_subsets_in_any_case_and_usual_spelling(tmp_path: Path, train: str, val: str, test: str) -> None:
    listing = list_images(touch(tmp_path, *(path for part in (train, val, test) for path in of(part, "a", "b"))))
    assert subsets(listing) == {
        subset: {(folder, "a"), (folder, "b")} for subset, folder in (("train", train), ("val", val), ("test", test))
    }
    assert listing.notes == ()
    assert "4 train + 4 val + 4 test images of 2 classes (a, b)" in listing.understood


def test_two_folders_for_one_subset_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *of("train", "a", "b"), *of("val", "a", "b"), *of("valid", "a", "b"))
    message = refused(tmp_path)
    assert "val/ and valid/ both stand for it" in message
    assert "rename one" in message


def test_a_class_may_be_called_like_a_subset_where_others_are_not(tmp_path: Path) -> None:
    listing = list_images(touch(tmp_path, "valid/1.jpg", "invalid/1.jpg"))
    assert listing.classes == ("invalid", "valid")
    listing = list_images(touch(tmp_path / "scenes", "train_station/1.jpg", "test_tube/1.jpg", "bus/1.jpg"))
    assert listing.classes == ("bus", "test_tube", "train_station")


# --- depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["dataset", "archive/chest_xray", "train_and_test_data/x/y"])
def test_folders_around_the_data_are_passed_through_by_every_command(tmp_path: Path, around: str) -> None:
    inner = touch(tmp_path / around, *of("train", "a", "b"), *of("test", "a", "b"))
    touch(tmp_path, "README.md", "__MACOSX/train/a/1.jpg", "docs/notes.txt")
    listing = list_images(tmp_path)
    assert listing.root == image_root(tmp_path) == inner
    assert listing == list_images(inner)
    assert detect(tmp_path) == ImageData(tmp_path)


def test_folders_around_undivided_classes_and_inside_subsets(tmp_path: Path) -> None:
    assert list_images(touch(tmp_path / "one", *of("flower_photos", "rose", "tulip"))).classes == ("rose", "tulip")
    doubled = touch(tmp_path / "two", *of("seg_train/seg_train", "sea", "ice"), *of("seg_test/seg_test", "sea", "ice"))
    listing = list_images(touch(doubled, "seg_pred/seg_pred/1.jpg", "seg_pred/seg_pred/2.jpg"))
    assert subsets(listing) == {
        "train": {("seg_train", "ice"), ("seg_train", "sea")},
        "test": {("seg_test", "ice"), ("seg_test", "sea")},
    }
    assert listing.notes == ("left out 2 images in seg_pred/, which is no subset",)


def test_one_class_is_not_a_folder_around_others(tmp_path: Path) -> None:
    assert "found only 'deep'" in refused(touch(tmp_path, "only/deep/1.jpg"))
    assert list_images(touch(tmp_path / "t", *of("test", "a", "b"))).root == tmp_path / "t"


def test_class_folders_are_read_to_any_depth_in_circles_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/kind/1.jpg", "a/kind/deeper/2.jpg", "a/3.jpg", "b/1.jpg", "b/x/notes.txt")
    (tmp_path / "a" / "kind" / "back").symlink_to(tmp_path / "a")
    listing = list_images(tmp_path)
    assert [(file.path, file.label) for file in listing.files] == [
        *(("a/3.jpg", "a"), ("a/kind/1.jpg", "a"), ("a/kind/deeper/2.jpg", "a"), ("b/1.jpg", "b"))
    ]
    assert images_to_train(tmp_path) == listing


def test_a_level_too_high_is_said(tmp_path: Path) -> None:
    listing = list_images(touch(tmp_path, *of("color", "apple", "corn"), *of("grey", "apple", "corn")))
    assert listing.classes == ("color", "grey")
    assert f"if these are the classes, pass one of the folders around them, such as {tmp_path / 'color'}" in (
        listing.understood
    )


def test_a_copy_beside_the_classes_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "apple/1.jpg", "corn/1.jpg", *of("PlantVillage", "apple", "corn"))
    assert f"PlantVillage/ holds apple, corn as well; pass {tmp_path / 'PlantVillage'}" in refused(tmp_path)


def test_subsets_inside_the_class_folders(tmp_path: Path) -> None:
    listing = list_images(touch(tmp_path, *of("cat", "train", "test"), *of("dog", "Train", "Test")))
    assert listing.classes == ("cat", "dog")
    assert {(file.path.split("/")[1].lower(), file.subset) for file in listing.files} == {
        ("train", "train"),
        ("test", "test"),
    }


# --- subsets without classes, and sets of subsets alone --------------------------------------------------------------


@pytest.mark.parametrize("unlabelled", ["test/1.jpg", "test/test/1.jpg", "test/unknown/1.jpg"])
def test_a_test_folder_without_classes_is_left_out_and_said(tmp_path: Path, unlabelled: str) -> None:
    listing = list_images(touch(tmp_path, *of("train", "a", "b"), unlabelled))
    assert subsets(listing) == {"train": {("train", "a"), ("train", "b")}}
    assert listing.notes == ("left out 1 image in test/, which has no class folders",)
    assert "left out 1 image in test/" in listing.understood


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Validation", "Testing"), ("seg_train", "seg_test")])
def test_names_of_subsets_alone_are_never_trained(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{name}/{number}.jpg" for name in names for number in range(4)))
    assert "--labels-from FILE" in refused(tmp_path)


def test_images_beside_their_masks_are_no_classes(tmp_path: Path) -> None:
    touch(tmp_path, *of("images", "cat", "dog"), "annotations/1.png", "annotations/2.png")
    message = refused(tmp_path)
    assert "called like parts of a data set" in message
    assert f"if cat, dog are the classes, pass {tmp_path / 'images'}" in message
    assert list_images(tmp_path / "images").classes == ("cat", "dog")


# --- classes in names of files ---------------------------------------------------------------------------------------


def kaggle(root: Path) -> Path:
    return touch(
        root,
        *(f"train/{name}.{number}.jpg" for name in ("cat", "dog") for number in range(4)),
        *(f"test/{number}.jpg" for number in range(3)),
    )


def test_flat_files_that_name_their_classes_are_asked_for_and_then_read(tmp_path: Path) -> None:
    message = refused(kaggle(tmp_path))
    assert f"{tmp_path / 'train'} holds 8 images and no class folders" in message
    assert "names of the files begin with cat, dog: add --labels-from names" in message
    listing = list_images(tmp_path, "names")
    assert listing.classes == ("cat", "dog")
    assert subsets(listing) == {"train": {("train", "cat"), ("train", "dog")}}
    assert listing.notes == ("left out 3 images in test/ without a class in their names",)
    assert detect(tmp_path / "train" / "..") == ImageData(tmp_path / "train" / "..")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("cat.0", "dog.1"), ("cat", "dog")),
        (("Abyssinian_1", "great_pyrenees_12"), ("Abyssinian", "great_pyrenees")),
        (("dog (2)", "dog", "cat (11)"), ("cat", "dog")),
        (("n01440764_10026", "n01443537_3"), ("n01440764", "n01443537")),
        (("cat0001", "Käfer-2"), ("Käfer", "cat")),
    ],
)
def test_usual_ways_to_number_files(tmp_path: Path, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    listing = list_images(touch(tmp_path, *(f"{name}.jpg" for name in names)), "names")
    assert listing.classes == classes
    assert len(listing.files) == len(names)


def test_names_that_tell_nothing(tmp_path: Path) -> None:
    assert "sort them into one folder a class" in refused(touch(tmp_path, *(f"IMG_{n}.jpg" for n in range(4))))
    assert "found only 'IMG'" in refused(tmp_path, "names")
    assert "such as cat.12.jpg" in refused(touch(tmp_path / "x", "1.jpg", "2.jpg"), "names")
    assert "like parts" in refused(touch(tmp_path / "y", "train_1.jpg", "test_1.jpg"), "names")


# --- tables ----------------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,label\nx/1.jpg,cat\nx/2.jpg,dog\n"),
        ("a.tsv", "Filename\tClass\nx\\1.jpg\tcat\nx\\2.jpg\tdog\n"),
        ("a.csv", "\ufeffid;breed\n1;cat\n2;dog\n"),
        ("a.csv", "image,plant\n1.jpg,cat\n2.jpg,dog\n"),
        ("a.csv", "path,label\n{root}/x/1.jpg,cat\n./x/../x/2.jpg,dog\n"),
        ("a.csv", "path,label\nmore/images/x/1.jpg,cat\nmore/images/x/2.jpg,dog\n"),
        ("a.jsonl", '{"file_name": "x/1.jpg", "label": "cat"}\n\n{"file_name": "x/2.jpg", "label": "dog"}\n'),
    ],
)
def test_tables_of_any_usual_form(tmp_path: Path, name: str, text: str) -> None:
    root = touch(tmp_path / "data", "x/1.jpg", "x/2.jpg", "x/3.jpg")
    listing = list_images(root, write(tmp_path / name, text.replace("{root}", str(root))))
    assert [(file.path, file.label, file.subset) for file in listing.files] == [
        ("x/1.jpg", "cat", None),
        ("x/2.jpg", "dog", None),
    ]
    assert listing.notes == ("left out 1 image that no row of the table names",)


def test_a_table_says_subsets_or_folders_do(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "train/1.jpg", "train/2.jpg", "test/1.jpg", "test/2.jpg")
    table = write(
        tmp_path / "a.csv", "path,label,split\ntrain/1.jpg,a,Training\ntrain/2.jpg,b,train\ntest/1.jpg,a,valid\n"
    )
    assert [file.subset for file in list_images(root, table).files] == ["val", "train", "train"]
    # Names that two folders have are those of the folder for training.
    table = write(root / "trainLabels.csv", "id,label\n1,a\n2,b\n")
    assert f"add --labels-from {table}" in refused(root)
    listing = list_images(root, table)
    assert [(file.path, file.subset) for file in listing.files] == [("train/1.jpg", "train"), ("train/2.jpg", "train")]
    assert listing.notes == ("left out 2 images that no row of the table names",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\ny/1.jpg,cat\n", "none of its 1 path is there, such as y/1.jpg"),
        ("path,label\nx/1.jpg,cat\nx/1.jpg,dog\n", "x/1.jpg is 'cat' and 'dog'"),
        ("path,label,split\nx/1.jpg,cat,later\n", "column split of"),
        ("path,label\nx/1.jpg,cat\n../1.jpg,dog\n", "../1.jpg is not; pass the folder"),
        ("a,b,c\nx/1.jpg,cat,2\n", "expected columns path and label"),
        ("path,label\nx/1.jpg,train\nx/2.jpg,test\n", "like parts"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, says: str) -> None:
    root = touch(tmp_path / "data", "x/1.jpg", "x/2.jpg")
    assert says in refused(root, write(tmp_path / "a.csv", text))


def test_a_missing_image_of_a_table_is_named_when_it_is_read(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "1.jpg", "2.jpg")
    listing = list_images(root, write(tmp_path / "a.csv", "path,label\n1.jpg,a\n2.jpg,b\n3.jpg,b\n"))
    assert [file.path for file in listing.files] == ["1.jpg", "2.jpg", "3.jpg"]
    with pytest.raises(DataError, match=r"3\.jpg cannot be read"):
        load_images(listing, 4, skip_unreadable=False)


def test_no_table_or_a_table_in_place_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "data/a/1.jpg")
    assert "does not exist" in refused(tmp_path / "data", str(tmp_path / "no.csv"))
    table = write(tmp_path / "a.csv", "path,label\ndata/a/1.jpg,x\n")
    assert f"pass the folder of the images, and --labels-from {table}" in refused(Path(table))
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 4, 4), np.uint8), y=[0, 1])
    assert "holds its labels itself" in refused(tmp_path / "data.npz", table)


def test_image_folders_of_hugging_face(tmp_path: Path) -> None:
    for part in ("train", "test"):
        touch(tmp_path, f"{part}/1.jpg", f"{part}/2.jpg")
        write(tmp_path / part / "metadata.csv", "file_name,label\n1.jpg,cat\n2.jpg,dog\n")
    listing = list_images(tmp_path)
    assert [(file.path, file.label, file.subset) for file in listing.files] == [
        ("test/1.jpg", "cat", "test"),
        ("test/2.jpg", "dog", "test"),
        ("train/1.jpg", "cat", "train"),
        ("train/2.jpg", "dog", "train"),
    ]
    assert "classes by metadata.csv" in listing.understood
    assert images_to_train(tmp_path) == listing
    flat = touch(tmp_path / "flat", "1.jpg", "2.jpg")
    write(flat / "metadata.jsonl", '{"file_name": "1.jpg", "label": 0}\n{"file_name": "2.jpg", "label": 1}\n')
    assert images_to_train(flat).classes == ("0", "1")
    folders = touch(tmp_path / "folders", *of("patient1", "x"), *of("patient2", "x"))
    table = write(
        folders / "metadata.csv", "file_name,label\npatient1/x/0.jpg,ill\npatient1/x/1.jpg,well\npatient2/x/0.jpg,ill\n"
    )
    assert f"pass --labels-from {table}" in refused(folders)
    assert list_images(folders, table).classes == ("ill", "well")
    write(folders / "metadata.csv", "file_name,caption\npatient1/x/0.jpg,a cat\npatient2/x/0.jpg,a dog\n")
    assert list_images(folders).classes == ("patient1", "patient2")


# --- names and kinds -------------------------------------------------------------------------------------------------


def test_names_are_compared_in_normal_form_and_across_subsets_in_any_case(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Käfer")
    listing = list_images(
        touch(tmp_path, "train/Käfer/1.jpg", "train/Ant/1.jpg", f"test/{apart}/2.jpg", "test/ant/2.jpg")
    )
    assert listing.classes == ("Ant", "Käfer")
    assert {file.label for file in listing.files if file.subset == "test"} == {"Ant", "Käfer"}
    assert list_images(touch(tmp_path / "mac", f"{apart}/1.jpg", "b/1.jpg")).called(("Käfer", "b")).classes == (
        "Käfer",
        "b",
    )
    table = write(tmp_path / "a.csv", "path,label\ntrain/Käfer/1.jpg,x\ntrain/Ant/1.jpg,y\ntest/Käfer/2.jpg,y\n")
    assert len(list_images(tmp_path, table).files) == 3


def test_names_that_differ_in_case_in_one_folder_are_two_classes_and_said(tmp_path: Path) -> None:
    listing = list_images(touch(tmp_path, "A/1.jpg", "a/1.jpg"))
    assert listing.classes == ("A", "a")
    assert listing.notes == ("A, a differ in case alone and are classes of their own",)


def test_images_by_their_first_bytes_and_kinds_that_are_not_read(tmp_path: Path) -> None:
    touch(
        tmp_path, "a/1.jfif", "a/2.JPE", "a/3.tif", "a/4.gif", "a/5.avif", "a/6.heic", "b/1.ppm", "b/raw.cr2", "b/d.svg"
    )
    (tmp_path / "b" / "subject01.happy").write_bytes(b"GIF89a" + b"\0" * 20)
    (tmp_path / "b" / "photo").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 20)
    (tmp_path / "b" / "text").write_bytes(b"hello")
    listing = list_images(tmp_path)
    assert len([file for file in listing.files if file.label == "a"]) == 6
    assert [file.path for file in listing.files if file.label == "b"] == ["b/1.ppm", "b/photo", "b/subject01.happy"]
    assert listing.notes == ("left out 2 images of kinds that are not read (.cr2, .svg): convert them to JPEG or PNG",)
    assert listing.ignored == ("b/text",)


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (("a/1.cr2", "b/1.cr2"), ".cr2 files are not read: convert them"),
        (("data.zip",), "unpack"),
        (("mnist/mnist.npz",), "pass the file: "),
        (("MNIST/raw/train-images-idx3-ubyte",), "MNIST/raw"),
        (("notes.txt",), "check the path"),
    ],
)
def test_folders_without_images_say_where_these_may_be(tmp_path: Path, paths: tuple[str, ...], says: str) -> None:
    assert says in refused(touch(tmp_path, *paths))


def test_what_was_understood_is_said_before_anything_slow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, *of("deep/Train", "a", "b"), "deep/Test/1.jpg")
    with caplog.at_level(logging.INFO, "tledge"):
        images_to_train(tmp_path)
    assert caplog.messages == [
        f"data: 4 train images of 2 classes (a, b) in {tmp_path / 'deep'}: one folder a class in Train/ (train), "
        "Test/ (test); left out 1 image in Test/, which has no class folders"
    ]
