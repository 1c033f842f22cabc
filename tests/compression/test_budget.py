"""Budgets: how large a file will be is known before, and a net within one is written within it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import converted, run_cli
from tests.small_nets import digits_at_32px, needs_imagenet, silent, trained
from tledge.compression import LowRankSettings, ShrinkData, Study, shrink
from tledge.compression.budget import file_bytes, parse_budget
from tledge.compression.flat import flat
from tledge.compression.methods.low_rank import thin_layers
from tledge.core.errors import SettingsError
from tledge.core.types import HeadName
from tledge.model.vgg16 import build

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShrinkData:
    return digits_at_32px(tmp_path_factory.mktemp("digits"))


@pytest.mark.slow
@needs_imagenet
@pytest.mark.parametrize(("head", "budget"), [("gap", 1_000_000), ("gap", 400_000), ("flatten", 2_000_000)])
def test_a_net_within_a_budget_is_written_within_it(head: HeadName, budget: float, data: ShrinkData) -> None:
    model = trained(head, data)
    settings = LowRankSettings(budget=budget, last_layer="none", epochs=0)
    found = shrink(Study(model, data, 0, pictures=24), settings, thin_layers, silent).model
    size = len(converted("tflite", "int8", found, ("0", "1", "7"), data.pixels.take(data.train[0])))
    assert 0.96 * budget < size < budget
    assert size <= file_bytes(found) <= 1.03 * size


def test_depthwise_layers_and_branches_count_too() -> None:
    settings = {"alpha": 0.35, "weights": None, "input_shape": (64, 64, 3), "classes": 3}
    model = keras.applications.MobileNetV2(**settings)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    size = len(converted("tflite", "int8", model, ("0", "1", "7"), images))
    assert size <= file_bytes(flat(model)) <= 1.03 * size


@pytest.mark.parametrize("text", ["", "p50 < 10 ms", "size > 1 MB", "size < 1", "size < 1 MB, size < 2 MB"])
def test_budgets_that_make_no_sense(text: str) -> None:
    with pytest.raises(SettingsError, match="expected"):
        parse_budget(text)


def test_a_budget_that_no_net_meets(data: ShrinkData) -> None:
    model = build(3, 32, "gap", None, seed=3)
    settings = LowRankSettings(budget=2e4, last_layer="none", epochs=0)
    with pytest.raises(SettingsError, match=r"but the limit is .* and 20,000 bytes of the int8 file"):
        shrink(Study(model, data, 0, pictures=24), settings, thin_layers, silent)


def test_a_model_that_gives_every_image_one_class(data: ShrinkData) -> None:
    model = build(3, 32, "gap", None, seed=3)
    weights, _ = model.get_layer("prediction").get_weights()
    model.get_layer("prediction").set_weights([0 * weights, np.array([100, 0, 0])])
    settings = LowRankSettings(speedup=4, last_layer="none", epochs=0)
    with pytest.raises(SettingsError, match="but it gives the same class to every training image"):
        shrink(Study(model, data, 0, pictures=24), settings, thin_layers, silent)


def test_an_exported_file_holds_the_budget(finished_run: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    done = run_cli(
        "optimize", finished_run, "--budget", "size < 150 kB", "--epochs", 0, "--pictures", 40, "--out", small
    )
    assert done.returncode == 0, done.stderr
    assert run_cli("export", small, "--recipe", "tflite-int8").returncode == 0
    assert 0.8 * 150e3 < (small / "export" / "tflite-int8.tflite").stat().st_size < 150e3

    done = run_cli("optimize", finished_run, "--budget", "p50 < 1 ms", "--out", tmp_path / "other")
    assert done.returncode == 2
    assert "expected one of size in --budget, but got 'p50'" in done.stderr
