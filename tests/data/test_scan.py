"""Listing a data folder: which images, which classes, and what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tledge.core.errors import DataError
from tledge.data.listing import ImageFile
from tledge.data.scan import list_images, list_pictures
from tledge.data.tree import IMAGE_SUFFIXES

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")


def touch(root: Path, *paths: str) -> Path:
    # No pixel is read, so empty files will do.
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        list_images(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_classes_and_files_are_sorted_whatever_the_order_of_creation(tmp_path: Path) -> None:
    one = touch(tmp_path / "one", "cat/b.jpg", "ant/z.PNG", "cat/a.jpeg", "ant/c.webp")
    two = touch(tmp_path / "two", "ant/c.webp", "cat/a.jpeg", "ant/z.PNG", "cat/b.jpg")
    listing = list_images(one)
    assert listing.root == one
    assert listing.classes == ("ant", "cat")
    assert listing.files == (
        ImageFile("ant/c.webp", "ant", None),
        ImageFile("ant/z.PNG", "ant", None),
        ImageFile("cat/a.jpeg", "cat", None),
        ImageFile("cat/b.jpg", "cat", None),
    )
    assert listing.ignored == ()
    assert list_images(two).files == listing.files


def test_every_suffix_in_either_case(tmp_path: Path) -> None:
    names = [f"b/x{s}" for s in IMAGE_SUFFIXES] + [f"b/y{s.upper()}" for s in IMAGE_SUFFIXES]
    assert len(list_images(touch(tmp_path, "a/1.jpg", *names)).files) == 1 + len(names)


def test_what_is_no_image_of_a_class_is_ignored_by_name_and_hidden_files_silently(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "readme.txt", "loose.jpg", "a/notes.txt", "b/movie.mp4", "a/deep/list.csv")
    touch(tmp_path, ".DS_Store", "a/.DS_Store", "b/._1.jpg", ".git/x.jpg", "__MACOSX/a/1.jpg", "a/@eaDir/1.jpg")
    touch(tmp_path, "a/Thumbs.db", "desktop.ini", ".ipynb_checkpoints/1.jpg", "b/half.crdownload", "b/2.jpg~")
    listing = list_images(tmp_path)
    assert [file.path for file in listing.files] == ["a/1.jpg", "b/1.jpg"]
    assert listing.ignored == ("a/deep", "a/notes.txt", "b/2.jpg~", "b/half.crdownload", "b/movie.mp4", "readme.txt")
    assert listing.notes == (f"left out 1 image beside the class folders of {tmp_path}",)


def test_split_layout(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg", "test/b/3.jpg", "README.md", "labels/x.txt")
    touch(tmp_path, "val/list.csv")
    listing = list_images(tmp_path)
    assert listing.classes == ("a", "b")
    assert {(f.path, f.label, f.subset) for f in listing.files} == {
        ("train/a/1.jpg", "a", "train"),
        ("train/b/1.jpg", "b", "train"),
        ("val/a/2.jpg", "a", "val"),
        ("test/b/3.jpg", "b", "test"),
    }
    assert listing.ignored == ("README.md", "labels", "val/list.csv")


def test_val_and_test_are_optional(tmp_path: Path) -> None:
    assert {f.subset for f in list_images(touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")).files} == {"train"}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    listing = list_images(touch(tmp_path, "train/1.jpg", "plane/1.jpg"))
    assert listing.classes == ("plane", "train")
    assert {file.subset for file in listing.files} == {None}


def test_a_subset_under_another_name_is_not_left_out_silently(tmp_path: Path) -> None:
    message = refused(touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "later/a/2.jpg", "later/b/2.jpg"))
    assert "later/" in message
    assert "rename" in message


def test_class_that_train_lacks(tmp_path: Path) -> None:
    message = refused(touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/zebra/1.jpg"))
    assert "zebra is not in train/" in message
    assert "val/zebra/1.jpg" in message


def test_no_such_folder_or_a_file(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "photo.jpg").touch()
    assert "is a file" in refused(tmp_path / "photo.jpg")


def test_no_images(tmp_path: Path) -> None:
    assert "holds no images" in refused(tmp_path)


def test_loose_images_are_told_the_shape(tmp_path: Path) -> None:
    message = refused(touch(tmp_path, "1.jpg", "2.png"))
    assert "2 images and no class folders" in message
    assert "one folder per class" in message


def test_one_class(tmp_path: Path) -> None:
    assert "at least two classes" in refused(touch(tmp_path, "only/1.jpg"))


@pytest.mark.parametrize("content", [[], ["empty/notes.txt"], ["empty/deep/notes.txt"]])
def test_a_folder_without_images_is_no_class_and_is_named(tmp_path: Path, content: list[str]) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg", *content)
    (tmp_path / "empty").mkdir(exist_ok=True)
    listing = list_images(tmp_path)
    assert listing.classes == ("a", "b")
    assert listing.notes == ("no images in empty, so no class",)
    assert "empty" in listing.understood


@pytest.mark.parametrize("path", ["a\nb/1.jpg", "a/1\n2.jpg", "a/\x1b[31m.jpg", "a\u2028b/1.jpg", "a\tb/1.jpg"])
def test_names_that_break_lines_or_terminals_are_refused(tmp_path: Path, path: str) -> None:
    message = refused(touch(tmp_path, "a/1.jpg", "c/1.jpg", path))
    odd = next(part for part in path.split("/") if not part.isprintable())
    assert ascii(odd) in message
    assert message.isprintable()


def test_names_in_messages_and_among_the_ignored_stay_on_one_line(tmp_path: Path) -> None:
    assert r"no\nwhere" in refused(tmp_path / "no\nwhere")
    assert r"my\ndata" in refused(touch(tmp_path / "my\ndata", "only/1.jpg"))
    assert r"my\nempty" in refused(touch(tmp_path / "my\nempty", "readme.txt"))
    # macOS puts a file of the name Icon and a carriage return into every folder with an icon.
    fine = touch(tmp_path / "fine", "a/1.jpg", "b/1.jpg", "a/Icon\r", "x\ny.txt")
    assert list_images(fine).ignored == (r"'x\ny.txt'",)


@pytest.mark.parametrize(
    "name", ["کتاب\u200cها", "naïve\u00a0café", "👩\u200d🌾", "10.00.00\u202fAM", "a, b", '"q"', "日本"]
)
def test_names_that_only_look_unprintable_work(tmp_path: Path, name: str) -> None:
    listing = list_images(touch(tmp_path, f"{name}/{name}.jpg", "zz/1.jpg"))
    assert f"{name}/{name}.jpg" in [file.path for file in listing.files]
    assert name in listing.classes


@pytest.mark.parametrize("name", ["a" * 300, "loop"])
def test_a_root_that_the_system_cannot_look_up(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert name in refused(tmp_path / name)


def test_class_of_test_without_images_is_named_with_its_subset(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/notes.txt")
    assert list_images(tmp_path).notes == ("no images in test/b, so no class",)


def test_names_outside_ascii_work_and_names_outside_utf8_are_refused(tmp_path: Path) -> None:
    assert list_images(touch(tmp_path, "Käfer/größe 1.jpg", "b/1.jpg")).classes == ("Käfer", "b")
    try:
        (tmp_path / "b" / os.fsdecode(b"caf\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "UTF-8" in refused(tmp_path)


def test_links(tmp_path: Path) -> None:
    touch(tmp_path / "data", "a/1.jpg", "b/1.jpg")
    touch(tmp_path / "elsewhere", "2.jpg", "c/3.jpg")
    (tmp_path / "data/a/linked.jpg").symlink_to(tmp_path / "elsewhere/2.jpg")
    (tmp_path / "data/a/broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "data/a/loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "data/c").symlink_to(tmp_path / "elsewhere/c")
    paths = [file.path for file in list_images(tmp_path / "data").files]
    assert paths == ["a/1.jpg", "a/broken.jpg", "a/linked.jpg", "a/loop.jpg", "b/1.jpg", "c/3.jpg"]


def test_a_pipe_named_like_an_image_is_ignored_rather_than_waited_for(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    os.mkfifo(tmp_path / "a/pipe.jpg")
    assert list_images(tmp_path).ignored == ("a/pipe.jpg",)


@as_user
@pytest.mark.parametrize("mode", [0o000, 0o400])
@pytest.mark.parametrize("closed", [".", "a", "train"])
def test_no_permission(tmp_path: Path, closed: str, mode: int) -> None:
    root = touch(
        tmp_path / "data", *(["train/a/1.jpg", "train/b/1.jpg"] if closed == "train" else ["a/1.jpg", "b/1.jpg"])
    )
    (root / closed).chmod(mode)
    try:
        message = refused(root)
    finally:
        (root / closed).chmod(0o700)
    assert "permission" in message
    assert str(root / closed) in message


@as_user
def test_no_permission_above_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "up/data", "a/1.jpg", "b/1.jpg")
    (tmp_path / "up").chmod(0)
    try:
        assert "permission" in refused(tmp_path / "up/data")
    finally:
        (tmp_path / "up").chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_path_that_no_run_could_keep(tmp_path: Path) -> None:
    root = touch(tmp_path / "d\udcff", "ant/a.png", "cat/b.png")
    assert refused(root).endswith("d\\udcff'; rename it")


def test_pictures_of_any_depth(tmp_path: Path) -> None:
    root = touch(tmp_path / "all", "b.jpg", "a/deep/er/c.PNG", "a/notes.txt", ".hidden/d.jpg", "a/.e.jpg")
    (root / "a" / "back").symlink_to(root)
    (root / "linked").symlink_to(root / "a" / "deep")
    assert list_pictures(root) == ("a/deep/er/c.PNG", "b.jpg", "linked/er/c.PNG")


@pytest.mark.parametrize(
    ("files", "asked", "message"),
    [
        (["a/notes.txt"], "", "or the folders in it, but found none"),
        (["a/notes.txt"], "a/notes.txt", "is a file"),
        (["a/notes.txt"], "nowhere", "does not exist"),
        (["a/new\nline.jpg"], "", "expected names in UTF-8"),
    ],
)
def test_folders_without_pictures(tmp_path: Path, files: list[str], asked: str, message: str) -> None:
    root = touch(tmp_path / "root", *files)
    with pytest.raises(DataError, match=message) as caught:
        list_pictures(root / asked)
    assert "\n" not in str(caught.value)
