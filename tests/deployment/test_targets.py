"""Device targets: what they promise, what they refuse before an export, what they find in a written file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import tledge
from tests.conftest import run_cli
from tledge.conversion.recipe import recipe_folder
from tledge.core.errors import RecipeError, SettingsError
from tledge.core.records import plain
from tledge.deployment.export import model_cost
from tledge.deployment.operator_coverage import uncovered
from tledge.deployment.targets import DeviceTarget, built_in_targets, load_target
from tledge.formats.tflite import Operator, Tensor, read_operators

pytest.importorskip("tensorflow")

NAMES = {
    "android",
    "ios",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "linux-x86-vnni",
    "linux-x86-avx2",
    "coral-edgetpu",
    "browser",
    "microcontroller",
    "stm32h743",
    "esp32-s3",
    "arduino-nano-33-ble",
}


def edited(name: str, folder: Path, pattern: str, text: str) -> Path:
    """A copy of a built-in target with one place changed."""
    source = (recipe_folder() / "targets" / f"{name}.toml").read_text()
    changed, places = re.subn(pattern, text, source, count=1, flags=re.MULTILINE)
    assert places == 1, pattern
    path = folder / "mine.toml"
    path.write_text(changed)
    return path


def test_the_built_in_targets_are_whole_and_name_their_sources() -> None:
    assert set(built_in_targets()) == NAMES
    for name in NAMES:
        target = load_target(name)
        assert target.artefacts
        assert target.threads
        assert all(source.url.startswith("https://") for source in target.sources)
        assert all(delivery.why for delivery in target.artefacts)


def test_quantization_follows_the_instructions() -> None:
    def reduced(name: str) -> set[bool]:
        recipes = [delivery.recipe for delivery in load_target(name).artefacts]
        return {r.reduce_range for r in recipes if (r.format, r.precision) == ("onnx", "int8")}

    assert reduced("linux-x86-avx2") == reduced("browser") == {True}
    assert reduced("linux-x86-vnni") == reduced("raspberry-pi-4") == reduced("raspberry-pi-5") == {False}


@pytest.mark.parametrize(
    ("pattern", "text", "message"),
    [
        (r"^title = .*$", "", "title as one line of text in {}, but it is missing"),
        (
            r"^title = .*$",
            'title = "a"\ncolour = "b"',
            "sources at the top level of {}, but got colour",
        ),
        (
            r"^threads = .*$",
            "threads = [0]",
            "threads[0] as a whole number above 0 in {}, but got 0",
        ),
        (
            r"^threads = .*$",
            "threads = 1",
            "threads as one or more whole numbers above 0 in {}, but got 1",
        ),
        (
            r"^size_mb = .*$",
            "size_mb = -1",
            "[limits].size_mb as a number above 0 in {}, but got -1",
        ),
        (
            r"^size_mb = .*$",
            "",
            "[limits].size_mb as a number above 0 in {}, but it is missing",
        ),
        (r'^recipe = "tflite-int8"$', 'recipe = "tflite-int7"', "expected a recipe"),
        (r'^input = "uint8"$', 'input = "float32"', "input uint8 and output uint8 for tflite-int8"),
        (
            r'^why = ".*$',
            'why = ""',
            "expected [[artefacts]].why (number 1) as one line of text in {}, but got ''",
        ),
        (r"^ADD = \[\]$", 'ADD = ["prime sizes"]', "expected [operators].ADD as a list of constraints"),
        (
            r"^url = .*$",
            "",
            "expected [[sources]].url (number 1) as one line of text in {}, but it is missing",
        ),
        (r"^threads = ", "threads = [", "cannot be parsed"),
    ],
)
def test_targets_that_make_no_sense(pattern: str, text: str, message: str, tmp_path: Path) -> None:
    path = edited("coral-edgetpu", tmp_path, pattern, text)
    with pytest.raises(RecipeError, match=re.escape(message.replace("{}", str(path)))) as caught:
        load_target(str(path))
    assert "\n" not in str(caught.value)


def test_two_artefacts_of_one_recipe_are_refused(tmp_path: Path) -> None:
    path = edited("raspberry-pi-5", tmp_path, r'recipe = "onnx-int8-full-range"', 'recipe = "tflite-int8"')
    path.write_text(path.read_text().replace('output = "float32"', 'output = "uint8"'))
    with pytest.raises(RecipeError, match="each recipe once"):
        load_target(str(path))


def test_an_unknown_target_lists_the_known(finished_run: Path) -> None:
    for arguments in (("targets", "toaster"), ("export", finished_run, "--target", "toaster")):
        result = run_cli(*arguments)
        assert result.returncode == 2
        assert "raspberry-pi-5" in result.stderr
        assert result.stderr.strip().count("\n") == 0


def test_the_command_lists_and_shows() -> None:
    listed = run_cli("targets")
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in NAMES)
    shown = run_cli("targets", "coral-edgetpu")
    assert shown.returncode == 0
    for part in ("MAX_POOL_2D (no fused activation)", "file 8 MB", "tflite-int8", "source: Coral"):
        assert part in shown.stdout


def test_export_for_a_target_makes_its_recipes(run_copy: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small-sample.toml"
    recipe.write_text('format = "onnx"\nprecision = "int8"\n[calibration]\nimages = 6\n')
    path = edited("raspberry-pi-5", tmp_path, r'"onnx-int8-full-range"', '"small-sample.toml"')
    made = tledge.export_for_target(run_copy, str(path))
    assert made.passed
    assert [artefact.name for artefact in made.exported.artefacts] == ["tflite-int8", "small-sample"]
    assert plain(made.exported.artefacts[1].sidecar)["calibration"]["images"] == 6


def test_full_range_keeps_all_bits(run_copy: Path) -> None:
    onnx = pytest.importorskip("onnx")
    tledge.export(run_copy, recipes=["onnx-int8", "onnx-int8-full-range"])
    largest = {}
    for name in ("onnx-int8", "onnx-int8-full-range"):
        graph = onnx.load(run_copy / "export" / f"{name}.onnx").graph
        weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
        largest[name] = max(abs(w.astype(int)).max() for w in weights if w.dtype == "int8" and w.ndim == 4)
    assert largest["onnx-int8"] <= 64
    assert largest["onnx-int8-full-range"] >= 127


def test_a_model_that_is_too_large_is_told_before_the_export(vgg16_run: Path) -> None:
    before = sorted(path.name for path in (vgg16_run / "export").iterdir())
    result = run_cli("export", vgg16_run, "--target", "coral-edgetpu", "--force")
    assert result.returncode == 2
    assert "at most 8 MB for coral-edgetpu" in result.stderr
    assert "14.72 million parameters" in result.stderr
    assert "needs about 14.7 MB" in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert sorted(path.name for path in (vgg16_run / "export").iterdir()) == before


def test_a_model_that_needs_too_much_memory_is_told(vgg16_run: Path, tmp_path: Path) -> None:
    path = edited("android", tmp_path, r"^memory_mb = .*$", "memory_mb = 100")
    with pytest.raises(SettingsError, match="memory of at most 100 MB for mine"):
        tledge.export_for_target(vgg16_run, str(path))


def test_layers_of_a_model_inside_a_model_count() -> None:
    import keras

    layers = [keras.layers.Conv2D(8, 3, padding="same"), keras.layers.MaxPooling2D(4), keras.layers.Flatten()]
    flat = keras.Sequential([keras.Input((16, 16, 3)), *layers])
    nested = keras.Sequential([keras.Input((16, 16, 3)), keras.Sequential(layers)])
    assert model_cost(nested) == model_cost(flat)
    assert model_cost(nested).activations == 16 * 16 * (3 + 8)
    assert "CONV_2D" in model_cost(nested).operators


def test_an_operator_that_is_not_covered_is_told(run_copy: Path, tmp_path: Path) -> None:
    path = edited("coral-edgetpu", tmp_path, r"^MEAN = .*$", "")
    path.write_text(path.read_text().replace("size_mb = 8", "size_mb = 20"))
    with pytest.raises(SettingsError, match="this model needs MEAN as well"):
        tledge.export_for_target(run_copy, str(path))


def test_the_real_size_is_checked_afterwards(run_copy: Path, tmp_path: Path) -> None:
    # Between what the weights alone take, and what the file does.
    weights_mb = pytest.importorskip("keras").models.load_model(run_copy / "model.keras").count_params() / 1e6
    assert weights_mb < 0.24 < (run_copy / "export" / "tflite-int8.tflite").stat().st_size / 1e6
    path = edited("coral-edgetpu", tmp_path, r"^size_mb = .*$", "size_mb = 0.24")
    result = run_cli("export", run_copy, "--target", path)
    assert result.returncode == 1, result.stderr
    assert "FAIL: tflite-int8 is 0.25 MB" in result.stdout


def test_recipe_and_target_exclude_each_other(finished_run: Path) -> None:
    result = run_cli("export", finished_run, "--target", "android", "--recipe", "tflite-int8")
    assert result.returncode == 2
    assert "expected --target alone" in result.stderr


@pytest.fixture
def edge_tpu() -> DeviceTarget:
    return load_target("coral-edgetpu")


def test_the_edge_tpu_covers_our_int8_file_and_no_float_file(finished_run: Path, edge_tpu: DeviceTarget) -> None:
    assert edge_tpu.operators is not None
    operators = read_operators(finished_run / "export" / "tflite-int8.tflite")
    assert [op.name for op in operators].count("CONV_2D") == 13
    assert uncovered(operators, edge_tpu.operators) == ()
    for name in ("tflite-float32", "tflite-dynamic"):
        reasons = uncovered(read_operators(finished_run / "export" / f"{name}.tflite"), edge_tpu.operators)
        assert any("computes on FLOAT32" in reason for reason in reasons), name


def int8(*shape: int) -> Tensor:
    return Tensor(0, "t", shape, "INT8")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("MAX_POOL_2D", {"options": {"fusedActivationFunction": 1}}, "breaks 'no fused activation'"),
        ("CONV_2D", {"options": {"dilationWFactor": 2, "dilationHFactor": 1}}, "breaks 'equal dilations'"),
        ("MEAN", {"axes": (0, 1)}, "breaks 'reduction over rows and columns'"),
        ("SOFTMAX", {"inputs": (int8(1, 16_001),)}, "at most 16000"),
        ("SOFTMAX", {"inputs": (int8(7, 3),)}, "at most 16000"),
        ("CONV_2D", {"inputs": (int8(-1, 32, 32, 3),)}, "a size that is not fixed"),
        ("CONV_2D", {"outputs": (int8(2, 32, 32, 64),)}, "more than three dimensions above 1"),
        ("CONV_2D", {"name": "GATHER"}, "GATHER (operator 0) is not in the list"),
    ],
)
def test_what_the_edge_tpu_does_not_map(
    finished_run: Path, edge_tpu: DeviceTarget, name: str, change: dict[str, object], reason: str
) -> None:
    assert edge_tpu.operators is not None
    found = next(op for op in read_operators(finished_run / "export" / "tflite-int8.tflite") if op.name == name)
    assert uncovered([found], edge_tpu.operators) == ()
    broken: Operator = replace(found, **change)  # type: ignore[arg-type]
    reasons = uncovered([broken], edge_tpu.operators)
    assert len(reasons) == 1
    assert reason in reasons[0]
