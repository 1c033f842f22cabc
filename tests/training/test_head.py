"""The head: what it reaches on features as VGG16 has them, and that it is fitted before the trunk moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tledge
from tests.conftest import write_digits
from tests.small_nets import IMAGENET, needs_imagenet
from tledge.core import arrays
from tledge.data.pixels import PixelStore
from tledge.model import weights
from tledge.model.vgg16 import build
from tledge.selection.features import at_depth, pooled_features, trunk_of
from tledge.training.head import fit_head, start_head
from tledge.training.task import TrainingTask

keras = pytest.importorskip("keras")


def training_task(model: Any, pixels: PixelStore, labels: np.ndarray, folder: Path, epochs: int = 60) -> TrainingTask:
    """Two thirds of the images train, a third validates."""
    rows = np.arange(len(labels))
    val = rows % 3 == 0
    return TrainingTask(
        model=model,
        pixels=pixels,
        train=(rows[~val], labels[~val]),
        val=(rows[val], labels[val]),
        epochs=epochs,
        batch_size=16,
        learning_rate=1e-3,
        patience=20,
        class_weighting="balanced",
        augment=False,
        frozen_layers=0,
        from_random=False,
        warm_up_epochs=0,
        compute="float32",
        seed=0,
        features=None,
        scratch=folder,
        progress=lambda *_: None,
    )


@needs_imagenet
@pytest.mark.slow
def test_a_head_fits_features_as_they_come(tmp_path: Path) -> None:
    """As well as a regularised logistic regression does, on images of which neither saw any."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    files = sorted(write_digits(tmp_path / "digits", 60, tuple(range(10))).rglob("*.png"))
    files = [files[index] for index in np.random.default_rng(0).permutation(len(files))]
    labels = np.unique([path.parent.name for path in files], return_inverse=True)[1]
    trunk = trunk_of(weights.resolve(str(IMAGENET)), 32)
    features = at_depth(pooled_features(trunk, PixelStore(files, 32), np.arange(len(files)), "float32"), "block5_pool")
    inputs = keras.Input(features.shape[1:])
    head = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(inputs))
    seen, unseen = np.arange(240), np.arange(240, len(files))
    task = training_task(head, PixelStore([], 32), labels[seen], tmp_path, epochs=200)
    history, best = fit_head(head, task, features, task.train[0], task.val[0])

    def accuracy(rows: np.ndarray) -> float:
        return float(np.mean(head.predict(features[rows], verbose=0).argmax(axis=1) == labels[rows]))

    # The head takes features as they are, and answers as it did on scaled ones in training.
    assert accuracy(task.val[0]) == pytest.approx(history[best - 1].val_accuracy, abs=0.02)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(features[task.train[0]], labels[task.train[0]])
    assert accuracy(unseen) >= probe.score(features[unseen], labels[unseen]) - 0.03 > 0.75


def test_features_without_spread_train(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    head = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(inputs))
    task = training_task(head, PixelStore([], 32), np.arange(12) % 2, tmp_path, epochs=2)
    fit_head(head, task, np.full((12, 4), 7.0, np.float32), *(part[0] for part in (task.train, task.val)))
    assert np.isfinite(head.get_weights()[0]).all()


@pytest.mark.parametrize("kind", ["flatten", pytest.param("gap", marks=pytest.mark.slow)])
def test_the_head_comes_first_and_alone(kind: str, digits: Path, tmp_path: Path) -> None:
    files = sorted(digits.rglob("*.png"))
    labels = np.unique([path.parent.name for path in files], return_inverse=True)[1]
    model = build(3, 32, kind, None, seed=0)
    task = training_task(model, PixelStore(files, 32), labels, tmp_path)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    start_head(task)
    for layer in model.layers:
        unchanged = all(map(np.array_equal, layer.get_weights(), before[layer.name]))
        assert unchanged == (layer.name not in {"fc1", "prediction"} or not layer.weights)
    said = model.predict(task.pixels.take(task.val[0]).astype(np.float32), verbose=0).argmax(axis=1)
    assert np.mean(said == task.val[1]) > 0.8


def test_head_and_trunk_keep_activations_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_digits(tmp_path / "data", 10)
    settings = {"technique": "freeze", "image_size": 32, "weights": "random", "epochs": 1}
    in_memory = tledge.train(data, out=tmp_path / "a", **settings)
    monkeypatch.setattr(arrays, "BUDGET_BYTES", 1000)
    mapped = tledge.train(data, out=tmp_path / "b", **settings)
    assert mapped.manifest.training.val_loss == pytest.approx(in_memory.manifest.training.val_loss, rel=1e-3)
