"""Mixed precision: what int8 breaks returns to float, nothing else does, and test images stay out of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import tledge
from tests.conftest import converted, run_cli, run_process, untrained_classifier
from tledge.conversion import kept_calibration
from tledge.conversion.recipe import load_recipes
from tledge.conversion.registry import FORMATS as REGISTRY
from tledge.core.errors import RecipeError, SettingsError, VerificationError
from tledge.core.files import sha256_file
from tledge.core.records import plain
from tledge.runs.manifest import read_manifest, read_split, write_manifest
from tledge.runs.rundir import open_run
from tledge.runtimes import open_classifier

pytest.importorskip("onnx")

FORMATS = ("tflite", "onnx")
PRODUCERS = {"block2_conv2": "block2_conv1", "block3_conv2": "block3_conv1", "block4_conv2": "block4_conv1"}
CONVOLUTIONS_AND_DENSE = 14
INT8_MATRIX_OPS = ("QLinearConv int8", "QGemm int8", "CONV_2D int8", "FULLY_CONNECTED int8")
LIMIT = 0.1  # one of the 12 validation images


def clone(vgg16_run: Path, digits: Path, folder: Path) -> Path:
    """A run without artefacts, whose data folder lacks every test image: opening one would be an error."""
    run, data = folder / "run", folder / "data"
    shutil.copytree(vgg16_run, run)
    shutil.rmtree(run / "export")
    shutil.copytree(digits, data)
    for row in read_split(open_run(run), "test"):
        (data / row.path).unlink()
    manifest = read_manifest(open_run(run))
    write_manifest(open_run(run), replace(manifest, data_root="../data"))
    return run


def change_model(run: Path, changed: dict[str, list[np.ndarray[Any, Any]]], *, is_reference: bool = True) -> None:
    """Give a run's model other weights; the reference stays behind unless it is the model itself."""
    import keras

    model = keras.models.load_model(run / "model.keras", compile=False)
    for name, weights in changed.items():
        model.get_layer(name).set_weights(weights)
    if not is_reference:
        shutil.copyfile(run / "model.keras", run / "reference.keras")
    model.save(run / "model.keras")
    manifest, digest = read_manifest(open_run(run)), sha256_file(run / "model.keras")
    reference = digest if is_reference else manifest.reference_sha256
    write_manifest(open_run(run), replace(manifest, model_sha256=digest, reference_sha256=reference))


def break_int8(run: Path, layers: tuple[str, ...]) -> None:
    """Move a factor of 1000 from one filter into the layer that reads it.

    ReLU lets a positive factor through, so in float the function stays. In int8 the layer's scales follow that one
    input channel: weights of all the others round to 0, and the channel itself, now tiny, does as well.
    """
    import keras

    model = keras.models.load_model(run / "model.keras", compile=False)
    changed = {}
    for layer in layers:
        kernel, bias = model.get_layer(PRODUCERS[layer]).get_weights()
        kernel[..., 3] /= 1000
        bias[3] /= 1000
        outlier, kept = model.get_layer(layer).get_weights()
        outlier[:, :, 3] *= 1000
        changed |= {PRODUCERS[layer]: [kernel, bias], layer: [outlier, kept]}
    change_model(run, changed)


def sidecar(run: Path, name: str) -> dict[str, Any]:
    return json.loads((run / "export" / f"{name}.json").read_text())


def validation_accuracy(run: Path, model: Path) -> float:
    opened = open_run(run)
    manifest, rows = read_manifest(opened), read_split(opened, "val")
    from tledge.data.pixels import PixelStore

    pixels = PixelStore([run / manifest.data_root / row.path for row in rows], manifest.image_size_px)
    answers = open_classifier(model).predict(pixels.take(np.arange(len(rows))))
    return float(np.mean(answers.argmax(axis=1) == [manifest.classes.index(row.label) for row in rows]))


@pytest.fixture
def healthy_run(vgg16_run: Path, digits: Path, tmp_path: Path) -> Path:
    return clone(vgg16_run, digits, tmp_path)


@pytest.fixture(scope="module")
def broken_run(vgg16_run: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose int8 files are wrong because of one layer; no test changes it but by exporting."""
    run = clone(vgg16_run, digits, tmp_path_factory.mktemp("broken"))
    break_int8(run, ("block3_conv2",))
    return run


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What real calibrations and conversions were made of."""
    seen: dict[str, list[Any]] = {"calibrated": [], "converted": [], "float": []}

    def watched(real: Any, key: str) -> Any:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            seen[key].append(first)
            return real(first, *rest, **options)

        return call

    monkeypatch.setattr(kept_calibration, "calibrate", watched(kept_calibration.calibrate, "calibrated"))
    for name, fmt in REGISTRY.items():
        calls = {"float_model": watched(fmt.float_model, "float"), "convert": watched(fmt.convert, "converted")}
        monkeypatch.setitem(REGISTRY, name, dataclasses.replace(fmt, **calls))
    return seen


@pytest.mark.parametrize("fmt", ["tflite", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_broken_int8_file_gets_its_layer_back_in_float(
    broken_run: Path, fmt: str, conversions: dict[str, list[Any]]
) -> None:
    name = f"{fmt}-int8"
    with pytest.raises(VerificationError, match=name):
        tledge.export(broken_run, recipes=[name])  # without help it is as wrong as it was made
    for requests in conversions.values():
        requests.clear()
    made = tledge.export(broken_run, recipes=[name], max_drop=LIMIT).artefacts[0]
    assert plain(made.sidecar)["float_layers"] == ["block3_conv2"] == plain(made.sidecar)["lineage"]["float_layers"]
    search = plain(made.sidecar)["accuracy_aware"]
    assert search["max_drop"] == LIMIT
    assert (search["subset"], search["n"]) == ("val", 12)
    first, kept = search["steps"]
    assert first["float_layers"] == []
    assert first["drop"] > 0.3
    assert not first["holds"]
    assert kept["holds"]
    assert kept["float_layers"] == ["block3_conv2"]
    reference = validation_accuracy(broken_run, broken_run / "model.keras")
    assert reference - validation_accuracy(broken_run, made.path) == pytest.approx(kept["drop"])
    assert kept["drop"] <= LIMIT
    low, high = kept["interval"]
    assert low < kept["drop"] < high
    assert (kept["lost"] - kept["won"]) / 12 == pytest.approx(kept["drop"])
    # 3 x 3 x 256 x 256 weights of four bytes and not of one.
    assert search["cost"]["size_bytes"] == pytest.approx(3 * 9 * 256 * 256, rel=0.01)
    assert kept["size_bytes"] == made.path.stat().st_size
    assert min(search["sqnr_db"], key=search["sqnr_db"].__getitem__) == "block3_conv2"
    classifier = open_classifier(made.path)
    assert classifier.input_dtype == "uint8"
    assert classifier.labels == ("digit 0", "digit 1", "digit 7")
    counted = sum(n for op, n in plain(made.sidecar)["ops"].items() if op in INT8_MATRIX_OPS)
    assert counted == CONVOLUTIONS_AND_DENSE - 1
    # One calibration and one conversion to float, and every file is made from them.
    assert len(conversions["calibrated"]) == len(conversions["float"]) == 1
    assert [request.float_layers for request in conversions["converted"]] == [(), ("block3_conv2",)]
    assert len({id(request.calibration) for request in conversions["converted"]}) == 1


@pytest.mark.parametrize("name", ["tflite-int8", pytest.param("onnx-int8", marks=pytest.mark.slow)])
def test_a_batch_of_a_mixed_file_gives_the_same_answers(broken_run: Path, name: str) -> None:
    made = tledge.export(broken_run, recipes=[name], max_drop=LIMIT).artefacts[0]
    images = np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3), np.uint8)
    one_by_one = np.concatenate([open_classifier(made.path).predict(image[np.newaxis]) for image in images])
    classifier = open_classifier(made.path)
    classifier.prepare(images)
    classifier.invoke()
    np.testing.assert_allclose(classifier.predict(images), one_by_one, atol=1e-5)
    float_answers = open_classifier(broken_run / "model.keras").predict(images)
    np.testing.assert_allclose(one_by_one, float_answers, atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", FORMATS)
def test_layers_return_in_groups_and_no_more_than_needed(healthy_run: Path, fmt: str) -> None:
    break_int8(healthy_run, tuple(PRODUCERS))
    made = tledge.export(healthy_run, recipes=[f"{fmt}-int8"], max_drop=2 * LIMIT).artefacts[0]
    steps = plain(made.sidecar)["accuracy_aware"]["steps"]
    assert plain(made.sidecar)["float_layers"] == list(PRODUCERS)
    # Doubled until it held, then halved back.
    assert [len(step["float_layers"]) for step in steps] == [0, 1, 2, 4, 3]
    assert [step["holds"] for step in steps] == [False, False, False, True, True]


@pytest.mark.parametrize("fmt", [pytest.param("tflite", marks=pytest.mark.slow), "onnx"])
def test_a_healthy_export_stays_int8_and_the_same_to_the_byte(
    healthy_run: Path, vgg16_run: Path, fmt: str, conversions: dict[str, list[Any]]
) -> None:
    name = f"{fmt}-int8"
    made = tledge.export(healthy_run, recipes=[name], max_drop=LIMIT).artefacts[0]
    assert made.path.read_bytes() == (vgg16_run / "export" / f"{name}.{fmt}").read_bytes()
    assert "float_layers" not in plain(made.sidecar)
    assert "float_layers" not in plain(made.sidecar)["lineage"]
    assert len(plain(made.sidecar)["accuracy_aware"]["steps"]) == 1
    assert plain(made.sidecar)["accuracy_aware"]["cost"] == {"size_bytes": 0, "p50_ms": 0.0}
    assert len(conversions["converted"]) == 1


@pytest.mark.slow
def test_what_is_kept_and_what_is_made_anew(broken_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "copies" / "run"
    shutil.copytree(broken_run.parent, run.parent)
    lenient = tmp_path / "lenient.toml"
    lenient.write_text('format = "onnx"\nprecision = "int8"\n[calibration]\nimages = 20\n')
    recipes = [str(lenient)]

    def kept(max_drop: float | None) -> bool:
        return tledge.export(run, recipes=recipes, max_drop=max_drop).artefacts[0].kept

    assert [kept(LIMIT), kept(LIMIT)] == [False, True]
    assert kept(None) is False
    assert "accuracy_aware" not in sidecar(run, "lenient")
    assert kept(LIMIT) is False
    assert sidecar(run, "lenient")["float_layers"] == ["block3_conv2"]


@pytest.mark.slow
def test_what_float_cannot_save_is_refused_and_nothing_is_left(healthy_run: Path) -> None:
    import keras

    # A model that answers the next class: as far from its reference as an optimized one could be.
    weights = keras.models.load_model(healthy_run / "model.keras", compile=False).get_layer("prediction").get_weights()
    change_model(healthy_run, {"prediction": [np.roll(part, 1, axis=-1) for part in weights]}, is_reference=False)
    done = run_process("export", healthy_run, "--recipe", "onnx-int8", "--max-drop", 0.1)
    assert done.returncode == 1
    assert "with every layer in float it still drops by" in done.stderr
    assert "n = 12" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((healthy_run / "export").iterdir()) == []


def test_command_line_says_what_went_back_and_what_it_cost(broken_run: Path) -> None:
    done = run_process("export", broken_run, "--recipe", "tflite-int8", "--max-drop", LIMIT, "--force")
    assert done.returncode == 0, done.stderr
    assert "block3_conv2 in float cost +1.7" in done.stdout
    assert "p50 of 20 runs" in done.stdout
    assert 'float_layers = ["block3_conv2"]' in done.stdout
    assert "(n = 12)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "onnx-float32", "--recipe", "onnx-int8"), "only int8 recipes with --max-drop, but got onnx-f"),
        ((), "but got tflite-float32, tflite-float16, tflite-dynamic, onnx-float32"),
        (("--recipe", "onnx-int8", "--max-drop", "3"), "of at least 0 and at most 1 in --max-drop"),
    ],
)
def test_limits_that_make_no_sense_are_refused_before_any_work(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    # The run does not exist: the limit is looked at first.
    done = run_cli("export", tmp_path / "no-run", "--max-drop", "0.1", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_with_learned_ranges_is_refused(healthy_run: Path, tmp_path: Path) -> None:
    from tledge.model.ranges import ActivationRanges, write_ranges

    run = open_run(healthy_run)
    write_ranges(run.quantization, ActivationRanges({"block1_conv1": (0.0, 1.0)}))
    learned = {"method": "qat", "quantization_sha256": sha256_file(run.quantization)}
    write_manifest(run, replace(read_manifest(run), optimization=learned))
    with pytest.raises(SettingsError, match="got --max-drop for one with ranges from quantization-aware"):
        tledge.export(healthy_run, recipes=["onnx-int8"], max_drop=0.1)
    with pytest.raises(SettingsError, match=r"got quantization\.float_layers in recipe mine"):
        tledge.export(healthy_run, recipes=[str(toml(tmp_path, '["block1_conv1"]'))])


def toml(folder: Path, float_layers: str, head: str = 'format = "onnx"\nprecision = "int8"') -> Path:
    path = folder / "mine.toml"
    calibration = "[calibration]\nimages = 20\n" if "int8" in head else ""
    path.write_text(f"{head}\n{calibration}[quantization]\nfloat_layers = {float_layers}\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("fmt", FORMATS)
def test_layers_that_a_recipe_keeps_in_float(broken_run: Path, tmp_path: Path, fmt: str) -> None:
    recipe = toml(tmp_path, '["prediction", "block3_conv2"]', f'format = "{fmt}"\nprecision = "int8"')
    made = tledge.export(broken_run, recipes=[str(recipe)]).artefacts[0]
    assert made.sidecar.float_layers == ("block3_conv2", "prediction") == made.sidecar.lineage.float_layers
    assert open_classifier(made.path).lineage() == plain(made.sidecar)["lineage"]
    assert plain(made.sidecar)["verification"]["agreement"] == 1.0
    assert sum(plain(made.sidecar)["ops"].get(op, 0) for op in INT8_MATRIX_OPS) == CONVOLUTIONS_AND_DENSE - 2
    assert tledge.export(broken_run, recipes=[str(recipe)]).artefacts[0].kept
    again = made.path.read_bytes()
    assert tledge.export(broken_run, recipes=[str(recipe)], force=True).artefacts[0].path.read_bytes() == again
    # A search starts from what the recipe declares.
    searched = tledge.export(broken_run, recipes=[str(recipe)], max_drop=LIMIT).artefacts[0]
    assert [step["float_layers"] for step in plain(searched.sidecar)["accuracy_aware"]["steps"]] == [
        ["block3_conv2", "prediction"]
    ]
    assert searched.path.read_bytes() == again


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("layer", ["block1_conv1", pytest.param("fc1", marks=pytest.mark.slow)])
def test_first_and_dense_layers_really_compute_in_float(tmp_path: Path, fmt: str, layer: str) -> None:
    """onnxruntime gives float layers between int8 neighbours int8 weights, unless the file prevents it."""
    model = untrained_classifier(3, 32)
    images = np.random.default_rng(5).integers(0, 256, (8, 32, 32, 3), np.uint8)
    path = tmp_path / f"mixed.{fmt}"
    path.write_bytes(converted(fmt, "int8", model, ("a", "b", "c"), images, float_layers=(layer,)))
    ops = REGISTRY[fmt].count_ops(path)
    assert (ops.matrix_ops, ops.int8_matrix_ops) == (15, 14)
    expected = np.concatenate([model(image[np.newaxis].astype(np.float32)) for image in images])
    np.testing.assert_allclose(open_classifier(path).predict(images), expected, atol=0.1)


def test_unknown_float_layers_are_refused(broken_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"among block1_conv1, .*, prediction, but recipe mine has block9_conv1;"):
        tledge.export(broken_run, recipes=[str(toml(tmp_path, '["block1_conv1", "block9_conv1"]'))])


@pytest.mark.parametrize(
    ("float_layers", "head", "message"),
    [
        ('"block1_conv1"', 'format = "onnx"\nprecision = "int8"', r"expected \[quantization\].float_layers.* as "),
        ("[1]", 'format = "onnx"\nprecision = "int8"', r"expected \[quantization\].float_layers.* as "),
        ('["block1_conv1"]', 'format = "onnx"\nprecision = "float32"', "only in int8 recipes, but mine is float32"),
    ],
)
def test_float_layers_that_make_no_sense(tmp_path: Path, float_layers: str, head: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipes((str(toml(tmp_path, float_layers, head)),))
