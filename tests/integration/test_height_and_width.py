"""A model whose input is no square, from adopting to the device: height and width are never taken for one another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tledge
from tests.conftest import run_cli
from tledge.core.types import Images
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier

keras = pytest.importorskip("keras")
pytest.importorskip("onnx")

HEIGHT, WIDTH = 40, 56
CLASSES = ("across", "down", "plain")
PER_CLASS = 24


def picture(kind: str, generator: np.random.Generator) -> Image.Image:
    """Noise with a bright bar from left to right, from top to bottom, or none: turned, it is of another class."""
    height, width = generator.integers(50, 90, 2)
    pixels = generator.integers(40, 120, (height, width, 3))
    place = generator.uniform(0.1, 0.7)
    if kind == "across":
        pixels[int(place * height) : int((place + 0.2) * height)] += 130
    if kind == "down":
        pixels[:, int(place * width) : int((place + 0.2) * width)] += 130
    return Image.fromarray(pixels.astype(np.uint8))


def stretched(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), np.uint8)


def trained(data: Path, path: Path) -> Path:
    k = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((HEIGHT, WIDTH, 3)),
            k.Conv2D(8, 3, strides=2, padding="same"),
            k.BatchNormalization(momentum=0.8),
            k.ReLU(),
            k.Conv2D(8, 3, strides=2, activation="relu"),
            k.MaxPooling2D(),
            k.Flatten(),
            k.Dense(3, activation="softmax"),
        ]
    )
    files = [(path, index) for index, name in enumerate(CLASSES) for path in sorted((data / name).iterdir())]
    pixels = np.stack([stretched(file) for file, _ in files]) / np.float32(255)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(pixels, np.asarray([index for _, index in files]), batch_size=12, epochs=15, verbose=0)
    model.save(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("bars") / "bars", np.random.default_rng(7)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            picture(name, generator).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(data, tmp_path_factory.mktemp("model") / "bars.keras")


@pytest.fixture(scope="module")
def run(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done = run_cli("adopt", model, "--data", data, "--input=0..1", "--out", out)
    assert done.returncode == 0, done.stderr
    for recipe in ("tflite-int8", "onnx-float32"):
        done = run_cli("export", out, "--recipe", recipe)
        assert done.returncode == 0, done.stderr
    return out


def on_disk(data: Path) -> tuple[list[Path], Images]:
    files = [sorted((data / name).iterdir())[number] for name in CLASSES for number in range(8)]
    return files, np.stack([stretched(file) for file in files])


def test_the_run_says_height_and_width(run: Path) -> None:
    assert json.loads((run / "run.json").read_text())["image_size_px"] == [HEIGHT, WIDTH]
    assert read_manifest(open_run(run)).image_size_px == (HEIGHT, WIDTH)
    sidecar = json.loads((run / "export" / "tflite-int8.json").read_text())
    assert sidecar["input"]["shape"][1:] == [HEIGHT, WIDTH, 3]
    assert sidecar["lineage"]["image_size_px"] == [HEIGHT, WIDTH]
    for path in (run, run / "export" / "tflite-int8.tflite", run / "export" / "onnx-float32.onnx"):
        done = run_cli("inspect", path)
        assert done.returncode == 0, done.stderr
        assert f"{HEIGHT}, {WIDTH}" in done.stdout


def test_every_file_answers_as_the_model_did(run: Path, model: Path, data: Path) -> None:
    files, pixels = on_disk(data)
    own = keras.models.load_model(model)(pixels / np.float32(255), training=False)
    truth = np.repeat(np.arange(3), 8)
    for path, tolerance in ((run / "model.keras", 1e-5), (run / "export" / "onnx-float32.onnx", 1e-4)):
        np.testing.assert_allclose(open_classifier(path, MODEL_OF_A_RUN).predict(pixels), own, atol=tolerance)
    for name in ("tflite-int8.tflite", "onnx-float32.onnx"):
        found = open_classifier(run / "export" / name, MODEL_OF_A_RUN)
        assert (found.predict(pixels).argmax(1) == truth).mean() > 0.9
        # The same pixels with rows and columns exchanged show the other class.
        turned = np.stack([np.asarray(Image.fromarray(p.transpose(1, 0, 2)).resize((WIDTH, HEIGHT))) for p in pixels])
        assert (found.predict(turned)[:16].argmax(1) == 1 - truth[:16]).mean() > 0.9
        answers = [answer.ranking[0][0] for answer in tledge.predict(run / "export" / name, files)]
        assert answers == [CLASSES[i] for i in found.predict(pixels).argmax(1)]


def test_check_report_and_diagnosis(run: Path, model: Path, data: Path) -> None:
    check = tledge.check(run, max_drop=0.3, on_undecided="pass")
    assert check.passed
    assert check.reference_accuracy.value > 0.9
    assert all(item.drop.value <= 0.1 for item in check.artefacts)
    done = run_cli("diagnose", run, run / "export" / "tflite-int8.tflite")
    assert done.returncode == 0, done.stderr
    done = run_cli("bench", run, "--rounds", "2", "--samples", "2", "--threads", "1", "--warmup", "1")
    assert done.returncode == 0, done.stderr
    assert run_cli("report", run).returncode == 0
    assert f"{HEIGHT} x {WIDTH} (height x width), in the order N, H, W, C" in (run / "report.md").read_text()
    done = run_cli(
        *("check", "--reference", model, "--artefact", run / "export" / "tflite-int8.tflite", "--data", data),
        *("--labels", run / "labels.txt"),
        *(f"--input={model}=0..1", "--max-drop", "0.3", "--on-undecided", "pass"),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_for_squares_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    done = run_cli("optimize", run, "--method", "low-rank", "--image-size", "32", "--out", tmp_path / "small")
    assert done.returncode == 2, done.stdout
    says = done.stderr.strip().splitlines()[-1]
    assert "square images" in says, says
    assert f"this one takes {HEIGHT} x {WIDTH} (height x width)" in says
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("npm")), reason="needs chromium and npm")
@pytest.mark.slow
def test_in_a_browser(run: Path) -> None:
    (there,) = tledge.check(run, on="browser").hosts
    assert len(there.against_here) == 2
    assert all(item.max_probability_difference < 0.02 for item in there.against_here)


def test_the_device_program(run: Path, data: Path, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    with zipfile.ZipFile(tledge.kit(run, tmp_path / "kit.zip").path) as archive:
        archive.extractall(kit)
    content: Any = json.loads((kit / "kit.json").read_text())
    assert content["image_size_px"] == [HEIGHT, WIDTH]
    for image in content["images"]:
        raw = np.fromfile(kit / image["rgb"], np.uint8).reshape(HEIGHT, WIDTH, 3)
        assert np.array_equal(raw, np.asarray(Image.open(kit / image["png"])))
        assert np.array_equal(raw, stretched(data / image["source"]))

    def on_device(*arguments: object) -> str:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [sys.executable, str(kit / "tledge_device.py"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=kit, timeout=600, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    measured = on_device("bench", "--rounds", 1, "--samples", 2, "--warmup", 1, "--threads", 1)
    assert len(json.loads(measured)["verified"]) == 2
    sources = [data / image["source"] for image in content["images"]]
    for artefact in content["artefacts"]:
        lines = on_device("classify", "--model", artefact["name"], *sources).splitlines()
        assert [line.split("\t")[1].split()[0] for line in lines] == [content["labels"][i] for i in artefact["top1"]]
