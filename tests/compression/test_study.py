"""What a small net learns from: how many pictures, and where they stay when they are too many for memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.small_nets import digits_at_32px, silent
from tledge.compression import LowRankSettings, ShrinkData, Study, shrink, shrinking, study
from tledge.compression.methods.low_rank import thin_layers
from tledge.core import arrays
from tledge.model.vgg16 import build

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShrinkData:
    return digits_at_32px(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return build(3, 32, "gap", None, seed=3)


@pytest.mark.parametrize(
    ("few", "pictures", "images", "copies"),
    [(1024, 30, 24, 1), (1024, 72, 24, 2), (8, None, 20, 0), (8, 12, 12, 0), (8, 48, 24, 1)],
)
def test_few_images_are_augmented_and_of_many_more_are_taken(
    few: int,
    pictures: int | None,
    images: int,
    copies: int,
    data: ShrinkData,
    model: keras.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study, "_TRAINING_IMAGES", few)
    monkeypatch.setattr(study, "MOST_PICTURES", 20)
    train, val = Study(model, data, 0, pictures).teacher_outputs(32, "block5_pool", silent)
    assert len(train.images) == images * (1 + copies)
    plain = {image.tobytes() for image in train.images[:images]}
    assert plain <= {image.tobytes() for image in data.pixels.take(data.train[0])}
    assert len(val.images) == min(few, len(data.val[0]))


@pytest.mark.parametrize(("many", "epochs"), [(1000, 2), (24, 1)])
def test_many_pictures_take_fewer_epochs(
    many: int, epochs: int, data: ShrinkData, model: keras.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MANY_PICTURES", many), ("EPOCHS", 2), ("EPOCHS_OF_MANY", 1)):
        monkeypatch.setattr(shrinking, name, value)
    settings = LowRankSettings(speedup=8, last_layer="none")
    found = shrink(Study(model, data, 0, pictures=24), settings, thin_layers, silent).distillation
    assert found is not None
    assert len(found.losses) == 1 + epochs


def test_what_is_too_large_for_memory_is_in_a_mapped_file(
    data: ShrinkData, model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory, _ = Study(model, data, 0, 50).teacher_outputs(32, "block5_pool", silent, tmp_path)
    monkeypatch.setattr(arrays, "BUDGET_BYTES", 1000)
    mapped, _ = Study(model, data, 0, 50).teacher_outputs(32, "block5_pool", silent, tmp_path / "work")
    assert isinstance(mapped.features, np.memmap)
    assert list((tmp_path / "work").iterdir()) == []
    np.testing.assert_array_equal(mapped.features, in_memory.features)
    np.testing.assert_array_equal(mapped.answers, in_memory.answers)
