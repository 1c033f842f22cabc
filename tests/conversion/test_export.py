"""Export: each file is what its name says, equals the reference, carries its labels, and is the same every time."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.conftest import run_cli, run_process
from tledge.conversion.recipe import DEFAULT_RECIPES, built_in_recipes, load_recipes
from tledge.core.errors import ArtefactError, RecipeError, VerificationError
from tledge.core.files import sha256_file
from tledge.core.records import plain
from tledge.runs.images import TrainingSamples
from tledge.runtimes import open_classifier

onnx = pytest.importorskip("onnx")

SUFFIX = {name: ".onnx" if name.startswith("onnx") else ".tflite" for name in DEFAULT_RECIPES}
LABELS = ("digit 0", "digit 1", "digit 7")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (6, 32, 32, 3), np.uint8)


def artefact(run: Path, name: str) -> Path:
    return run / "export" / f"{name}{SUFFIX[name]}"


def sidecar(run: Path, name: str) -> dict[str, object]:
    return json.loads((run / "export" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("tflite-float32", 1e-5),
        ("onnx-float32", 1e-5),
        ("tflite-float16", 5e-3),
        ("tflite-dynamic", 0.1),
        ("tflite-int8", 0.15),
        ("onnx-int8", 0.15),
    ],
)
def test_artefact_equals_the_reference(vgg16_run: Path, images: np.ndarray, name: str, tolerance: float) -> None:
    reference = open_classifier(vgg16_run / "model.keras").predict(images)
    classifier = open_classifier(artefact(vgg16_run, name))
    answers = classifier.predict(images)
    np.testing.assert_allclose(answers, reference, atol=tolerance)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=0.02)
    assert classifier.labels == LABELS


@pytest.mark.parametrize(
    ("name", "share_of_float32"),
    [("tflite-float16", 0.51), ("tflite-dynamic", 0.26), ("tflite-int8", 0.26), ("onnx-int8", 0.26)],
)
def test_sizes(vgg16_run: Path, name: str, share_of_float32: float) -> None:
    whole = artefact(vgg16_run, "tflite-float32").stat().st_size
    assert artefact(vgg16_run, name).stat().st_size < share_of_float32 * whole


def test_sidecars_tell_the_truth(finished_run: Path) -> None:
    model_sha256 = sha256_file(finished_run / "model.keras")
    for name in DEFAULT_RECIPES:
        content, path = sidecar(finished_run, name), artefact(finished_run, name)
        assert content["sha256"] == sha256_file(path)
        assert content["size_bytes"] == path.stat().st_size
        assert content["source_sha256"] == model_sha256
        assert content["input"]["dtype"] == open_classifier(path).input_dtype
        assert content["output"]["dtype"] == open_classifier(path).output_dtype
        assert ("calibration" in content) == name.endswith("int8")
    assert sidecar(finished_run, "tflite-int8")["int8_op_share"] == 1.0
    assert sidecar(finished_run, "tflite-float32")["int8_op_share"] == 0.0
    assert sidecar(finished_run, "onnx-int8")["ops"]["QLinearConv int8"] == 13


def test_int8_takes_bytes_and_tflite_returns_bytes(finished_run: Path) -> None:
    for name, dtypes in (("tflite-int8", ("uint8", "uint8")), ("onnx-int8", ("uint8", "float32"))):
        classifier = open_classifier(artefact(finished_run, name))
        assert (classifier.input_dtype, classifier.output_dtype) == dtypes


@pytest.mark.parametrize("name", ["onnx-float32", "onnx-int8"])
def test_onnx_graph_is_lean(finished_run: Path, name: str) -> None:
    model = onnx.load(artefact(finished_run, name))
    onnx.checker.check_model(model, full_check=True)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Transpose") == 1
    assert not {"Shape", "Gather", "Reshape"} & set(kinds)
    assert kinds.count("Conv") == 13
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert {entry.key for entry in model.metadata_props} == {"labels", "preprocessing", "tledge"}


@pytest.mark.parametrize("name", DEFAULT_RECIPES)
def test_other_batches_give_the_same_answers(vgg16_run: Path, images: np.ndarray, name: str) -> None:
    one_by_one = np.concatenate([open_classifier(artefact(vgg16_run, name)).predict(i[np.newaxis]) for i in images])
    classifier = open_classifier(artefact(vgg16_run, name))
    classifier.prepare(images)
    classifier.invoke()
    np.testing.assert_allclose(classifier.predict(images), one_by_one, atol=1e-5)


def test_exported_twice_is_the_same_to_the_byte(finished_run: Path, run_copy: Path) -> None:
    # In another process, whose counters and caches start from nothing.
    result = run_process("export", run_copy, "--force")
    assert result.returncode == 0, result.stderr
    for name in DEFAULT_RECIPES:
        assert sha256_file(artefact(run_copy, name)) == sha256_file(artefact(finished_run, name)), name


def test_what_is_there_is_kept_and_what_changed_is_made_anew(run_copy: Path) -> None:
    artefact(run_copy, "onnx-float32").write_bytes(b"cut")
    (run_copy / "export" / "tflite-float32.json").unlink()
    kept = {a.name: a.kept for a in tledge.export(run_copy).artefacts}
    assert kept == {name: name not in ("onnx-float32", "tflite-float32") for name in DEFAULT_RECIPES}


def test_flatten_head_exports_to_everything(tmp_path: Path, digits: Path) -> None:
    """Its last layer is small: the converter leaves that one in float where only weights are quantized."""
    run = tmp_path / "run"
    tledge.train(digits, technique="freeze", out=run, image_size=32, epochs=1)
    made = {a.name: plain(a.sidecar) for a in tledge.export(run).artefacts}
    assert set(made) == set(DEFAULT_RECIPES)
    assert made["onnx-int8"]["ops"]["QGemm int8"] == 2
    assert tledge.check(run, max_drop=0.2, on_undecided="pass").passed


def test_own_recipe(run_copy: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text('format = "onnx"\nprecision = "int8"\n[calibration]\nimages = 6\n[check]\nmax_drop = 0.5\n')
    made = tledge.export(run_copy, recipes=[str(recipe)]).artefacts[0]
    assert made.path.name == "tiny.onnx"
    assert plain(made.sidecar)["calibration"]["images"] == 6
    assert plain(made.sidecar)["limits"] == {"max_drop": 0.5}


@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_a_recipe_says_how_ranges_are_measured(form: str, method: str, run_copy: Path, tmp_path: Path) -> None:
    """From the recipe to the file, the ranges that the run keeps, and the check."""
    recipes = []
    for name, chosen in (("widest", "min-max"), ("own", method)):
        recipes.append(tmp_path / f"{name}.toml")
        calibration = f'[calibration]\nimages = 6\nmethod = "{chosen}"\n'
        recipes[-1].write_text(f'format = "{form}"\nprecision = "int8"\n{calibration}')
    widest, own = tledge.export(run_copy, recipes=[str(path) for path in recipes]).artefacts
    assert plain(own.sidecar)["calibration"]["method"] == method
    kept = json.loads((run_copy / "calibration.json").read_text())
    assert {"min-max", method} <= set(re.findall(r"min-max|percentile|mse", json.dumps(kept)))
    assert own.path.read_bytes() != widest.path.read_bytes()
    first = own.path.read_bytes()
    (again,) = tledge.export(run_copy, recipes=[str(recipes[1])], force=True).artefacts
    assert again.path.read_bytes() == first
    checked = tledge.check(run_copy, artefacts=[own.path], max_drop=0.5, on_undecided="pass")
    assert checked.passed


@pytest.mark.parametrize("limits", ['"drop < 50 %, size < 2 MB"', '["drop < 0.5", "size < 2000 kB"]'])
def test_limits_of_a_recipe_as_text(limits: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'format = "onnx"\nprecision = "float32"\n[check]\nlimits = {limits}\n')
    (recipe,) = load_recipes((str(path),))
    assert recipe.limits == {"max_drop": 0.5, "max_size_mb": 2.0}


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("max_dorp = 0.1", "expected one of drop, .* in .check. of recipe mine, but got 'max_dorp'"),
        ("max_drop = 2", "at most 1 in .check. of recipe mine"),
        ('limits = "p50 < 10 ms"', "expected one of drop, .* but got 'p50'"),
        ("limits = 0.1", "expected only limits = "),
        ('limits = ["drop < 0.1", 3]', "expected only limits = "),
        ('limits = "drop < 0.1"\nmax_size_mb = 2', "expected only limits = "),
        ('limits = ""', "got none"),
    ],
)
def test_limits_of_a_recipe_that_make_no_sense(check: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'format = "onnx"\nprecision = "float32"\n[check]\n{check}\n')
    with pytest.raises(RecipeError, match=says):
        load_recipes((str(path),))


def test_calibration_is_seeded_balanced_and_from_train_only(finished_run: Path) -> None:
    from tledge.runs.manifest import read_manifest, read_split
    from tledge.runs.rundir import open_run

    run = open_run(finished_run)
    taken = []
    for _ in range(2):
        samples = TrainingSamples(run, read_manifest(run))
        taken.append(samples.take(9))
    assert taken[0][1] == taken[1][1]
    train = {row.sha256 for row in read_split(run, "train")}
    others = {row.sha256 for row in read_split(run) if row.subset != "train"}
    assert not train & others
    assert len(taken[0][0]) == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = 'tflite'", 'expected precision as "dynamic" or .* in {}, but it is missing; change the file'),
        ("format = 'tflite'\nprecision = 8", 'expected precision as "dynamic" or .* in {}, but got 8; change the file'),
        ("format = 'tf'\nprecision = 'int8'", "expected format as tflite or .* in {}, but got 'tf'; change the file"),
        ("format = 'onnx'\nprecision = 'float16'", "precision that onnx offers"),
        ("format = 'tflite'\nprecision = 'int8'", "calibration.images > 0"),
        ("format = 'tflite'\nprecision = 'float32'\n[calibration]\nimages = 5", "calibration.images > 0"),
        (
            "format = 'tflite'\nprecision = 'float32'\nspeed = 1",
            "expected format, .* at the top level of {}, but got speed; change the file",
        ),
        (
            "format = 'tflite'\nprecision = 'float32'\n[verify]\nmin_agreement = 2",
            r"\[verify\].min_agreement as a number between 0 and 1 in {}",
        ),
        ("format = 'tflite'\nprecision = 'float32'\n[quantization]\nreduce_range = true", "only in onnx and ort int8"),
        (
            "format = 'onnx'\nprecision = 'int8'\n[calibration]\nimage = 9",
            r"expected images, method in \[calibration\] of {}, but got image \(did you mean images\?\); change",
        ),
        (
            "format = 'onnx'\nprecision = 'int8'\n[calibration]\nimages = 9\n[quantization]\nfloat_layers = ['a', 1]",
            r"expected \[quantization\].float_layers\[1\] as text in {}, but got 1; change the file",
        ),
        ("format = 'onnx'\nprecision = 'float32'\ncheck = 3", r"expected \[check\] as a table in {}, but got 3"),
        ("format = ", "cannot be parsed"),
    ],
)
def test_recipes_that_make_no_sense(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message.replace("{}", re.escape(str(path)))) as caught:
        load_recipes((str(path),))
    assert "\n" not in str(caught.value)


def test_built_in_recipes_load() -> None:
    assert {recipe.name for recipe in load_recipes(built_in_recipes())} >= set(DEFAULT_RECIPES)


def test_a_file_that_fails_its_verification_is_not_kept(run_copy: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "strict.toml"
    text = (
        'format = "tflite"\nprecision = "int8"\n[calibration]\nimages = 3\n[verify]\nmax_probability_difference = 0.0\n'
    )
    recipe.write_text(text)
    before = sorted(p.name for p in (run_copy / "export").iterdir())
    with pytest.raises(VerificationError, match="max_probability_difference of 0 for strict"):
        tledge.export(run_copy, recipes=[str(recipe)])
    assert sorted(p.name for p in (run_copy / "export").iterdir()) == before
    assert run_cli("export", run_copy, "--recipe", recipe).returncode == 1


def test_an_int8_file_that_is_not_is_an_error(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tledge.conversion.registry import FORMATS

    honest = FORMATS["onnx"]
    broken = replace(
        honest, convert=lambda request: honest.convert(replace(request, calibration=None, precision="float32"))
    )
    monkeypatch.setitem(FORMATS, "onnx", broken)
    with pytest.raises(VerificationError, match=r"onnx-int8 to have 14 integer layers .* has 0 and 0%"):
        tledge.export(run_copy, recipes=["onnx-int8"], force=True)


@pytest.mark.parametrize("name", DEFAULT_RECIPES)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9999])
def test_truncated_artefact(vgg16_run: Path, name: str, keep: float, tmp_path: Path) -> None:
    source = artefact(vgg16_run, name)
    cut = tmp_path / source.name
    content = source.read_bytes()
    cut.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ArtefactError):
        open_classifier(cut)


def test_killed_export_leaves_nothing_that_counts(run_copy: Path) -> None:
    shutil.rmtree(run_copy / "export")
    recipes = ("tflite-float32", "tflite-dynamic", "tflite-int8")
    process = subprocess.Popen(
        [sys.executable, "-m", "tledge", "export", str(run_copy), *(f"--recipe={name}" for name in recipes)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    for _ in range(1200):
        if list((run_copy / "export").glob("*.json")) or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the export ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = {path.stem for path in (run_copy / "export").glob("*.json")}
    assert whole < set(recipes)
    for name in whole:
        assert sidecar(run_copy, name)["sha256"] == sha256_file(artefact(run_copy, name))
    assert {item.name for item in tledge.check(run_copy).artefacts} == whole
    assert {a.name for a in tledge.export(run_copy, recipes=recipes).artefacts if a.kept} == whole
    names = {path.name for path in (run_copy / "export").iterdir()}
    assert names == {f"{n}{s}" for n in recipes for s in (SUFFIX[n], ".json")}, "leftovers are swept up"
