"""The split: seeded, stratified, every class in every subset, copies never apart."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import DataError, SettingsError
from tledge.core.types import SUBSETS, Subset
from tledge.data.listing import ImageFile
from tledge.data.pixels import LoadedImages, PixelStore, load_images
from tledge.data.scan import list_images
from tledge.data.split import Split, SplitRow, data_fingerprint, split_images, stratified_sample, training_counts

Entry = tuple[str, str, Subset | None, str]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def images(entries: Sequence[Entry]) -> LoadedImages:
    """Entries are (path, class, given subset, name of the picture); bytes differ from file to file."""
    files = tuple(ImageFile(path, label, subset) for path, label, subset, _ in entries)
    return LoadedImages(
        files,
        tuple(digest(f"bytes of {path}") for path, *_ in entries),
        tuple(digest(picture) for *_, picture in entries),
        (),
        PixelStore([Path(file.path) for file in files], 8),
    )


def entries(counts: dict[str, int], subset: Subset | None = None) -> list[Entry]:
    prefix = f"{subset}/" if subset else ""
    return [
        (f"{prefix}{label}/{n:04}.jpg", label, subset, f"{prefix}{label} {n}")
        for label, count in counts.items()
        for n in range(count)
    ]


def divide(data: Sequence[Entry], *, val: float = 0.2, test: float = 0.2, seed: int = 0, drop: bool = False) -> Split:
    return split_images(images(data), val_fraction=val, test_fraction=test, seed=seed, drop_duplicates=drop)


def sizes(split: Split, label: str) -> dict[str, int]:
    return dict(Counter(row.subset for row in split.rows if row.label == label))


def where(split: Split) -> dict[str, Subset]:
    return {row.path: row.subset for row in split.rows}


def test_sizes_are_the_fractions_of_each_class() -> None:
    for seed in range(10):
        split = divide(entries({"a": 100, "b": 10, "c": 37}), val=0.2, test=0.1, seed=seed)
        assert sizes(split, "a") == {"train": 70, "val": 20, "test": 10}
        assert sizes(split, "b") == {"train": 7, "val": 2, "test": 1}
        assert sizes(split, "c") == {"train": 26, "val": 7, "test": 4}
        assert split.dropped == ()
        assert len(where(split)) == 147


def test_rows_carry_class_and_digest_of_their_file() -> None:
    for row in divide(entries({"a": 5, "b": 5})).rows:
        assert row.label == row.path[0]
        assert row.sha256 == digest(f"bytes of {row.path}")


def test_seeded_and_independent_of_the_order_of_input() -> None:
    data = entries({"a": 40, "b": 30})
    first = where(divide(data, seed=3))
    for shuffle in range(5):
        order = np.random.default_rng(shuffle).permutation(len(data))
        assert where(divide([data[i] for i in order], seed=3)) == first
    assert len({tuple(sorted(where(divide(data, seed=seed)).items())) for seed in range(8)}) == 8


def test_classes_of_equal_size_are_not_shuffled_alike() -> None:
    split = where(divide(entries({"a": 50, "b": 50})))
    assert [split[f"a/{n:04}.jpg"] for n in range(50)] != [split[f"b/{n:04}.jpg"] for n in range(50)]


def test_new_images_of_one_class_leave_the_others_alone() -> None:
    before, after = where(divide(entries({"a": 30, "b": 30}))), where(divide(entries({"a": 31, "b": 30, "c": 9})))
    assert {p: s for p, s in before.items() if p[0] == "b"} == {p: s for p, s in after.items() if p[0] == "b"}


def test_every_class_is_in_every_subset_however_small() -> None:
    for seed in range(20):
        for count in range(3, 9):
            split = divide(entries({"a": count, "b": 100}), val=0.01, test=0.9, seed=seed)
            assert set(sizes(split, "a")) == {"train", "val", "test"}


def test_every_class_is_in_every_subset_even_if_it_is_all_copies() -> None:
    triples: list[Entry] = [(f"a/{n}.jpg", "a", None, f"t{n // 3}") for n in range(9)]
    assert sizes(divide(triples + entries({"b": 9}), val=0.05, test=0.05), "a") == {"train": 3, "val": 3, "test": 3}


def test_too_few_images_of_a_class() -> None:
    with pytest.raises(DataError, match=r"at least 3 different images of the class 'rare'.*there are 2"):
        divide(entries({"a": 10, "rare": 2}))
    copies: list[Entry] = [(f"rare/{n}.jpg", "rare", None, "same" if n < 9 else "other") for n in range(10)]
    with pytest.raises(DataError, match=r"'rare'.*there are 2"):
        divide(entries({"a": 10}) + copies)


def test_copies_never_straddle_subsets() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        data: list[Entry] = [(f"{c}/{n}.jpg", c, None, f"{c}{rng.integers(25)}") for c in "ab" for n in range(60)]
        split = where(divide(data, seed=seed))
        homes: dict[str, set[str]] = {}
        for path, _, _, picture in data:
            homes.setdefault(picture, set()).add(split[path])
        assert all(len(home) == 1 for home in homes.values())
        assert set(split.values()) == {"train", "val", "test"}


def test_sizes_stay_near_the_fractions_despite_groups() -> None:
    for seed in range(30):
        data = entries({"a": 40, "b": 10})
        data += [(f"a/big{n}.jpg", "a", None, "big") for n in range(60)]
        assert sizes(divide(data, seed=seed), "a") == {"train": 60, "val": 20, "test": 20}
        triples: list[Entry] = [(f"a/{n}.jpg", "a", None, f"t{n // 3}") for n in range(75)]
        assert sizes(divide(triples + entries({"b": 10}), seed=seed), "a") == {"train": 45, "val": 15, "test": 15}


def test_copies_in_other_formats_are_found_in_real_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for n in range(4):
            image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
            for suffix in ("png", "bmp"):
                image.save(tmp_path / label / f"{n}.{suffix}")
    loaded = load_images(list_images(tmp_path), 8, skip_unreadable=False)
    for seed in range(5):
        split = where(split_images(loaded, val_fraction=0.25, test_fraction=0.25, seed=seed))
        for label in "ab":
            assert all(split[f"{label}/{n}.png"] == split[f"{label}/{n}.bmp"] for n in range(4))


def test_given_subsets_are_kept() -> None:
    data = entries({"a": 4, "b": 3}, "train") + entries({"a": 2, "b": 1}, "val") + entries({"a": 1, "b": 5}, "test")
    for seed in range(3):
        assert all(path.startswith(f"{subset}/") for path, subset in where(divide(data, seed=seed)).items())


@pytest.mark.parametrize("given", ["val", "test"])
def test_missing_subset_is_taken_from_train(given: Subset) -> None:
    missing = "test" if given == "val" else "val"
    split = divide(entries({"a": 10, "b": 20}, "train") + entries({"a": 3, "b": 3}, given))
    assert sizes(split, "a") == {"train": 8, missing: 2, given: 3}
    assert sizes(split, "b") == {"train": 16, missing: 4, given: 3}
    assert all(subset == given for path, subset in where(split).items() if path.startswith(given))


def test_only_train_given() -> None:
    assert sizes(divide(entries({"a": 10, "b": 10}, "train")), "a") == {"train": 6, "val": 2, "test": 2}


def straddling() -> list[Entry]:
    return [
        *entries({"a": 5, "b": 5}, "train"),
        *entries({"a": 3, "b": 3}, "val"),
        *entries({"a": 3, "b": 3}, "test"),
        ("train/a/x.jpg", "a", "train", "x"),
        ("train/a/x2.jpg", "a", "train", "x"),
        ("val/a/x.jpg", "a", "val", "x"),
        ("test/a/x.jpg", "a", "test", "x"),
        ("train/b/y.jpg", "b", "train", "y"),
        ("val/b/y.jpg", "b", "val", "y"),
    ]


def test_copies_across_given_subsets_are_refused_by_name() -> None:
    with pytest.raises(DataError) as caught:
        divide(straddling())
    assert "train/b/y.jpg = val/b/y.jpg" in str(caught.value)
    assert "--drop-duplicates" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dropping_keeps_the_copy_of_the_subset_that_scores() -> None:
    split = divide(straddling(), drop=True)
    assert set(split.dropped) == {"train/a/x.jpg", "train/a/x2.jpg", "val/a/x.jpg", "train/b/y.jpg"}
    kept = where(split)
    assert kept["test/a/x.jpg"] == "test"
    assert kept["val/b/y.jpg"] == "val"
    assert not set(kept) & set(split.dropped)
    assert len(kept) == 22 + 6 - 4


def test_one_picture_under_two_classes() -> None:
    both: list[Entry] = [("a/x.jpg", "a", None, "x"), ("b/x.jpg", "b", None, "x"), ("b/x2.jpg", "b", None, "x")]
    data = entries({"a": 5, "b": 5}) + both
    with pytest.raises(DataError, match=r"a/x\.jpg = b/x\.jpg = b/x2\.jpg"):
        divide(data)
    split = divide(data, drop=True)
    assert set(split.dropped) == {"a/x.jpg", "b/x.jpg", "b/x2.jpg"}
    assert where(split) == where(divide(entries({"a": 5, "b": 5})))


def test_a_picture_copied_often_is_named_by_the_copies_that_conflict() -> None:
    copies: list[Entry] = [(f"a/x{n:03}.jpg", "a", None, "x") for n in range(200)]
    data = [*entries({"a": 5, "b": 5}), *copies, ("b/x.jpg", "b", None, "x")]
    with pytest.raises(DataError, match=r"a/x000\.jpg = b/x\.jpg = a/x001\.jpg .* = 196 more\. Remove") as caught:
        divide(data)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_given_subset_of_nothing_but_copies_is_made_anew() -> None:
    data = entries({"a": 10, "b": 10}, "train") + entries({"a": 3, "b": 3}, "test")
    data += [(path.replace("test", "val"), label, "val", picture) for path, label, _, picture in data[20:]]
    with pytest.raises(DataError, match=r"test/a/0000\.jpg = val/a/0000\.jpg"):
        divide(data)
    split = divide(data, drop=True)
    assert sizes(split, "a") == sizes(split, "b") == {"train": 8, "val": 2, "test": 3}
    assert all(path.startswith("val/") for path in split.dropped)
    assert len(split.dropped) == 6


def test_dropping_what_leaves_a_class_without_training_images_is_refused() -> None:
    data = entries({"a": 9, "b": 1}, "train") + entries({"a": 3, "b": 3}, "val") + entries({"a": 3}, "test")
    data.append(("test/b/copy.jpg", "b", "test", "train/b 0"))
    with pytest.raises(DataError, match=r"at least 1 different images of the class 'b'.*there are 0"):
        divide(data, drop=True)


def test_properties_of_any_split() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        counts = {f"class {n}": int(rng.integers(5, 120)) for n in range(int(rng.integers(2, 7)))}
        val, test = (float(share) for share in rng.uniform(0.05, 0.4, 2))
        data = entries(counts)
        data += [(f"{path}.copy", label, None, picture) for path, label, _, picture in data if rng.random() < 0.1]
        split = divide(data, val=val, test=test, seed=seed)
        assert sorted(where(split)) == sorted(path for path, *_ in data)
        for label in counts:
            found, total = sizes(split, label), sum(entry[1] == label for entry in data)
            assert set(found) == {"train", "val", "test"}
            assert abs(found["val"] - val * total) <= 1
            assert abs(found["test"] - test * total) <= 1
            assert abs(found["train"] - (1 - val - test) * total) <= 2


def test_new_images_leave_other_classes_alone_whatever_the_seed_and_folder() -> None:
    for subset in (None, "train"):
        for seed in range(10):
            before = where(divide(entries({"a": 30, "b": 17}, subset), seed=seed))
            after = where(divide(entries({"a": 55, "b": 17, "Z": 4}, subset), seed=seed))
            assert all(after[path] == home for path, home in before.items() if "b/" in path)


def test_rows_follow_the_order_of_the_images() -> None:
    data = entries({"b": 9, "a": 9})[::-1]
    assert [row.path for row in divide(data).rows] == [path for path, *_ in data]


def test_folders_on_disk_that_give_some_subsets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, count in (("train", 10), ("test", 3)):
        for label in "ab":
            (tmp_path / folder / label).mkdir(parents=True)
            for n in range(count):
                image = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
                image.save(tmp_path / folder / label / f"{n}.png")

    def divided(*, drop: bool = False) -> Split:
        loaded = load_images(list_images(tmp_path), 8, skip_unreadable=False)
        return split_images(loaded, val_fraction=0.2, test_fraction=0.2, seed=0, drop_duplicates=drop)

    two = divided()
    assert sizes(two, "a") == sizes(two, "b") == {"train": 8, "val": 2, "test": 3}
    assert all(row.path.startswith("test") == (row.subset == "test") for row in two.rows)
    (tmp_path / "val/a").mkdir(parents=True)
    Image.new("RGB", (5, 5)).save(tmp_path / "val/a/0.png")
    three = divided()
    assert all(row.path.split("/")[0] == row.subset for row in three.rows)
    with Image.open(tmp_path / "train/a/0.png") as image:
        image.save(tmp_path / "test/a/copy.bmp")
    with pytest.raises(DataError, match=r"test/a/copy\.bmp = train/a/0\.png"):
        divided()
    assert divided(drop=True).dropped == ("train/a/0.png",)


def test_many_problems_are_counted() -> None:
    data = entries({"a": 9, "b": 9})
    data += [(f"{label}/x{n}.jpg", label, None, f"x{n}") for n in range(8) for label in "ab"]
    with pytest.raises(DataError, match="and 3 more"):
        divide(data)


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.2, 0.0), (0.5, 0.5), (0.9, 0.2), (float("nan"), 0.2)])
def test_fractions_that_make_no_sense(val: float, test: float) -> None:
    with pytest.raises(SettingsError, match="fractions above 0"):
        divide(entries({"a": 10, "b": 10}), val=val, test=test)


def test_fingerprint() -> None:
    rows = divide(entries({"a": 9, "b": 9}), seed=0).rows
    print_ = data_fingerprint(rows)
    assert len(print_) == 64
    assert data_fingerprint(rows[::-1]) == print_
    assert data_fingerprint(divide(entries({"a": 9, "b": 9}), seed=1).rows) == print_
    first = rows[0]
    for changed in (
        SplitRow("other.jpg", first.label, first.subset, first.sha256),
        SplitRow(first.path, "b", first.subset, first.sha256),
        SplitRow(first.path, first.label, first.subset, digest("other")),
    ):
        assert data_fingerprint((changed, *rows[1:])) != print_
    assert data_fingerprint(rows[1:]) != print_


def test_sample_is_balanced_sorted_and_seeded() -> None:
    labels = ["a"] * 50 + ["b"] * 50 + ["c"] * 4
    for seed in range(10):
        drawn = stratified_sample(labels, 30, seed)
        assert drawn.dtype == np.int64
        assert drawn.tolist() == sorted(set(drawn.tolist()))
        assert Counter(labels[i] for i in drawn) == {"a": 13, "b": 13, "c": 4}
        assert Counter(labels[i] for i in stratified_sample(labels, 3, seed)) == {"a": 1, "b": 1, "c": 1}
        assert np.array_equal(stratified_sample(labels, 30, seed), drawn)
    assert not np.array_equal(stratified_sample(labels, 30, 0), stratified_sample(labels, 30, 1))


def test_sample_never_exceeds_what_there_is() -> None:
    assert stratified_sample(["a", "b", "a"], 10, 0).tolist() == [0, 1, 2]
    assert len(stratified_sample(["a", "b", "c", "d"], 2, 0)) == 2
    assert stratified_sample([], 5, 0).tolist() == []
    assert stratified_sample(["a"], 0, 0).tolist() == []


def test_a_thousand_classes_take_seconds_not_minutes() -> None:
    import time

    data = entries({f"c{n}": 20 for n in range(1000)})
    start = time.perf_counter()
    assert len(divide(data).rows) == 20_000
    assert len(stratified_sample([label for _, label, *_ in data], 500, 0)) == 500
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("given", "train"), [((), 60), (("train",), 60), (("train", "test"), 80), (("train", "val"), 80), (SUBSETS, 100)]
)
def test_how_many_will_train_is_known_beforehand(given: tuple[Subset, ...], train: int) -> None:
    files = [ImageFile(f"{s}/{c}/{i}.png", c, s) for s in given or (None,) for c in "ab" for i in range(100)]
    assert training_counts(files, 0.2, 0.2) == {"a": train, "b": train}
