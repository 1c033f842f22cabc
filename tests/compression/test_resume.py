"""Trainings inside `optimize` that were interrupted go on with the same steps, in Keras 3 and in Keras 2 with TFMOT."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from tests.training.test_loop import interrupt
from tledge.compression import ClusterSettings, PruneSettings, QatSettings
from tledge.compression.distill import Distillation, TeacherOutputs, TrainingSchedule, distill
from tledge.compression.legacy_distill import DistillationData, LabelledExamples
from tledge.compression.methods.cluster import cluster
from tledge.compression.methods.prune import prune
from tledge.compression.methods.qat import Preserve, train_quantized
from tledge.core.dependencies import installed
from tledge.model.preprocessing import preprocessing_layer
from tledge.training import loop

keras = pytest.importorskip("keras")
SIDE, EPOCHS, RATE = 32, 3, 1e-2

Trained: TypeAlias = tuple[Distillation, list[np.ndarray]]


def silent(*_: object) -> None:
    """Progress that nobody sees."""


def chain() -> Any:
    """A short net of the kind that tledge trains."""
    pixels = keras.Input((SIDE, SIDE, 3), name="input")
    x = preprocessing_layer((SIDE, SIDE, 3), np.eye(3, dtype=np.float32), np.full(3, -100.0, np.float32))(pixels)
    for block, filters in enumerate((4, 6), 3):
        initializer = keras.initializers.HeNormal(seed=block)
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", kernel_initializer=initializer, name=f"block{block}_conv1"
        )(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    initializer = keras.initializers.HeNormal(seed=9)
    x = keras.layers.Dense(3, activation="softmax", kernel_initializer=initializer, name="prediction")(x)
    return keras.Model(pixels, x)


def subsets() -> DistillationData:
    """Noise of three kinds, with answers that the net does not give yet."""
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 3
    images = generator.integers(0, 80, (40, SIDE, SIDE, 3)) + 80 * labels[:, np.newaxis, np.newaxis, np.newaxis]
    answers = np.full((40, 3), 0.1, np.float32)
    answers[np.arange(40), labels] = 0.8
    examples = LabelledExamples(images.astype(np.uint8), answers, labels)
    return DistillationData(examples, examples)


def distilled(file: Path | None) -> Trained:
    data, student = subsets().train, chain()
    features = np.random.default_rng(1).random((40, SIDE // 4, SIDE // 4, 6)).astype(np.float32)
    outputs = TeacherOutputs(data.images, features, data.answers)
    found = distill(student, outputs, outputs, TrainingSchedule(EPOCHS, RATE, 0), silent, file)
    return found, student.get_weights()


def pruned(file: Path | None) -> Trained:
    found = prune(chain(), subsets(), PruneSettings(0.5, EPOCHS, RATE), silent, file)
    return found.distillation, found.model.get_weights()


def clustered(file: Path | None) -> Trained:
    settings = ClusterSettings(8, EPOCHS, RATE)
    found = cluster(chain(), subsets(), settings, silent, keep_zeros=False, file=file)
    return found.distillation, found.model.get_weights()


def quantized(file: Path | None) -> Trained:
    found = train_quantized(chain(), subsets(), QatSettings(EPOCHS, RATE), silent, Preserve(), file)
    assert found.ranges is not None
    ranges = [np.asarray(found.ranges.of(name)) for name in ("block3_conv1", "gap", "prediction")]
    return found.distillation, [*found.model.get_weights(), *ranges]


@pytest.mark.parametrize(
    "train",
    [
        distilled,
        pruned,
        pytest.param(clustered, marks=pytest.mark.slow),
        pytest.param(quantized, marks=pytest.mark.slow),
    ],
)
def test_the_same_steps_follow(
    train: Callable[[Path | None], Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if train is not distilled and not installed("tensorflow_model_optimization"):
        pytest.skip("needs the optimize extra")
    monkeypatch.setattr(loop, "_SHARE", math.inf)
    monkeypatch.setattr(loop, "_WITHIN_EPOCH_S", 0.0)
    steps = 3
    expected, weights = train(None)
    assert expected.best > 1, "else a training that does not go on would end with the same weights"
    for name, epochs, batches in (("_epoch_ends", 1, 0), ("_batch_ends", 1, 2)):
        file = tmp_path / f"{name}.npz"
        with monkeypatch.context() as patch:
            interrupt(patch, name, epochs, batches)
            with pytest.raises(KeyboardInterrupt):
                train(file)
        caplog.clear()
        with caplog.at_level(logging.INFO, "tledge"):
            found, again = train(file)
        where = f"batch {batches} of {steps} in epoch {epochs + 1}" if batches else f"epoch {epochs}"
        assert [line.partition(" resumed ")[2] for line in caplog.messages] == [f"after {where} of {EPOCHS}"]
        assert found == expected
        for one, other in zip(weights, again, strict=True):
            np.testing.assert_array_equal(one, other)
