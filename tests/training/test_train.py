"""Training: the three techniques, both heads, what lands on disk, and that nothing half-done does."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tledge
from tests.conftest import write_digits
from tledge.core import arrays
from tledge.core.environment import cpu
from tledge.core.errors import SettingsError, TledgeError
from tledge.core.files import sha256_file
from tledge.data.pixels import PixelStore
from tledge.model import compute
from tledge.training import fit, prefix, techniques
from tledge.training.head import start_head
from tledge.training.settings import TrainSettings, plan

keras = pytest.importorskip("keras")


def weights_of(run: Path) -> dict[str, list[np.ndarray]]:
    model = keras.models.load_model(run / "model.keras")
    return {layer.name: layer.get_weights() for layer in model.layers}


def changed_layers(before: dict[str, list[np.ndarray]], after: dict[str, list[np.ndarray]]) -> set[str]:
    return {
        name
        for name, tensors in before.items()
        if any(not np.array_equal(a, b) for a, b in zip(tensors, after[name], strict=True))
    }


CONVS = {f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)}
BLOCK5 = {"block5_conv1", "block5_conv2", "block5_conv3"}


@pytest.mark.parametrize(
    ("technique", "trained_convs", "head"),
    [
        ("feature-extraction", set(), "gap"),
        ("freeze", BLOCK5, "flatten"),
        ("architecture", CONVS, "flatten"),
        pytest.param("feature-extraction", set(), "flatten", marks=pytest.mark.slow),
        pytest.param("freeze", BLOCK5, "gap", marks=pytest.mark.slow),
        pytest.param("architecture", CONVS, "gap", marks=pytest.mark.slow),
    ],
)
def test_each_technique_trains_its_layers_and_no_other(
    technique: str, trained_convs: set[str], head: str, tmp_path: Path
) -> None:
    data = write_digits(tmp_path / "data", 6)
    run = tledge.train(
        data, technique=technique, head=head, out=tmp_path / "run", weights="random", image_size=32, epochs=1
    )
    from tledge.model.vgg16 import build

    start = build(3, 32, head, None, seed=0)
    before = {layer.name: layer.get_weights() for layer in start.layers}
    head_layers = {"prediction"} | ({"fc1"} if head == "flatten" else set())
    assert changed_layers(before, weights_of(tmp_path / "run")) == trained_convs | head_layers
    parameters = run.manifest.training.trainable_parameters
    expected = sum(w.size for name in trained_convs | head_layers for w in before[name])
    assert parameters == expected


def test_freeze_until_moves_the_cut(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 6)
    tledge.train(
        data,
        technique="freeze",
        freeze_until="block5_conv2",
        out=tmp_path / "run",
        weights="random",
        image_size=32,
        epochs=1,
    )
    from tledge.model.vgg16 import build

    before = {layer.name: layer.get_weights() for layer in build(3, 32, "flatten", None, seed=0).layers}
    assert changed_layers(before, weights_of(tmp_path / "run")) == {"block5_conv3", "fc1", "prediction"}


@pytest.mark.usefixtures("thin_vgg16")
@pytest.mark.parametrize("technique", ["feature-extraction", "freeze"])
def test_no_image_goes_through_frozen_layers_twice(
    technique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = prefix.compute_prefix

    def counting(task: object, model: object) -> object:
        result = original(task, model)
        seen.append(len(result.values))
        return result

    monkeypatch.setattr(techniques, "compute_prefix", counting)
    data = write_digits(tmp_path / "data", 10)
    run = tledge.train(data, technique=technique, out=tmp_path / "run", weights="random", image_size=32, epochs=3)
    images = run.manifest.split.images
    assert seen == [images["train"] + images["val"]]
    assert run.manifest.training.prefix_images == seen[0]


@pytest.mark.slow
def test_kept_activations_train_like_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_digits(tmp_path / "data", 10)
    settings = {"technique": "freeze", "weights": "random", "image_size": 32, "epochs": 2}
    kept = tledge.train(data, out=tmp_path / "kept", **settings)
    monkeypatch.setattr(techniques, "fit_on_activations", lambda task: (start_head(task), fit.fit_on_pixels(task))[1])
    plain = tledge.train(data, out=tmp_path / "plain", **settings)
    assert kept.manifest.training.val_loss == pytest.approx(plain.manifest.training.val_loss, rel=0.02)


@pytest.mark.usefixtures("thin_vgg16")
def test_activations_beyond_the_budget_are_memory_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_digits(tmp_path / "data", 10)
    in_memory = tledge.train(
        data, technique="feature-extraction", weights="random", out=tmp_path / "a", image_size=32, epochs=3
    )
    monkeypatch.setattr(arrays, "BUDGET_BYTES", 1000)
    mapped = tledge.train(
        data, technique="feature-extraction", weights="random", out=tmp_path / "b", image_size=32, epochs=3
    )
    assert mapped.manifest.training.val_loss == pytest.approx(in_memory.manifest.training.val_loss, rel=1e-4)
    assert not list((tmp_path / "b").rglob("*.npy"))
    assert not list((tmp_path / "b").rglob("*.f32"))
    assert not list(tmp_path.rglob("values"))


@pytest.mark.usefixtures("thin_vgg16")
def test_frozen_layers_go_on_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tledge")
    monkeypatch.setattr(prefix, "_MOST_AT_ONCE", 16)
    data = write_digits(tmp_path / "data", 20)
    settings: dict[str, Any] = {"technique": "freeze", "weights": "random", "image_size": 32, "epochs": 1}
    tledge.train(data, out=tmp_path / "undisturbed", **settings)
    original = PixelStore.batches

    def two(self: PixelStore, *given: Any) -> Any:
        for number, batch in enumerate(original(self, *given)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(PixelStore, "batches", two)
        with pytest.raises(KeyboardInterrupt):
            tledge.train(data, out=tmp_path / "run", **settings)
    caplog.clear()
    tledge.train(data, out=tmp_path / "run", **settings)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if line.startswith("frozen layers")] == ["frozen layers resumed after image 32 of 48"]
    assert sha256_file(tmp_path / "run" / "model.keras") == sha256_file(tmp_path / "undisturbed" / "model.keras")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "run", "undisturbed"]


@pytest.mark.parametrize(
    ("damage", "known"), [("none", 32), ("rows", 16), ("no sums", 0), ("half a sum", 16), ("cut", 0), ("of another", 0)]
)
def test_damaged_activations_are_computed_again(damage: str, known: int, tmp_path: Path) -> None:
    task: Any = SimpleNamespace(work=tmp_path, part="training")
    kept = prefix._Kept.of(task, (40, 3), 16)
    assert kept is not None
    assert kept.known() == 0
    for start in (0, 16):
        kept.values[start : start + 16] = np.arange(48).reshape(16, 3) + start
        kept.add(start)
    file, sums = tmp_path / "training-activations.f32", tmp_path / "training-activations.crc"
    del kept
    if damage == "rows":
        content = bytearray(file.read_bytes())
        content[16 * 12 + 5] ^= 255
        file.write_bytes(content)
    if damage == "no sums":
        sums.unlink()
    if damage == "half a sum":
        sums.write_bytes(sums.read_bytes()[:-1])
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    again = prefix._Kept.of(task, (40, 4) if damage == "of another" else (40, 3), 16)
    assert again is not None
    assert again.known() == known
    assert sums.stat().st_size == known // 16 * 4


@pytest.mark.usefixtures("thin_vgg16")
def test_without_room_for_activations_they_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    caplog.set_level(logging.INFO, "tledge")
    data = write_digits(tmp_path / "data", 10)
    settings: dict[str, Any] = {"technique": "freeze", "weights": "random", "image_size": 32, "epochs": 1}
    tledge.train(data, out=tmp_path / "run", **settings)
    assert "what they give cannot be kept: No space left on device" in caplog.text
    monkeypatch.setattr(arrays, "BUDGET_BYTES", 1000)
    with pytest.raises(OSError, match=r"No space left on device, and [\d,]+ bytes are needed"):
        tledge.train(data, out=tmp_path / "other", **settings)
    assert not (tmp_path / "other").exists()


def test_a_run_holds_what_the_design_says(vgg16_run: Path, digits: Path) -> None:
    manifest = json.loads((vgg16_run / "run.json").read_text())
    assert manifest["classes"] == ["digit 0", "digit 1", "digit 7"]
    assert (vgg16_run / "labels.txt").read_text() == "digit 0\ndigit 1\ndigit 7\n"
    assert len(manifest["weights"]["digest"]) == 64
    assert manifest["technique"] == "feature-extraction"
    assert manifest["head"] == "gap"
    assert manifest["resize_method"] == "bilinear"
    assert {"tledge", "tensorflow", "keras", "python"} <= manifest["versions"].keys()
    with (vgg16_run / "split.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["subset"] for row in rows} == {"train", "val", "test"}
    assert all((digits / row["path"]).is_file() and len(row["sha256"]) == 64 for row in rows)
    with (vgg16_run / "history.csv").open(newline="") as stream:
        history = list(csv.DictReader(stream))
    assert list(history[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert not list(vgg16_run.parent.glob(".*partial*"))


def test_it_learns(vgg16_run: Path) -> None:
    manifest = json.loads((vgg16_run / "run.json").read_text())
    assert manifest["training"]["val_accuracy"] >= 0.75, "three digits, a third each: chance is 0.33"


def test_best_epoch_is_restored(vgg16_run: Path) -> None:
    with (vgg16_run / "history.csv").open(newline="") as stream:
        losses = [float(row["val_loss"]) for row in csv.DictReader(stream)]
    training = json.loads((vgg16_run / "run.json").read_text())["training"]
    assert training["best_epoch"] == int(np.argmin(losses)) + 1
    assert training["val_loss"] == pytest.approx(min(losses), abs=1e-5)


@pytest.mark.usefixtures("thin_vgg16")
def test_same_seed_same_result(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 8)
    settings = {"technique": "feature-extraction", "weights": "random", "image_size": 32, "epochs": 5}
    runs = [
        tledge.train(data, out=tmp_path / name, seed=seed, **settings) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    splits = [(tmp_path / name / "split.csv").read_text() for name in "abc"]
    assert splits[0] == splits[1] != splits[2]
    first, second = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    np.testing.assert_allclose(first["prediction"][0], second["prediction"][0], rtol=1e-5, atol=1e-6)
    assert runs[0].manifest.data_fingerprint == runs[2].manifest.data_fingerprint


@pytest.mark.usefixtures("thin_vgg16")
def test_tensorflow_keeps_nothing_of_a_training(tmp_path: Path) -> None:
    from tensorflow.python.framework.ops import gradient_registry

    before = set(gradient_registry.list())
    data = write_digits(tmp_path / "data", 8)
    tledge.train(data, technique="freeze", out=tmp_path / "run", weights="random", image_size=32, epochs=1)
    assert set(gradient_registry.list()) == before


@pytest.mark.usefixtures("thin_vgg16")
def test_augmentation_is_not_saved(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 6)
    tledge.train(
        data, technique="freeze", out=tmp_path / "run", weights="random", image_size=32, epochs=1, augment=True
    )
    names = set(weights_of(tmp_path / "run"))
    assert not {name for name in names if "random" in name}


@pytest.mark.usefixtures("thin_vgg16")
def test_rare_classes_get_more_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_digits(tmp_path / "data", 20, classes=(0,))
    write_digits(data, 5, classes=(1,))
    seen = []
    original = fit._class_weights
    monkeypatch.setattr(fit, "_class_weights", lambda task: seen.append(original(task)) or seen[-1])
    for weighting in ("balanced", "none"):
        tledge.train(
            data,
            technique="feature-extraction",
            out=tmp_path / weighting,
            weights="random",
            image_size=32,
            epochs=1,
            class_weighting=weighting,
        )
    assert seen[0][1] == pytest.approx(4 * seen[0][0])
    assert seen[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs above 0"),
        ({"batch_size": -1}, "--batch-size above 0"),
        ({"learning_rate": 0.0}, "--learning-rate above 0"),
        ({"image_size": 31}, "32 px"),
        ({"augment": True}, "no augmentation"),
        ({"freeze_until": "block4_pool"}, "--freeze-until only"),
        ({"seed": -1}, "--seed"),
        ({"head": "other"}, "expected a head"),
        ({"technique": "other"}, "expected a technique"),
        ({"compute": "float64"}, "expected --compute"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan(TrainSettings(**{"technique": "feature-extraction", **change}))


def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "cpu", lambda: ("Some processor", ("avx2",)))
    with pytest.raises(SettingsError, match="Some processor has none"):
        plan(TrainSettings("freeze", compute="bfloat16"))


@pytest.mark.skipif(not set(compute.BFLOAT16_FLAGS) & set(cpu()[1]), reason="this processor has no bfloat16")
@pytest.mark.parametrize(
    "technique", ["feature-extraction", *(pytest.param(t, marks=pytest.mark.slow) for t in ("freeze", "architecture"))]
)
def test_bfloat16_trains_the_same_model_and_leaves_float32(technique: str, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 10)
    losses = {}
    for kind in ("float32", "bfloat16"):
        tledge.train(
            data, technique=technique, out=tmp_path / kind, image_size=32, epochs=1, learning_rate=3e-5, compute=kind
        )
        losses[kind] = float(next(csv.DictReader((tmp_path / kind / "history.csv").open()))["loss"])
    # The head was fitted before, so both are near 0.
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05, abs=0.05)
    saved = keras.models.load_model(tmp_path / "bfloat16" / "model.keras")
    assert {layer.dtype_policy.name for layer in saved.layers} == {"float32"}


def test_divergence_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", 6)
    # A step of 1e38 on one dense layer overflows on every processor; in a deep net ReLUs can swallow infinities.
    wild = {"technique": "feature-extraction", "image_size": 32, "epochs": 3, "learning_rate": 1e38}
    with pytest.raises(TledgeError, match="diverged with --learning-rate 1e\\+38"):
        tledge.train(data, out=tmp_path / "run", **wild)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "user-cache"]


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_digits(tmp_path / "data", 10)
    out = tmp_path / "run"
    arguments = ["train", data, "--technique", "feature-extraction", "--out", out, "--image-size", "32"]
    arguments += ["--epochs", "60", "--patience", "60"]
    process = subprocess.Popen([sys.executable, "-m", "tledge", *map(str, arguments)], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".run.unfinished/*/training.npz")):
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    settings = {"technique": "feature-extraction", "image_size": 32, "epochs": 60, "patience": 60}
    with caplog.at_level(logging.INFO, "tledge"):
        resumed = tledge.train(data, out=out, **settings)
    assert any(re.fullmatch(r"training resumed after epoch \d+ of 60", line) for line in caplog.messages)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "run", "user-cache"], "it sweeps up"
    undisturbed = tledge.train(data, out=tmp_path / "undisturbed", **settings)
    assert resumed.manifest.model_sha256 == undisturbed.manifest.model_sha256
    assert resumed.manifest.training.epochs == 60
