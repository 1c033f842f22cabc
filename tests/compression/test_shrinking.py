"""Filter pruning: costs by hand, what narrowing keeps, what reconstruction wins, and the whole way at 32 px."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import converted
from tests.small_nets import IMAGENET, digits_at_32px, needs_imagenet, silent, trained
from tledge.compression import ShrinkData, ShrinkSettings, Shrunk, Study, layer_costs, multiply_adds, narrow, shrink
from tledge.compression.activations import Sampling, outputs, pre_activations
from tledge.compression.flat import LayerCost, parameters, weighted_layers
from tledge.compression.methods.filters import Ranking, allocate, fewer_filters, rank, reconstruct
from tledge.compression.shrinking import Limits, Step, default_image_size
from tledge.core.errors import SettingsError, TledgeError
from tledge.data.pixels import PixelStore
from tledge.model import weights
from tledge.model.vgg16 import build
from tledge.runtimes import open_classifier

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ShrinkData:
    return digits_at_32px(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def images(data: ShrinkData) -> np.ndarray:
    return data.pixels.take(data.train[0])


@pytest.fixture(scope="module", params=["gap", "flatten"])
def model(request: pytest.FixtureRequest) -> keras.Model:
    return build(3, 32, request.param, None, seed=3)


def residual(model: keras.Model, name: str, target: np.ndarray, sampling: Sampling) -> float:
    """Mean squared distance of a layer's outputs before activation from `target`, relative to the target's variance."""
    layers = weighted_layers(model)
    number = [layer.name for layer in layers].index(name)
    found = np.concatenate(list(outputs(model, number, sampling)))
    return float(np.square(found - target).sum() / np.square(target - target.mean(axis=0)).sum())


def test_costs_by_hand() -> None:
    costs = {cost.name: cost for cost in layer_costs(build(3, 32, "flatten"))}
    assert costs["block1_conv1"] == LayerCost("block1_conv1", 32 * 32 * 9 * 3 * 64, 9 * 3 * 64 + 64)
    assert costs["block2_conv1"] == LayerCost("block2_conv1", 16 * 16 * 9 * 64 * 128, 9 * 64 * 128 + 128)
    assert costs["block5_conv3"] == LayerCost("block5_conv3", 2 * 2 * 9 * 512 * 512, 9 * 512 * 512 + 512)
    assert costs["fc1"] == LayerCost("fc1", 512 * 100, 512 * 100 + 100)
    assert costs["prediction"] == LayerCost("prediction", 100 * 3, 303)
    convolutions = 224 * 224 * 9 * (3 * 64 + 64 * 64) + 112 * 112 * 9 * (64 * 128 + 128 * 128)
    convolutions += 56 * 56 * 9 * (128 * 256 + 2 * 256 * 256) + 28 * 28 * 9 * (256 * 512 + 2 * 512 * 512)
    convolutions += 14 * 14 * 9 * 3 * 512 * 512
    assert multiply_adds(build(2, 224, "gap")) == convolutions + 512 * 2
    published = keras.applications.VGG16(weights=None, include_top=False)
    assert parameters(build(2, 32, "gap")) == published.count_params() + 512 * 2 + 2


def test_narrow_with_everything_kept_is_the_original(model: keras.Model, images: np.ndarray) -> None:
    everything = {"block3_conv2": np.arange(256), "block5_conv3": np.arange(512)}
    pixels = images[:4].astype(np.float32)
    for keep in ({}, everything):
        np.testing.assert_array_equal(narrow(model, keep)(pixels), model(pixels))


def test_narrow_drops_what_adds_nothing(model: keras.Model, images: np.ndarray) -> None:
    """A filter of zeros adds nothing downstream, so leaving it out must not change an answer."""
    source = narrow(model, {})
    kept = np.arange(0, 512, 3)
    for name in ("block4_conv2", "block5_conv3"):
        kernel, bias = source.get_layer(name).get_weights()
        gone = np.setdiff1d(np.arange(512), kept)
        kernel[..., gone], bias[gone] = 0.0, 0.0
        source.get_layer(name).set_weights([kernel, bias])
    small = narrow(source, {"block4_conv2": kept, "block5_conv3": kept})
    assert small.get_layer("block5_conv3").kernel.shape == (3, 3, 512, 171)
    pixels = images[:4].astype(np.float32)
    np.testing.assert_allclose(small(pixels), source(pixels), rtol=1e-3, atol=1e-5)


def test_narrow_drops_units_and_places_of_a_flatten_head() -> None:
    model = build(3, 96, "flatten", None, seed=1)
    kept, units = np.asarray([2, 5, 511]), np.arange(0, 100, 2)
    small = narrow(model, {"block5_conv3": kept, "fc1": units})
    whole = model.get_layer("fc1").get_weights()[0].reshape(3, 3, 512, 100)
    found = small.get_layer("fc1").get_weights()[0]
    np.testing.assert_array_equal(found.reshape(3, 3, 3, 50), whole[:, :, kept][..., units])
    assert small.get_layer("prediction").kernel.shape == (50, 3)


def test_narrow_to_another_input_size() -> None:
    same = np.full((2, 96, 96, 3), 90.0, np.float32)
    gap = build(3, 96, "gap", None, seed=1)
    assert narrow(gap, {}, 64).input_shape == (None, 64, 64, 3)
    flatten = build(3, 96, "flatten", None, seed=1)
    small = narrow(flatten, {}, 64)
    assert small.get_layer("fc1").kernel.shape == (2 * 2 * 512, 100)
    # A kernel that does not depend on the place averages, and an average does not depend on how many places there are.
    kernel, bias = flatten.get_layer("fc1").get_weights()
    kernel = np.tile(kernel[:512], (9, 1))
    flatten.get_layer("fc1").set_weights([kernel, bias])
    resampled = narrow(flatten, {}, 64).get_layer("fc1").get_weights()[0]
    np.testing.assert_allclose(resampled, np.tile(kernel[:512], (4, 1)) * 9 / 4, rtol=1e-5)
    assert np.isfinite(small(same[:, :64, :64])).all()


@pytest.mark.parametrize(
    ("keep", "size"),
    [
        ({"prediction": np.arange(2)}, None),
        ({"gone": np.arange(2)}, None),
        ({"block1_conv1": np.asarray([], np.int64)}, None),
        ({"block1_conv1": np.asarray([3, 3])}, None),
        ({"block1_conv1": np.asarray([64])}, None),
        ({}, 31),
    ],
)
def test_narrow_refuses(keep: dict[str, np.ndarray], size: int | None, model: keras.Model) -> None:
    with pytest.raises(SettingsError, match=r"expected .* but got"):
        narrow(model, keep, size)


@needs_imagenet
@pytest.mark.parametrize("head", ["gap", pytest.param("flatten", marks=pytest.mark.slow)])
def test_ranking_and_reconstruction(head: str, images: np.ndarray, data: ShrinkData) -> None:
    model = build(3, 32, head, weights.resolve(str(IMAGENET)), seed=0)
    sampling = Sampling(images, seed=0)
    rankings = rank(model, sampling)
    targets = pre_activations(model, sampling)
    for ranking in rankings.values():
        assert sorted(ranking.order) == list(range(len(ranking.order)))
        assert np.all(np.diff(ranking.error) >= 0)
        assert 0 <= ranking.error[0] <= ranking.error[-1] <= 1
    keep = {name: ranking.keep(len(ranking.order) // 4) for name, ranking in rankings.items()}
    plain, refitted = narrow(model, keep), narrow(model, keep)
    reconstruct(refitted, keep, targets, sampling)
    # Other images than those it was fitted to: it must have learnt the layers, not the pictures.
    unseen = Sampling(data.pixels.take(data.val[0]), seed=1)
    expected = pre_activations(model, unseen)
    for name in ("block2_conv1", "block3_conv3", "block4_conv3", "block5_conv1"):
        target = expected[name][:, keep[name]]
        assert residual(refitted, name, target, unseen) < 0.7 * residual(plain, name, target, unseen), name


@pytest.mark.slow
@needs_imagenet
def test_ranking_beats_chance(images: np.ndarray) -> None:
    model = build(3, 32, "gap", weights.resolve(str(IMAGENET)), seed=0)
    sampling = Sampling(images, seed=0)
    ranking = rank(model, sampling)["block3_conv1"]
    target = pre_activations(model, sampling)["block3_conv2"]
    chance = np.sort(np.random.default_rng(0).permutation(256)[:64])
    chosen, random = (
        residual(narrow(model, {"block3_conv1": kept}), "block3_conv2", target, sampling)
        for kept in (ranking.keep(64), chance)
    )
    assert chosen < random


def test_budget_is_met_and_spends_where_it_hurts_least() -> None:
    costs = (LayerCost("a", 1000, 10), LayerCost("b", 1000, 10), LayerCost("c", 10, 10))
    flat, steep = np.linspace(0, 0.1, 65), np.linspace(0, 1, 65)
    rankings = {"a": Ranking("a", np.arange(64), flat), "b": Ranking("b", np.arange(64), steep)}
    counts = allocate(costs, rankings, Limits(multiply_adds=1000))
    assert counts["a"] < counts["b"]
    assert all(count % 8 == 0 and count >= 8 for count in counts.values())
    share_a, share_b = counts["a"] / 64, counts["b"] / 64
    assert 1000 * share_a + 1000 * share_a * share_b + 10 * share_b <= 1000
    with pytest.raises(SettingsError, match="expected a target"):
        allocate(costs, rankings, Limits(multiply_adds=1))
    smaller = allocate(costs, rankings, Limits(multiply_adds=1000, parameters=3))
    assert sum(smaller.values()) < sum(counts.values())


def test_default_image_size() -> None:
    assert [default_image_size(224, s) for s in (1.2, 2, 8, 32)] == [224, 160, 160, 160]
    assert [default_image_size(32, 8), default_image_size(96, 8), default_image_size(128, 8)] == [32, 96, 96]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"speedup": 4.0, "max_drop": 0.1},
        {"last_layer": "none"},
        {"speedup": 1.0},
        {"max_drop": -0.1},
        {"speedup": 4.0, "image_size_px": 16},
        {"speedup": 4.0, "size_ratio": 0.5},
        {"speedup": 4.0, "image_size_px": 0},
        {"speedup": math.inf},
        {"size_ratio": math.inf},
        {"speedup": 4.0, "learning_rate": 0.0},
        {"speedup": 4.0, "learning_rate": math.inf},
        {"speedup": 4.0, "seed": -1},
        {"speedup": 4.0, "seed": 2**32},
        {"speedup": 4.0, "epochs": -1},
    ],
)
def test_settings_refuse(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="expected"):
        ShrinkSettings(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[pytest.param("gap", marks=pytest.mark.slow), "flatten"])
def shrunk(request: pytest.FixtureRequest, data: ShrinkData) -> tuple[keras.Model, Shrunk]:
    if IMAGENET is None:
        pytest.skip("the weights extra is not installed")
    model = trained(request.param, data)
    settings = ShrinkSettings(speedup=8, size_ratio=6, last_layer="none", epochs=4)
    return model, shrink(Study(model, data, 0, pictures=48), settings, fewer_filters, silent)


def test_shrink_meets_its_targets(shrunk: tuple[keras.Model, Shrunk]) -> None:
    model, result = shrunk
    assert multiply_adds(model) / multiply_adds(result.model) >= 8
    assert parameters(model) / parameters(result.model) >= 6
    assert [step.what for step in result.steps] == ["original", "resized", "filters", "reconstructed", "distilled"]
    original, last = result.steps[0], result.steps[-1]
    assert last.multiply_adds == multiply_adds(result.model)
    assert last.val_accuracy.n == original.val_accuracy.n == 12
    assert last.val_accuracy.value >= original.val_accuracy.value - 0.2
    for name, count in result.left["filters"].items():
        assert result.model.get_layer(name).filters == count
    assert [layer.name for layer in result.model.layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_shrunk_models_export(form: str, shrunk: tuple[keras.Model, Shrunk], data: ShrinkData, tmp_path: Path) -> None:
    _, result = shrunk
    images = data.pixels.take(data.val[0])
    path = tmp_path / f"small.{form}"
    path.write_bytes(converted(form, "float32", result.model, ("0", "1", "7")))
    expected = np.asarray(result.model(images.astype(np.float32)))
    np.testing.assert_allclose(open_classifier(path).predict(images), expected, atol=1e-4)


@pytest.mark.slow
@needs_imagenet
def test_same_seed_same_model(data: ShrinkData) -> None:
    model = trained("gap", data)
    settings = ShrinkSettings(speedup=12, epochs=2, seed=5)
    first, second = (shrink(Study(model, data, 0, pictures=48), settings, fewer_filters, silent) for _ in range(2))
    assert first.left == second.left
    for one, other in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@needs_imagenet
def test_flatten_head_at_a_smaller_input_is_refitted(data: ShrinkData) -> None:
    model = trained("flatten", data, size=96)
    large = ShrinkData(PixelStore(data.pixels.paths, 96), data.train, data.val)
    settings = ShrinkSettings(speedup=4, image_size_px=64, last_layer="none", epochs=0)
    result = shrink(Study(model, large, 0, pictures=48), settings, fewer_filters, silent)
    assert result.model.input_shape == (None, 64, 64, 3)
    accuracy = {step.what: step.val_accuracy.value for step in result.steps}
    assert accuracy["resized"] >= accuracy["original"] - 0.1


@pytest.mark.slow
@needs_imagenet
def test_search_returns_the_smallest_that_holds(data: ShrinkData, monkeypatch: pytest.MonkeyPatch) -> None:
    from tledge.compression import shrinking

    monkeypatch.setattr(shrinking, "RUNGS", (2.0, 8.0))
    model = trained("gap", data)
    before = [w.copy() for w in model.get_weights()]
    result = shrink(Study(model, data, 0, pictures=48), ShrinkSettings(max_drop=1.0, epochs=0), fewer_filters, silent)
    assert result.speedup == 8.0
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # A rung that no choice of channels reaches is one that does not hold.
    monkeypatch.setattr(shrinking, "RUNGS", (2.0, 1e6))
    assert (
        shrink(
            Study(model, data, 0, pictures=48), ShrinkSettings(max_drop=1.0, epochs=0), fewer_filters, silent
        ).speedup
        == 2.0
    )
    failed = _failed(result)
    monkeypatch.setattr(shrinking, "_candidate", lambda *_: Shrunk(model, 2.0, (failed,), failed, {}, None))
    with pytest.raises(TledgeError, match="cost more"):
        shrink(Study(model, data, 0, pictures=48), ShrinkSettings(max_drop=0.0, epochs=0), fewer_filters, silent)


def _failed(result: Shrunk) -> Step:
    from dataclasses import replace

    step = result.steps[-1]
    return replace(step, val_accuracy=replace(step.val_accuracy, value=-1.0))


def test_other_models_are_refused(data: ShrinkData) -> None:
    vgg = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), include_top=False)
    with pytest.raises(SettingsError, match="optimize a model that tledge trained"):
        multiply_adds(vgg)
    with pytest.raises(SettingsError, match="64 px"):
        shrink(Study(build(3, 64, "gap"), data, 0, pictures=48), ShrinkSettings(speedup=4), fewer_filters, silent)
    with pytest.raises(SettingsError, match="at most the original's 32 px"):
        shrink(
            Study(build(3, 32, "gap"), data, 0, pictures=48),
            ShrinkSettings(speedup=4, image_size_px=64),
            fewer_filters,
            silent,
        )


def test_a_net_that_ends_earlier_answers_as_the_whole_one(data: ShrinkData) -> None:
    from tledge.compression.distill import ask_teacher
    from tledge.compression.truncation import features_layer, truncated

    model = trained("gap", data)
    images = data.pixels.take(data.train[0])
    answers = ask_teacher(model, images).answers
    short = truncated(model, "block4_pool", images, answers)
    assert features_layer(model) == "block5_pool"
    assert features_layer(short) == "block4_pool"
    assert not any(layer.name.startswith("block5") for layer in short.layers)
    found = np.asarray(short(images.astype(np.float32), training=False))
    assert np.mean(found.argmax(axis=1) == answers.argmax(axis=1)) > 0.95


def test_a_net_that_ends_with_the_layers_that_distillation_keeps(data: ShrinkData) -> None:
    settings = ShrinkSettings(speedup=2, size_ratio=100, last_layer="block2_pool", epochs=1)
    result = shrink(Study(trained("gap", data), data, 0, pictures=48), settings, fewer_filters, silent)
    assert [step.what for step in result.steps][-1] == "distilled"
    assert [layer.name for layer in result.model.layers][-3:] == ["block2_pool", "gap", "prediction"]


@pytest.mark.slow
def test_the_end_is_chosen_or_given(data: ShrinkData) -> None:
    model = trained("flatten", data)
    study = Study(model, data, 0, pictures=48)
    given = shrink(study, ShrinkSettings(last_layer="block4_conv2"), fewer_filters, silent)
    assert [step.what for step in given.steps] == ["original", "truncated"]
    assert [layer.name for layer in given.model.layers][-3:] == ["block4_conv2", "gap", "prediction"]
    assert given.left == {}
    chosen = shrink(study, ShrinkSettings(speedup=8, size_ratio=20, epochs=1), fewer_filters, silent)
    ends = study.last_layer(32, silent)
    assert ends in ("block4_pool", "block5_pool")
    assert chosen.steps[1].what == ("truncated" if ends == "block4_pool" else "resized")
    assert parameters(chosen.model) <= parameters(model) / 20
    with pytest.raises(SettingsError, match=r"got 'block5_conv1'; choose one of them, such as .*block4_conv2$"):
        shrink(
            Study(given.model, data, 0, pictures=48), ShrinkSettings(last_layer="block5_conv1"), fewer_filters, silent
        )
