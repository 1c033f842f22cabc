"""A run that letterboxes: every stage and every file of it resizes in this way, and says so."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tledge
from tests.conftest import run_cli
from tledge.core.errors import ArtefactError, SettingsError
from tledge.core.types import Images, ResizeMode
from tledge.data.decode import decode
from tledge.data.pixels import PixelStore
from tledge.data.resizers import RESIZE_MODES, resizer_of
from tledge.runs.images import TrainingSamples
from tledge.runs.manifest import read_manifest, read_split
from tledge.runs.rundir import RunDir
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier
from tledge.selection.features import FeatureCache, pooled_features

pytest.importorskip("tensorflow")
onnx = pytest.importorskip("onnx")

SIZE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide and tall pictures: noise, and noise with a bright middle."""
    folder, rng = tmp_path_factory.mktemp("oblong") / "oblong", np.random.default_rng(5)
    for name, light in (("dark", 0), ("light", 120)):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            height, width = (48, 80 + number) if number % 2 else (90 - number, 50)
            pixels = rng.integers(20, 130, (height, width, 3), np.uint8)
            pixels[height // 4 : -height // 4, width // 4 : -width // 4] += np.uint8(light)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        tledge.train(
            data, technique="feature-extraction", out=out, image_size=SIZE, epochs=20, resize="letterbox", seed=1
        )
        _features_are_of(out, data)
    tledge.export(out, recipes=["onnx-float32"])
    return out


def _features_are_of(run: Path, data: Path) -> None:
    """The features that training kept, and so learned from, are those of letterboxed pictures."""
    manifest, row = read_manifest(RunDir(run)), read_split(RunDir(run), "train")[0]
    classifier = open_classifier(run / "model.keras", MODEL_OF_A_RUN)
    model = classifier._adapter._model  # type: ignore[attr-defined]
    kept = {
        mode: FeatureCache(str(manifest.weights.digest), SIZE, "float32", mode).get([row.sha256])
        for mode in RESIZE_MODES
    }
    assert [mode for mode, found in kept.items() if found] == ["letterbox"]
    files, first = [data / row.path], np.arange(1)
    of_mode = {
        mode: pooled_features(model, PixelStore(files, SIZE, resizer=resizer_of(mode)), first, "float32")
        for mode in RESIZE_MODES
    }
    np.testing.assert_allclose(kept["letterbox"][row.sha256], of_mode["letterbox"][0], rtol=1e-3, atol=1e-2)
    assert np.abs(kept["letterbox"][row.sha256] - of_mode["stretch"][0]).max() > 1


def pixels_of(paths: list[Path], mode: ResizeMode, size: int = SIZE) -> Images:
    return np.stack([decode(path, size, resizer_of(mode)) for path in paths])


def test_it_is_written_down(run: Path) -> None:
    assert json.loads((run / "run.json").read_text())["resize"] == "letterbox"
    file = run / "export" / "onnx-float32.onnx"
    assert json.loads(file.with_suffix(".json").read_text())["lineage"]["resize"] == "letterbox"
    assert re.search(r"\| resize +\| letterbox", run_cli("inspect", file).stdout)
    assert re.search(r"\| resize +\| letterbox", run_cli("inspect", run).stdout)
    (entry,) = (e for e in onnx.load(file).metadata_props if e.key == "preprocessing")
    assert json.loads(entry.value)["resize"] == "letterbox"
    tledge.report(run)
    assert "(resized bilinear, longer side fits, black bars)" in (run / "report.md").read_text()


def test_every_reader_of_pictures(run: Path, data: Path, tmp_path: Path) -> None:
    from tledge.compression.images import RunImages

    opened, manifest = RunDir(run), read_manifest(RunDir(run))
    rows = read_split(opened)
    samples, _ = TrainingSamples(opened, manifest).take(1000)
    training = pixels_of([data / row.path for row in rows if row.subset == "train"], "letterbox")
    assert sorted(map(bytes, samples)) == sorted(map(bytes, training))
    to_shrink = RunImages(opened, manifest).data(48).pixels
    two = [data / rows[index].path for index in (0, 3)]
    np.testing.assert_array_equal(to_shrink.take([0, 3]), pixels_of(two, "letterbox", 48))
    np.testing.assert_array_equal(to_shrink.at_size(20).take([0]), pixels_of(two[:1], "letterbox", 20))

    tledge.kit(run, tmp_path / "kit.zip", images=2)
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        content = json.loads(archive.read("kit.json"))
        assert content["resize"] == "letterbox"
        for image in content["images"]:
            assert archive.read(image["rgb"]) == pixels_of([data / image["source"]], "letterbox").tobytes()
        assert b"Resize::kLetterbox;" in archive.read("cpp/resize_mode.h")
        archive.extractall(tmp_path / "kit")
    pictures = [data / image["source"] for image in content["images"]]
    Image.open(pictures[0]).convert("RGBA").save(tmp_path / "clear.png")
    with Image.open(pictures[1]) as half:
        half.putalpha(Image.linear_gradient("L").resize(half.size))
        half.save(tmp_path / "half.png")
    pictures += [tmp_path / "clear.png", tmp_path / "half.png"]
    program = [sys.executable, tmp_path / "kit" / "tledge_device.py", "classify", "--top", "1", *pictures]
    done = subprocess.run(list(map(str, program)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = tledge.predict(run / "export" / "onnx-float32.onnx", pictures)
    for line, one in zip(done.stdout.splitlines(), expected, strict=True):
        label, probability = line.split("\t")[1].split()
        assert (label, float(probability)) == (one.ranking[0][0], pytest.approx(one.ranking[0][1], abs=1e-3))


def test_check_and_predict(run: Path, data: Path, tmp_path: Path) -> None:
    file = run / "export" / "onnx-float32.onnx"
    done = run_cli("check", run, "--on-undecided", "pass", "--resize-robustness")
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((run / "check.json").read_text())
    ways = [way["resizer"] for way in written["reference"]["resized"]]
    assert ways == ["bilinear-no-antialias", "area", "bicubic", "nearest", "stretch", "crop"]
    with (run / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    paths = [data / row["path"] for row in rows]
    classifier = open_classifier(file, MODEL_OF_A_RUN)
    answers = {mode: classifier.predict(pixels_of(paths, mode)) for mode in RESIZE_MODES}
    assert [row["onnx-float32"] for row in rows] == [written["classes"][i] for i in answers["letterbox"].argmax(axis=1)]
    assert np.abs(answers["letterbox"] - answers["stretch"]).max() > 0.01
    for model in (file, run):
        said = [dict(one.ranking) for one in tledge.predict(model, paths)]
        found = np.asarray([[one[label] for label in written["classes"]] for one in said])
        np.testing.assert_allclose(found, answers["letterbox"], atol=1e-4)

    arguments = ("check", "--data", data, "--labels", run / "labels.txt", "--max-drop", "1", "--out", tmp_path)
    done = run_cli(*arguments, "--reference", run / "model.keras", "--artefact", file)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        again = {row["path"]: row[file.name] for row in csv.DictReader(stream)}
    assert [again[row["path"]] for row in rows] == [row["onnx-float32"] for row in rows]


def with_mode(file: Path, mode: str | None, to: Path) -> Path:
    """The same ONNX file, saying another mode, or nothing as one of an older tledge."""
    model = onnx.load(file)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "tledge")
    lineage = {key: value for key, value in json.loads(entry.value).items() if key != "resize"}
    entry.value = json.dumps(lineage | ({} if mode is None else {"resize": mode}))
    onnx.save(model, to)
    return to


def test_files_of_two_ways_are_not_compared(run: Path, data: Path, tmp_path: Path) -> None:
    file = run / "export" / "onnx-float32.onnx"
    older = with_mode(file, None, tmp_path / "older.onnx")
    with pytest.raises(
        ArtefactError, match=r"they say model\.keras letterbox, older\.onnx stretch; check those of one"
    ):
        tledge.check_models(run / "model.keras", [older], data, run / "labels.txt")
    with pytest.raises(
        ArtefactError, match=r"expected newer\.onnx to resize by stretch, crop, letterbox, but it says 't"
    ):
        tledge.predict(with_mode(file, "tiles", tmp_path / "newer.onnx"), sorted(data.rglob("*.png"))[:1])


def test_a_selection_and_an_adopted_model(run: Path, data: Path, tmp_path: Path) -> None:
    selection = tmp_path / "select.json"
    done = run_cli(
        "select", data, "--out", selection, "--image-size", "32", "--resize", "crop", "--candidate", "random"
    )
    assert "--image-size 32 --resize crop --out RUN" in done.stdout, done.stderr
    with pytest.raises(
        SettingsError, match=r"select\.json saw images with --resize crop, not stretch; run `tledge sel"
    ):
        tledge.train(
            data, technique="freeze", weights="auto", selection=selection, out=tmp_path / "no", image_size=SIZE
        )
    done = run_cli("adopt", run / "model.keras", "--data", data, "--out", tmp_path / "adopted", "--resize", "crop")
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(RunDir(tmp_path / "adopted"))
    assert (manifest.resize, manifest.settings["resize"]) == ("crop", "crop")
    val = read_split(RunDir(tmp_path / "adopted"), "val")
    answers = open_classifier(run / "model.keras", MODEL_OF_A_RUN).predict(
        pixels_of([data / row.path for row in val], "crop")
    )
    hits = sum(manifest.classes[i] == row.label for i, row in zip(answers.argmax(axis=1), val, strict=True))
    assert manifest.training.val_accuracy == pytest.approx(hits / len(val))


def test_older_runs_stretch(finished_run: Path) -> None:
    assert "resize" not in json.loads((finished_run / "run.json").read_text())
    assert read_manifest(RunDir(finished_run)).resize == "stretch"
