"""Number formats of training, memory that ends, and GPUs as far as a machine without one can tell."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tledge
from tests.conftest import run_cli, write_digits
from tests.training.test_head import training_task
from tledge.core.dependencies import require_tensorflow
from tledge.core.environment import Gpu, gpus
from tledge.core.errors import SettingsError, TledgeError
from tledge.data.pixels import PixelStore
from tledge.model import compute
from tledge.training import settings as training_settings
from tledge.training.fit import fit_model, smaller_batch

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

DRIVER = "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 9.0'\necho 'Tesla T4, 15360, 7.5'\n"


def driver_at(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str = DRIVER) -> None:
    """What stands in for the program of a driver that this machine does not have."""
    folder.mkdir()
    (folder / "nvidia-smi").write_text(text)
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.slow
def test_float16_trains_as_float32_does_and_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The processor emulates it, which is slow and the same arithmetic.
    monkeypatch.setattr(training_settings, "require_compute", lambda kind: None)
    made = []
    monkeypatch.setattr(
        "tledge.training.fit.optimizer_of", lambda *given: made.append(compute.optimizer_of(*given)) or made[-1]
    )
    data = write_digits(tmp_path / "data", 8)
    options: dict[str, Any] = {"technique": "freeze", "image_size": 32, "epochs": 1}
    losses = {}
    for kind in ("float32", "float16"):
        tledge.train(data, out=tmp_path / kind, compute=kind, **options)
        losses[kind] = float(next(csv.DictReader((tmp_path / kind / "history.csv").open()))["loss"])
    assert losses["float16"] == pytest.approx(losses["float32"], rel=0.05, abs=0.05)
    kinds = [type(optimizer).__name__ for optimizer in made]
    assert kinds == ["Adam", "Adam", "LossScaleOptimizer", "LossScaleOptimizer"]  # the head, then the rest
    saved = keras.models.load_model(tmp_path / "float16" / "model.keras")
    assert {layer.dtype_policy.name for layer in saved.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("kind", "capability", "message"),
    [
        ("float16", None, r"a GPU of compute capability 7\.0 for float16, but TensorFlow finds no GPU"),
        ("bfloat16", (7, 5), r"capability 8\.0 for bfloat16, but this one has 7\.5; leave out --compute bfloat16"),
        ("float16", (7, 5), None),
        ("bfloat16", (9, 0), None),
    ],
)
def test_formats_that_would_be_emulated_are_refused(
    kind: Any, capability: tuple[int, int] | None, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [] if capability is None else ["a GPU"]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": capability})
    if message is None:
        compute.require_compute(kind)
        return
    with pytest.raises(SettingsError, match=message):
        compute.require_compute(kind)


class Huge(keras.layers.Layer):  # type: ignore[misc, name-defined]
    """A layer that needs 64 TB."""

    def call(self, x: Any) -> Any:
        return x + tf.reduce_sum(tf.fill((1 << 22, 1 << 22), x[0, 0]))


def test_memory_that_ends_says_which_batch_to_try(tmp_path: Path) -> None:
    pixels = keras.Input((4,))
    model = keras.Model(pixels, keras.layers.Dense(2, activation="softmax")(Huge()(pixels)))
    task = training_task(model, PixelStore([], 32), np.arange(24) % 2, tmp_path, epochs=1)
    with pytest.raises(TledgeError, match=r"^expected memory for .*, but there is too little; try --batch-size 8$"):
        fit_model(model, task, np.ones((24, 4), np.float32), task.train[0], task.val[0])
    assert "--image-size" in smaller_batch(1)


def test_tensorflow_leaves_memory_of_gpus_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    require_tensorflow()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    require_tensorflow()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"


def test_doctor_lists_gpus_and_what_they_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver_at(tmp_path / "driver", monkeypatch)
    monkeypatch.setattr("tledge.reporting.doctor._has_cuda", lambda: False)
    assert gpus() == (Gpu("NVIDIA H100 80GB HBM3", 79.6, (9, 0)), Gpu("Tesla T4", 15.0, (7, 5)))
    found = {finding.name: finding for finding in tledge.doctor()}
    assert found["GPUs"].state == "note"
    assert "Tesla T4 (15.0 GB, compute capability 7.5); TensorFlow needs CUDA" in found["GPUs"].detail
    assert "untried" in found["GPUs"].detail
    assert "float16 on the GPU (untried)" in found["--compute"].detail
    assert "bfloat16 on the GPU" not in found["--compute"].detail  # one of the two cannot
    driver_at(tmp_path / "broken", monkeypatch, "#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert gpus() == ()
    shown = run_cli("doctor")
    assert "none: training computes on the processor" in shown.stdout
