"""Files in onnxruntime's own format, and files whose batch is fixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import tledge
from tledge.benchmark import bench as bench_stage
from tledge.conversion.recipe import load_recipes
from tledge.core.errors import ArtefactError, FixedBatchError, RecipeError
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier
from tledge.runtimes.options import RuntimeOptions

ONNX_BATCH_3 = 'format = "onnx"\nprecision = "float32"\nbatch = 3\n'


@pytest.fixture(scope="module")
def exported(vgg16_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with an .ort file and an ONNX file for batches of 3."""
    run = vgg16_run.parent / "with ort"
    shutil.copytree(vgg16_run, run)
    recipe = tmp_path_factory.mktemp("recipes") / "onnx-batch-3.toml"
    recipe.write_text(ONNX_BATCH_3)
    tledge.export(run, recipes=["ort-int8", str(recipe)])
    return run


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (4, 32, 32, 3), np.uint8)


def test_an_ort_file_answers_as_its_onnx_file(exported: Path, images: np.ndarray) -> None:
    ort, onnx = (open_classifier(exported / "export" / name) for name in ("ort-int8.ort", "onnx-int8.onnx"))
    assert ort.runtime == "onnxruntime"
    assert (ort.labels, ort.input_dtype, ort.lineage() is not None) == (onnx.labels, "uint8", True)
    assert np.abs(ort.predict(images) - onnx.predict(images)).max() < 0.1
    reference = open_classifier(exported / "model.keras").predict(images)
    assert np.abs(ort.predict(images) - reference).max() < 0.1
    with pytest.raises(FixedBatchError, match="this file takes 1"):
        ort.prepare(images)
    described = json.loads((exported / "export" / "ort-int8.json").read_text())
    assert (described["format"], described["input"]["shape"]) == ("ort", [1, 32, 32, 3])
    assert described["ops"]["QLinearConv int8"] == 13, "the .ort file itself computes in int8"


@pytest.mark.slow
def test_every_stage_takes_an_ort_file(exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = exported / "export" / "ort-int8.ort"
    assert tledge.inspect(path).facts["int8_op_share"] > 0.5
    checked = tledge.check(exported, artefacts=[path], gates={"max_drop": 0.9, "min_int8_share": 0.5})
    assert [(item.name, item.verdict) for item in checked.artefacts] == [("ort-int8", "pass")]
    monkeypatch.setattr(bench_stage, "installed", lambda package: False)
    result = tledge.bench(
        exported, artefacts=[path, exported / "export" / "tflite-int8.tflite"], batch=[1, 2], rounds=2, samples=1
    )
    assert [item.name for item in result.measurements] == ["ort-int8", "tflite-int8"]
    assert [item.name for item in result.others[0].measurements] == ["tflite-int8"]
    assert any("ort-int8 was not measured with batch 2" in note for note in result.notes)
    kit = tledge.kit(exported, tmp_path / "kit.zip", images=2)
    assert "models/ort-int8.ort" in kit.manifest["files"]
    with pytest.raises(ArtefactError, match="export an onnx recipe like it"):
        tledge.diagnose(exported, path)


def test_exporting_again_keeps_the_file(exported: Path) -> None:
    assert [item.kept for item in tledge.export(exported, recipes=["ort-int8"]).artefacts] == [True]


def test_a_fixed_batch(exported: Path, images: np.ndarray) -> None:
    fixed, free = (open_classifier(exported / "export" / name) for name in ("onnx-batch-3.onnx", "onnx-float32.onnx"))
    for count in (0, 1, 3, 4):
        assert fixed.predict(images[:count]).shape == (count, 3)
        assert fixed.predict(images[:count]) == pytest.approx(free.predict(images[:count]), abs=1e-5)
    with pytest.raises(FixedBatchError, match="this file takes 3"):
        fixed.prepare(images)
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(exported / "export" / "onnx-batch-3.onnx").graph
    for value in (graph.input[0], graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_value == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('format = "tflite"\nprecision = "float32"\nbatch = 1\n', "expected batch only in onnx and ort recipes"),
        ('format = "onnx"\nprecision = "float32"\nbatch = 0\n', "batch as a whole number above 0"),
        ('format = "onnx"\nprecision = "float32"\nbatch = true\n', "batch as a whole number above 0"),
        ('format = "ort"\nprecision = "float16"\n', "expected a precision that ort offers"),
    ],
)
def test_recipes_that_make_no_sense(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=says):
        load_recipes((str(path),))


@pytest.mark.parametrize("name", ["tflite-int8", "tflite-float32"])
def test_the_weight_cache_changes_no_answer(name: str, vgg16_run: Path, images: np.ndarray, tmp_path: Path) -> None:
    path, cache = vgg16_run / "export" / f"{name}.tflite", tmp_path / "weights"
    answers = []
    for _ in range(2):  # the first start writes the cache, the second one reads it
        classifier = open_classifier(path, MODEL_OF_A_RUN, 1, RuntimeOptions(weight_cache=str(cache)))
        answers.append(classifier.predict(images[:1])[0])
        assert cache.stat().st_size > 10**6
    assert np.array_equal(*answers)
    plain = open_classifier(path, threads=1)
    assert answers[0] == pytest.approx(plain.predict(images[:1])[0], abs=1e-5)
    with pytest.raises(FixedBatchError):
        classifier.prepare(images)
