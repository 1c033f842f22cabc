"""A set of models of any origin: what is opened, on which images, and what is refused before slow work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtimes.foreign_models import nchw_onnx, saved_model, small, tflite
from tledge.core.errors import ArtefactError, DataError, SettingsError
from tledge.core.files import sha256_file
from tledge.data.decode import decode
from tledge.data.labels import read_labels_file
from tledge.evaluation.models import ModelSet, open_models
from tledge.runtimes.declared import parse_forms

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
pytest.importorskip("onnx")

FORMS = parse_forms(["0..1"], [])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    model, larger = small(), small((48, 48, 3))
    model.save(folder / "model.keras")
    (folder / "other").mkdir()
    return {
        "reference": folder / "model.keras",
        "onnx": nchw_onnx(model, folder / "model.onnx"),
        "larger": tflite(larger, folder / "larger.tflite"),
        "int8": tflite(model, folder / "int8.tflite", tf.uint8, np.random.default_rng(0).random((9, 32, 32, 3))),
        "saved": saved_model(model, folder / "saved"),
        "same name": nchw_onnx(larger, folder / "other" / "model.onnx"),
    }


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("digit 1\ndigit 0\ndigit 7\n")
    return path


def opened(models: dict[str, Path], data: Path, labels: Path, *names: str) -> ModelSet:
    return open_models(models["reference"], [models[name] for name in names], data, labels, FORMS)


def test_a_set(models: dict[str, Path], digits: Path, labels: Path) -> None:
    found = opened(models, digits, labels, "onnx", "larger", "int8", "saved")
    assert [model.name for model in found.artefacts] == ["model.onnx", "larger.tflite", "int8.tflite", "saved"]
    assert found.classes == ("digit 1", "digit 0", "digit 7")
    paths = sorted(digits.rglob("*.png"))
    assert [found.classes[i] for i in found.images.labels] == [path.parent.name for path in paths]
    assert set(found.images.stores) == {32, 48}
    batches = list(found.images.batches(16))
    assert [len(batch[48]) for batch in batches] == [16, 16, 16, 12]
    for side in (32, 48):
        expected = np.stack([decode(path, side) for path in paths])
        np.testing.assert_array_equal(np.concatenate([batch[side] for batch in batches]), expected)
    by_name = {model.name: model for model in (found.reference, *found.artefacts)}
    assert by_name["model.onnx"].sha256 == sha256_file(models["onnx"])
    assert by_name["model.onnx"].size_bytes == models["onnx"].stat().st_size
    assert by_name["model.onnx"].int8_share == 0
    assert by_name["int8.tflite"].int8_share == 1
    assert by_name["model.keras"].int8_share is by_name["saved"].int8_share is None
    pixels = batches[0][32]
    reference = found.reference.classifier.predict(pixels)
    for name, tolerance in (("model.onnx", 1e-5), ("saved", 1e-5), ("int8.tflite", 0.02)):
        np.testing.assert_allclose(by_name[name].classifier.predict(pixels), reference, atol=tolerance)


def test_fingerprint_follows_the_images(models: dict[str, Path], digits: Path, labels: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(digits, copy)
    first, second = (opened(models, data, labels, "onnx") for data in (digits, copy))
    assert first.images.fingerprint == second.images.fingerprint
    changed = next(copy.rglob("*.png"))
    changed.write_bytes(next(path for path in copy.rglob("*.png") if path != changed).read_bytes())
    assert opened(models, copy, labels, "onnx").images.fingerprint != first.images.fingerprint
    with pytest.raises(DataError, match="has changed since it was first read"):
        list(second.images.batches(60))


def test_equal_names_are_told_apart(models: dict[str, Path], digits: Path, labels: Path) -> None:
    found = opened(models, digits, labels, "onnx", "same name")
    assert [model.name for model in found.artefacts] == [str(models["onnx"]), str(models["same name"])]


def test_refused_sets(models: dict[str, Path], digits: Path, labels: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="add --artefact FILE"):
        opened(models, digits, labels)
    with pytest.raises(SettingsError, match=r"each model once, but got .*model\.onnx"):
        opened(models, digits, labels, "onnx", "onnx")
    with pytest.raises(SettingsError, match=r"one of the models \(model.keras, model.onnx\).*'typo.onnx'"):
        open_models(models["reference"], [models["onnx"]], digits, labels, parse_forms(["typo.onnx=0..1"], []))
    copy = tmp_path / "copy.keras"
    copy.write_bytes(models["reference"].read_bytes())
    with pytest.raises(ArtefactError, match=r"copy.keras has the same content; a model always agrees"):
        open_models(models["reference"], [copy], digits, labels, FORMS)
    labels.write_text("digit 0\ndigit 1\nseven\n")
    with pytest.raises(DataError, match=r"the classes of labels.txt \(digit 0, digit 1, seven\) in .* found digit 7"):
        opened(models, digits, labels, "onnx")
    labels.write_text("digit 0\ndigit 1\ndigit 7\ndigit 8\n")
    with pytest.raises(ArtefactError, match=r"expected 4 outputs in model.keras, one for each label, but it has 3"):
        opened(models, digits, labels, "onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n\n", "line 3 is ''"),
        (b"a\n \nb", "line 2 is ' '"),
        (b"", "line 1 is ''"),
        (b"a\nb\na\n", "each class once in .*, but 'a' is there twice"),
        (b"a\n", "at least two classes in .*, but it names only 'a'"),
        (b"\xff\xfe\n", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_refused_labels(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_labels_file(path)


def test_labels_of_other_editors(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffKäfer\r\nBiene".encode())
    assert read_labels_file(path) == ("Käfer", "Biene")


def test_an_artefact_with_its_weights_in_a_file_of_their_own(
    models: dict[str, Path], digits: Path, labels: Path, tmp_path: Path
) -> None:
    path = nchw_onnx(small(), tmp_path / "model.onnx", external=True)
    found = open_models(models["reference"], [path], digits, labels, FORMS)
    assert found.artefacts[0].int8_share == 0
    pixels = next(iter(found.images.batches(8)))[32]
    np.testing.assert_allclose(
        found.artefacts[0].classifier.predict(pixels), found.reference.classifier.predict(pixels), atol=1e-5
    )
