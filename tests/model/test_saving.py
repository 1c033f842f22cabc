"""Equal models are equal files, so that a digest means something."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import run_process
from tledge.core.files import sha256_file


def test_what_is_shared_stays_shared_and_reads_back(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    from tledge.model.saving import save_model

    def made() -> object:
        keras.utils.set_random_seed(3)
        pixels = keras.Input((4, 4, 3), name="pixels")
        shared = keras.layers.Dense(3, name="shared")
        return keras.Model(pixels, shared(shared(keras.layers.GlobalAveragePooling2D(name="mean")(pixels))), name="m")

    model = made()
    for name, one in (("a", model), ("b", made())):
        save_model(one, tmp_path / f"{name}.keras")
    assert sha256_file(tmp_path / "a.keras") == sha256_file(tmp_path / "b.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        numbers = [
            int(text.split(",")[0].strip(" }]"))
            for text in archive.read("config.json").decode().split('"shared_object_id":')[1:]
        ]
        assert json.loads(archive.read("metadata.json"))["keras_version"] == keras.__version__
    assert numbers
    assert max(numbers) <= len(numbers)
    again, pictures = keras.models.load_model(tmp_path / "a.keras"), np.ones((2, 4, 4, 3), np.float32)
    np.testing.assert_array_equal(again(pictures), model(pictures))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras", "b.keras"]


@pytest.mark.slow
def test_the_optimizer_is_left_out_and_stays_where_it_is(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    from tledge.model.saving import save_model

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out")], name="m")
    save_model(model, tmp_path / "before.keras")
    weights = model.get_weights()
    model.compile("adam", "mse")
    model.fit(np.ones((4, 2)), np.ones(4), verbose=0)
    steps = int(model.optimizer.iterations.numpy())
    model.set_weights(weights)
    save_model(model, tmp_path / "after.keras")
    assert sha256_file(tmp_path / "after.keras") == sha256_file(tmp_path / "before.keras")
    assert model.compiled
    assert int(model.optimizer.iterations.numpy()) == steps == 1


def test_two_trainings_with_one_seed_write_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    """In processes of their own, as two people would train; addresses and times differ there."""
    options = ("--technique", "feature-extraction", "--weights", "random", "--image-size", "32", "--epochs", "2")
    for name in ("a", "b"):
        ended = run_process("train", digits, "--out", tmp_path / name, *options)
        assert ended.returncode == 0, ended.stderr
    for file in ("model.keras", "split.csv", "labels.txt"):
        assert sha256_file(tmp_path / "a" / file) == sha256_file(tmp_path / "b" / file), file
