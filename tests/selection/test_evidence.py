"""The evidence itself: LogME against brute force, probes on data whose answer is known, the cache."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tledge.core.errors import WeightsError
from tledge.core.user_folders import cache_folder
from tledge.data.scan import list_images
from tledge.model.weight_files import KERNEL_SHAPES
from tledge.model.weights import TrunkWeights
from tledge.selection.evidence import examine, folds_for, linear_probe, nearest_neighbours
from tledge.selection.features import DEPTHS, WIDTH, FeatureCache, at_depth
from tledge.selection.logme import logme
from tledge.selection.sample import draw

pytest.importorskip("sklearn")


def features_and_labels(n: int, width: int, strength: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    means = rng.standard_normal((3, width))
    return (strength * means[labels] + rng.standard_normal((n, width))).astype(np.float32), labels


def brute_force(features: np.ndarray, labels: np.ndarray) -> float:
    """Maximise the evidence as a Gaussian density of the labels, N(0, I/beta + F F'/alpha), with no linear algebra."""
    from scipy.optimize import minimize
    from scipy.stats import multivariate_normal

    n, values = len(labels), features.astype(np.float64)
    total = 0.0
    for label in np.unique(labels):
        y = (labels == label).astype(np.float64)

        def loss(logs: np.ndarray, y: np.ndarray = y) -> float:
            alpha, beta = np.exp(np.clip(logs, -30, 30))
            covariance = np.eye(n) / beta + values @ values.T / alpha
            return -float(multivariate_normal.logpdf(y, np.zeros(n), covariance))

        starts = [(a, b) for a in (-2.0, 2.0, 6.0) for b in (0.0, 3.0)]
        total += max(-minimize(loss, start, method="Nelder-Mead", tol=1e-9).fun for start in starts)
    return total / len(np.unique(labels)) / n


@pytest.mark.parametrize(("n", "width"), [(30, 5), (24, 24), (18, 60)])
@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_logme_is_the_maximal_evidence(n: int, width: int, strength: float) -> None:
    features, labels = features_and_labels(n, width, strength)
    assert logme(features, labels) == pytest.approx(brute_force(features, labels), abs=2e-3)


def test_logme_does_not_depend_on_scale_or_order() -> None:
    features, labels = features_and_labels(40, 20, 1.0)
    order = np.random.default_rng(1).permutation(40)
    for scale in (1e-20, 1e-5, 1e3, 1e6, 1e12):
        assert logme(np.float32(scale) * features, labels) == pytest.approx(logme(features, labels), abs=1e-6)
    assert logme(features[order], labels[order]) == pytest.approx(logme(features, labels), abs=1e-6)


def test_logme_rises_with_what_features_tell() -> None:
    scores = [logme(*features_and_labels(60, 16, strength)) for strength in (0.0, 0.5, 1.0, 2.0)]
    assert scores == sorted(scores)
    assert scores[-1] - scores[0] > 0.1


def test_features_that_are_not_finite_refuse_their_trunk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / label / f"{number}.png")
    sample = draw(tmp_path, list_images(tmp_path).files, 6, 0)
    tensors = {
        layer: (np.zeros(shape, np.float32), np.full(shape[3], np.inf if layer == "block5_conv3" else 0, np.float32))
        for layer, shape in KERNEL_SHAPES.items()
    }
    for _ in range(2):  # the second time from the cache, whose values would be as useless
        with pytest.raises(WeightsError, match="finite features of mine, but 6 of 6 images"):
            examine(
                "mine", None, lambda: TrunkWeights(tensors, "mine", "a" * 64), sample, 32, "float32", lambda *_: None
            )


def test_logme_survives_features_that_say_nothing_or_repeat() -> None:
    labels = np.arange(12) % 3
    assert np.isfinite(logme(np.zeros((12, 4), np.float32), labels))
    repeated = np.repeat(features_and_labels(12, 1, 1.0)[0], 8, axis=1)
    assert np.isfinite(logme(repeated, labels))


@pytest.mark.parametrize(("strength", "low", "high"), [(0.0, 0.15, 0.52), (4.0, 0.98, 1.0)])
def test_probes_on_noise_and_on_clear_classes(strength: float, low: float, high: float) -> None:
    features, labels = features_and_labels(120, 24, strength)
    for probe in (linear_probe(features, labels, 0), nearest_neighbours(features, labels)):
        assert low <= probe.accuracy.value <= high
        assert probe.accuracy.n == 120
        assert probe.accuracy.low < probe.accuracy.value or probe.accuracy.value == 1.0 or probe.accuracy.value == 0.0


def test_an_image_is_not_its_own_neighbour() -> None:
    features, labels = features_and_labels(30, 400, 0.0)
    assert nearest_neighbours(features, labels).accuracy.value < 0.7


def test_folds_follow_the_rarest_class() -> None:
    assert folds_for(np.asarray([0] * 9 + [2] * 3)) == 3
    assert folds_for(np.asarray([0] * 9 + [1] * 9)) == 5


def test_depths_share_the_columns() -> None:
    features = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
    np.testing.assert_array_equal(np.concatenate([at_depth(features, depth) for depth in DEPTHS], axis=1), features)


def some_features(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, WIDTH)).astype(np.float32)


def test_the_cache_returns_what_was_put_in_for_the_same_trunk_and_size_only() -> None:
    cache = FeatureCache("a" * 64, 64, "float32")
    features, names = some_features(700), [f"{i:064x}" for i in range(700)]
    cache.put(names[:600], features[:600])
    cache.put(names[500:], features[500:])
    found = FeatureCache("a" * 64, 64, "float32").get([*names, "f" * 64])
    assert found.keys() == set(names)
    np.testing.assert_array_equal(np.stack([found[name] for name in names]), features)
    for other in (("b" * 64, 64, "float32"), ("a" * 64, 96, "float32"), ("a" * 64, 64, "bfloat16")):
        assert not FeatureCache(*other).get(names)


def test_a_damaged_cache_is_made_anew() -> None:
    cache = FeatureCache("a" * 64, 64, "float32")
    cache.put(["1" * 64], some_features(1))
    cache.path.write_bytes(b"no database" * 100)
    assert not cache.get(["1" * 64])
    cache.put(["1" * 64], some_features(1))
    cache.put(["1" * 64], some_features(1))
    assert cache.get(["1" * 64])


@pytest.mark.parametrize("value", ["text", 7, b"123", np.full(WIDTH, np.nan, "<f4").tobytes()])
def test_values_that_are_no_features_are_computed_again(value: object) -> None:
    cache = FeatureCache("a" * 64, 64, "float32")
    cache.put(["1" * 64], some_features(1))
    with contextlib.closing(sqlite3.connect(cache.path)) as database, database:
        database.execute("UPDATE features SET pooled = ?", (value,))
    assert not cache.get(["1" * 64])


def test_old_databases_go_when_the_cache_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tledge.selection.features._MOST_BYTES", 20_000)
    first, second = FeatureCache("a" * 64, 64, "float32"), FeatureCache("b" * 64, 64, "float32")
    first.put(["1" * 64, "2" * 64], some_features(2))
    second.put(["1" * 64, "2" * 64], some_features(2))
    assert second.get(["1" * 64])
    assert not first.path.exists()
    assert len(list((cache_folder() / "features").iterdir())) == 1


def test_a_database_that_goes_while_sizes_are_counted_is_no_error() -> None:
    cache = FeatureCache("a" * 64, 64, "float32")
    gone = cache.path.with_name("gone.sqlite")  # a link to nothing: listed, and cannot be looked at
    gone.parent.mkdir(parents=True)
    gone.symlink_to("nowhere")
    cache.put(["1" * 64], some_features(1))
    assert cache.get(["1" * 64])


def test_half_a_row_is_no_row() -> None:
    cache = FeatureCache("a" * 64, 64, "float32")
    cache.put(["1" * 64], some_features(1))
    database = sqlite3.connect(cache.path)
    database.execute("UPDATE features SET pooled = substr(pooled, 1, 100)")
    database.commit()
    database.close()
    assert not cache.get(["1" * 64])
