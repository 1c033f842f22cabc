"""Technique `architecture` from random weights: the start, the learning rate, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.conftest import write_digits
from tledge.data.pixels import PixelStore
from tledge.training.fit import _learning_rate
from tledge.training.layers import freeze
from tledge.training.settings import TrainSettings, plan
from tledge.training.task import TrainingTask
from tledge.training.techniques import scale_to_unit_variance

keras = pytest.importorskip("keras")


@pytest.fixture
def task(tmp_path: Path) -> TrainingTask:
    from tledge.model.vgg16 import build

    paths = sorted(write_digits(tmp_path / "data", 10).rglob("*.png"))
    positions = np.arange(len(paths))
    return TrainingTask(
        model=build(3, 32, "flatten", None, 0),
        pixels=PixelStore(paths, 32),
        train=(positions, positions % 3),
        val=(positions, positions % 3),
        epochs=5,
        batch_size=10,
        learning_rate=1e-3,
        patience=5,
        class_weighting="none",
        augment=False,
        frozen_layers=0,
        from_random=True,
        warm_up_epochs=2,
        compute="float32",
        seed=0,
        features=None,
        scratch=tmp_path,
        progress=lambda *_: None,
    )


def test_every_layer_puts_out_values_of_unit_variance(task: TrainingTask) -> None:
    freeze(task.model, until=None)
    pixels = task.pixels.take(task.train[0]).astype(np.float32)
    scale_to_unit_variance(task)
    x = pixels
    for layer in task.model.layers[1:]:
        if layer.trainable and layer.weights:
            activation, layer.activation = layer.activation, keras.activations.linear
            assert np.std(layer(x)) == pytest.approx(1.0, rel=1e-3), layer.name
            layer.activation = activation
        x = layer(x)
    # The loss has a slope: no class is nearly certain before anything was learned.
    assert np.max(x) < 0.999


def test_the_learning_rate_rises_then_falls_to_nothing(task: TrainingTask) -> None:
    rate = [float(_learning_rate(task, steps_per_epoch=3)(step)) for step in range(16)]
    assert rate[0] == 0.0
    assert int(np.argmax(rate)) == 6  # after two epochs
    assert rate[6] == pytest.approx(1e-3)
    assert rate[6:] == sorted(rate[6:], reverse=True)
    assert rate[15] == pytest.approx(0.0, abs=1e-9)
    assert _learning_rate(replace(task, from_random=False), 3) == 1e-3


def test_only_architecture_from_random_weights_has_settings_of_its_own() -> None:
    scratch = plan(TrainSettings("architecture", weights="random"))
    assert scratch.from_random
    assert scratch.warm_up_epochs > 0
    for others in (TrainSettings("architecture"), TrainSettings("freeze", weights="random")):
        assert not plan(others).from_random
        assert plan(others).learning_rate < scratch.learning_rate


@pytest.mark.slow
def test_it_learns_digits_from_nothing(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 40)
    run = tledge.train(
        data, technique="architecture", weights="random", image_size=32, epochs=4, batch_size=8, out=tmp_path / "run"
    )
    assert run.manifest.training.val_accuracy >= 0.9
