"""Check: right numbers for healthy files, a verdict against sick ones, a refusal of foreign ones."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tledge
from tests.conftest import run_cli, write_digits
from tledge.conversion.artefacts import find_artefacts
from tledge.core.errors import ArtefactError, DataError, RunError, SettingsError
from tledge.core.files import sha256_file
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.stats import metrics

onnx = pytest.importorskip("onnx")


def test_healthy_artefacts_pass(run_copy: Path) -> None:
    result = tledge.check(run_copy, max_drop=0.1, on_undecided="pass")
    assert result.passed
    assert len(result.artefacts) == 6
    assert result.n == 12
    written = json.loads((run_copy / "check.json").read_text())
    assert written["passed"] is True
    assert {"accuracy", "accuracy_interval_95"} <= written["reference"].keys()
    for item in written["artefacts"]:
        assert {"name", "path", "sha256", "size_bytes", "accuracy", "accuracy_drop", "agreement", "n"} <= item.keys()
        assert (run_copy / item["path"]).is_file()
        assert all({"name", "value", "limit", "passed"} <= gate.keys() for gate in item["gates"])
    exact = {item.name: item for item in result.artefacts}["onnx-float32"]
    assert exact.accuracy_drop == 0
    assert exact.agreement.value == 1
    assert exact.accuracy == result.reference_accuracy


def test_numbers_are_those_of_the_runtime(run_copy: Path, digits: Path) -> None:
    """The reported accuracy is recomputed here from files and split alone."""
    from tledge.data.decode import decode

    with (run_copy / "split.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["subset"] == "test"]
    labels = (run_copy / "labels.txt").read_text().splitlines()
    pixels = np.stack([decode(digits / row["path"], 32) for row in rows])
    answers = open_classifier(run_copy / "export" / "tflite-int8.tflite").predict(pixels)
    hits = sum(labels[i] == row["class"] for i, row in zip(answers.argmax(1), rows, strict=True))
    result = tledge.check(run_copy, artefacts=[run_copy / "export" / "tflite-int8.tflite"])
    assert result.artefacts[0].accuracy.value == pytest.approx(hits / len(rows))


def test_every_artefact_is_opened_once(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tledge.conversion import artefacts

    opened: list[str] = []

    def watched(path: Path, *arguments: Any, **named: Any) -> ImageClassifier:
        opened.append(path.name)
        return open_classifier(path, *arguments, **named)

    monkeypatch.setattr(artefacts, "open_classifier", watched)
    tledge.check(run_copy)
    assert sorted(opened) == sorted(path.name for path in (run_copy / "export").iterdir() if path.suffix != ".json")


def sicken(run: Path, name: str = "onnx-float32") -> Path:
    """Permute the classes of an ONNX artefact and make its sidecar fit, as a broken converter would."""
    path = run / "export" / f"{name}.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("prediction/"):
            values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=0)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    sidecar = path.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"sha256": sha256_file(path)}))
    return path


def test_sick_artefact_fails_and_exits_with_1(run_copy: Path) -> None:
    path = sicken(run_copy)
    result = tledge.check(run_copy)
    assert not result.passed
    verdicts = {item.name: item.verdict for item in result.artefacts}
    assert verdicts.pop("onnx-float32") == "fail"
    # Twelve images cannot show that an int8 file is within two points; they can for files that answer alike.
    assert set(verdicts.values()) <= {"pass", "undecided"}
    assert verdicts["tflite-float32"] == "pass"
    completed = run_cli("check", run_copy, "--artefact", path)
    assert completed.returncode == 1
    assert "FAIL onnx-float32: max_drop" in completed.stdout
    assert "\x1b[" not in completed.stdout + completed.stderr


def test_limit_decides(run_copy: Path) -> None:
    path = sicken(run_copy)

    def of_the_drop(limit: float) -> str:
        (item,) = tledge.check(run_copy, artefacts=[path], max_drop=limit).artefacts
        return next(gate.verdict for gate in item.gates if gate.name == "max_drop")

    assert of_the_drop(1.0) == "pass"
    assert of_the_drop(0.02) == "fail"


def other_digits(folder: Path, per_class: int) -> Path:
    """Digits under names of their own: under the run's they would be the run's images, moved."""
    data = write_digits(folder, per_class)
    for file in data.glob("*/*"):
        file.rename(file.with_name(f"other-{file.name}"))
    return data


def test_collapse_to_one_class_is_a_gate_of_its_own(run_copy: Path, tmp_path: Path) -> None:
    path = run_copy / "export" / "onnx-float32.onnx"
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.name == "prediction/bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([1e3, 0, 0], np.float32), bias.name))
    onnx.save(model, path)
    path.with_suffix(".json").unlink()
    result = tledge.check(run_copy, artefacts=[path], data=other_digits(tmp_path / "other", 20), max_drop=1.0)
    failed = [gate.name for gate in result.artefacts[0].gates if gate.verdict == "fail"]
    assert failed == ["collapsed_to_one_class", "dead_classes", "float_differs"]


def test_other_images(run_copy: Path, tmp_path: Path) -> None:
    data = other_digits(tmp_path / "more", 30)
    result = tledge.check(run_copy, data=data, max_drop=0.2, on_undecided="pass")
    assert result.n == 90
    with pytest.raises(DataError, match="digit 9"):
        tledge.check(run_copy, data=write_digits(tmp_path / "more", 3, classes=(9,)))


def test_artefact_of_another_run(run_copy: Path, finished_run: Path, tmp_path: Path, digits: Path) -> None:
    other = tmp_path / "other"
    tledge.train(digits, technique="feature-extraction", out=other, weights="random", image_size=32, epochs=1)
    foreign = tledge.export(other, recipes=["onnx-float32"]).artefacts[0].path
    with pytest.raises(ArtefactError, match="another model"):
        tledge.check(run_copy, artefacts=[foreign])
    bench = run_cli("bench", run_copy, "--artefact", foreign)
    assert bench.returncode == 2
    assert "another model" in bench.stderr


def test_changed_files_are_noticed(run_copy: Path) -> None:
    path = run_copy / "export" / "tflite-int8.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtefactError, match="SHA-256 differs"):
        tledge.check(run_copy)
    (run_copy / "model.keras").write_bytes(b"")
    with pytest.raises(RunError, match="SHA-256 differs"):
        tledge.check(run_copy)


def test_no_artefacts(run_copy: Path) -> None:
    for path in (run_copy / "export").iterdir():
        path.unlink()
    with pytest.raises(ArtefactError, match="tledge export"):
        tledge.check(run_copy)


def test_impossible_limit(run_copy: Path) -> None:
    with pytest.raises(SettingsError, match=r"drop .* in --max-drop"):
        tledge.check(run_copy, max_drop=2)


def test_wilson_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    share = metrics.proportion(81, 263)
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)


def test_metrics_by_hand() -> None:
    first = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], np.float32)
    second = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]], np.float32)
    labels = np.array([0, 1, 1, 0])
    assert metrics.accuracy(first, labels).value == 0.75
    assert metrics.agreement(first, second).value == 0.75
    assert metrics.recall_per_class(first, labels, 3) == [1.0, 0.5, None]
    assert metrics.confusion(first, labels, 2) == [[2, 0], [1, 1]]


def test_a_file_without_its_sidecar_is_what_it_was(run_copy: Path, tmp_path: Path) -> None:
    """Copied into an app, say: its name, its precision and with it the gates come from the file."""
    with_sidecars = {item.name: item for item in tledge.check(run_copy).artefacts}
    copies = [Path(shutil.copy(path, tmp_path)) for path in (run_copy / "export").iterdir() if path.suffix != ".json"]
    result = tledge.check(run_copy, artefacts=copies)
    assert result.notes == ()
    alone = {item.name: item for item in result.artefacts}
    assert alone.keys() == with_sidecars.keys()
    for name, item in alone.items():
        assert [gate.name for gate in item.gates] == [gate.name for gate in with_sidecars[name].gates]
        assert ("float_differs" in [gate.name for gate in item.gates]) == name.endswith(("float32", "float16"))


def test_a_recipe_that_nobody_knows_is_noted(run_copy: Path, tmp_path: Path) -> None:
    manifest, run = read_manifest(open_run(run_copy)), open_run(run_copy)
    precisions = ("float32", "float16", "dynamic", "int8")
    for name in precisions:
        recipe, images = tmp_path / f"my-{name}.toml", "[calibration]\nimages = 9\n" if name == "int8" else ""
        recipe.write_text(f'format = "tflite"\nprecision = "{name}"\n{images}[check]\nmax_size_mb = 500\n')
    made = tledge.export(run_copy, recipes=[str(tmp_path / f"my-{name}.toml") for name in precisions]).artefacts
    for name, path in zip(precisions, (artefact.path for artefact in made), strict=True):
        alone = Path(shutil.copy(path, tmp_path))
        (known,) = find_artefacts(run, manifest, [alone])
        assert (known.name, known.precision, known.limits) == (f"my-{name}", name, {"max_size_mb": 500})
        path.with_suffix(".json").unlink()
        (unknown,) = find_artefacts(run, manifest, [alone])
        assert (unknown.name, unknown.precision, unknown.limits) == (f"my-{name}", name, {})
        assert unknown.note.startswith(f"my-{name}.tflite: it has no sidecar")
        path.unlink()


def test_two_files_of_one_name_are_told_apart(run_copy: Path, tmp_path: Path) -> None:
    first = run_copy / "export" / "onnx-float32.onnx"
    second = tmp_path / "older" / first.name
    second.parent.mkdir()
    for suffix in (".onnx", ".json"):
        second.with_suffix(suffix).write_bytes(first.with_suffix(suffix).read_bytes())
    result = tledge.check(run_copy, artefacts=[first, second], on_undecided="pass")
    assert [item.name for item in result.artefacts] == [str(first), str(second)]
    header = (run_copy / "predictions.csv").read_text().splitlines()[0]
    assert header == f"path,class,reference,{first},{second},p(reference),p({first}),p({second})"
    with pytest.raises(SettingsError, match="each file once"):
        tledge.check(run_copy, artefacts=[first, first])


def pictures_without_labels(folder: Path, count: int) -> Path:
    """Digits that are none of the run's, in no order, two folders deep, and one of them twice."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = [index for label in (0, 1, 7) for index in np.flatnonzero(digits.target == label)[20 : 20 + count]]
    (folder / "phone").mkdir(parents=True)
    for index in chosen:
        pixels = np.round(digits.images[index] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(folder / "phone" / f"{index}.png")
    shutil.copy(folder / "phone" / f"{chosen[0]}.png", folder / "again.png")
    return folder


def test_pictures_without_labels_bound_the_drop(run_copy: Path, tmp_path: Path) -> None:
    """What is written is counted here once more; the verdict changes with it."""
    from tledge.data.decode import decode

    folder, file = pictures_without_labels(tmp_path / "pictures", 60), run_copy / "export" / "tflite-int8.tflite"
    gates = {"max_drop": 0.1, "max_disagreement": 0.1}
    alone = tledge.check(run_copy, artefacts=[file], max_drop=0.1)
    assert alone.artefacts[0].gates[0].verdict == "undecided"
    assert alone.unlabelled is None
    result = tledge.check(run_copy, artefacts=[file], gates=gates, unlabelled=folder)
    verdicts = {gate.name: (gate.verdict, gate.n) for gate in result.artefacts[0].gates}
    assert verdicts["max_drop"] == ("pass", 12)
    assert verdicts["max_disagreement"] == ("pass", 180)
    written = json.loads((run_copy / "check.json").read_text())
    assert (written["unlabelled"]["n"], written["unlabelled"]["copies"]) == (180, 1)
    assert any("copies of others" in note for note in written["notes"])
    # Of the picture that is there twice, the one whose name comes first.
    everything = [*sorted((folder / "phone").iterdir(), reverse=True), folder / "again.png"]
    paths = list({path.read_bytes(): path for path in everything}.values())
    pixels = np.stack([decode(path, 32) for path in paths])
    models = (run_copy / "model.keras", file)
    reference, answers = (open_classifier(path, MODEL_OF_A_RUN).predict(pixels).argmax(axis=1) for path in models)
    changed = {str(path.relative_to(folder)) for path in np.asarray(paths)[reference != answers]}
    found = written["artefacts"][0]["unlabelled"]
    assert {image["path"] for image in found["examples"]} == changed
    assert found["changed"] == len(changed)
    assert found["disagreement"] == found["changed"] / 180


def test_refused_pictures_without_labels(run_copy: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jpg").write_text("no picture")
    for folder, message in (
        (digits, "60 of 60 are (digit 0/000.png is one of the"),
        (tmp_path / "empty", "but found none; check the path"),
        (tmp_path / "text", "is no AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP image"),
    ):
        file = run_copy / "export" / "tflite-float32.tflite"
        done = run_cli("check", run_copy, "--artefact", file, "--unlabelled", folder)
        assert done.returncode == 2, done.stdout
        *_, last = done.stderr.splitlines()
        assert message in last
    assert not (run_copy / "check.json").exists()


def test_pictures_without_labels_for_models_of_any_origin(run_copy: Path, digits: Path, tmp_path: Path) -> None:
    folder = pictures_without_labels(tmp_path / "pictures", 60)
    arguments = (
        *("check", "--reference", run_copy / "model.keras", "--artefact", run_copy / "export" / "onnx-int8.onnx"),
        *("--data", digits, "--labels", run_copy / "labels.txt", "--gate", "disagreement < 0.1, drop < 0.1"),
    )
    done = run_cli(*arguments, "--unlabelled", folder, "--markdown", tmp_path / "page.md")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"onnx-int8.onnx without labels: \d+ of 180 answers change, 0\.", done.stdout)
    assert "without labels: " in (tmp_path / "page.md").read_text()
    refused = run_cli(*arguments, "--unlabelled", digits)
    assert refused.returncode == 2
    assert "is one of the labelled images" in refused.stderr


def test_other_ways_to_resize(run_copy: Path, digits: Path, tmp_path: Path) -> None:
    """The limit asks for them; what is written of two is counted here once more."""
    from tledge.data.decode import open_rgb
    from tledge.data.resizers import other_resizers

    file, page = run_copy / "export" / "tflite-int8.tflite", tmp_path / "page.md"
    arguments = ("check", run_copy, "--artefact", file, "--max-drop", "1", "--markdown", page)
    done = run_cli(*arguments, "--gate", "resize_drop <= 1")
    assert done.returncode == 0, done.stdout + done.stderr
    resizers = other_resizers("stretch")
    assert re.search(r"\| letterbox +\| [-+]0\.\d{3} \(\d+ / \d+\) ", done.stdout)
    written = json.loads((run_copy / "check.json").read_text())
    (item,) = written["artefacts"]
    with (run_copy / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for owner, model, own in (
        (item, open_classifier(file, MODEL_OF_A_RUN), "tflite-int8"),
        (written["reference"], open_classifier(run_copy / "model.keras", MODEL_OF_A_RUN), "reference"),
    ):
        assert [way["resizer"] for way in owner["resized"]] == list(resizers)
        for way in (owner["resized"][3], owner["resized"][5]):
            pixels = np.stack([resizers[way["resizer"]](open_rgb(digits / row["path"]), 32) for row in rows])
            named = [written["classes"][i] for i in model.predict(pixels).argmax(axis=1)]
            lost = [
                row["path"]
                for row, now in zip(rows, named, strict=True)
                if row[own] == row["class"] and now != row[own]
            ]
            assert way["lost"] == len(lost)
            assert [flip["path"] for flip in way["flips"][: len(lost)]] == lost
            hits = sum(row["class"] == now for row, now in zip(rows, named, strict=True))
            assert way["accuracy"] == pytest.approx(hits / len(rows))
    worst = max(way["accuracy_drop"] for way in item["resized"])
    (gate,) = (gate for gate in item["gates"] if gate["name"] == "max_resize_drop")
    assert gate["value"] == pytest.approx(worst)
    assert "| reference | letterbox |" in page.read_text()
    tledge.check(run_copy, artefacts=[file])
    assert "resized" not in json.loads((run_copy / "check.json").read_text())["artefacts"][0]


def test_nothing_is_resized_that_has_the_right_size(run_copy: Path, tmp_path: Path) -> None:
    data = other_digits(tmp_path / "small", 3)
    for image in data.glob("*/*.png"):
        Image.open(image).resize((32, 32)).save(image)
    file = run_copy / "export" / "tflite-int8.tflite"
    with pytest.raises(SettingsError, match=r"but all 9 in .*small have it already"):
        tledge.check(run_copy, artefacts=[file], data=data, resize_robustness=True)
