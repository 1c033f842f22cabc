"""Kits for microcontrollers: sources that compile, hold the same bytes, and say what LiteRT Micro needs and answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.conftest import run_cli
from tledge.conversion.recipe import load_recipes, recipe_folder
from tledge.core import dependencies
from tledge.core.errors import RecipeError
from tledge.core.files import sha256_file
from tledge.deployment.microcontroller import _literal, adder_of
from tledge.deployment.targets import load_target

keras = pytest.importorskip("keras")
pytest.importorskip("tflite_micro")

BOARDS = ("arduino-nano-33-ble", "esp32-s3", "microcontroller", "stm32h743")
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
COMPILERS = (("gcc", "-x", "c", "-std=c11"), ("gcc", "-x", "c++", "-std=c++17"), ("g++", "-std=c++17"))
PRINT = """
#include <cstdio>
#include "model_data.h"
int main() { return std::fwrite(tledge_model, 1, tledge_model_length, stdout) != tledge_model_length; }
"""


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net that somebody trained on digits, as microcontrollers have them."""
    folder = tmp_path_factory.mktemp("micro")
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Rescaling(1 / 255),
            *(
                layer
                for n in (8, 16)
                for layer in (keras.layers.Conv2D(n, 3, activation="relu"), keras.layers.MaxPooling2D())
            ),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    images = keras.utils.image_dataset_from_directory(digits, image_size=(32, 32), batch_size=12, seed=0, verbose=False)
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(5e-3), loss="sparse_categorical_crossentropy")
    model.fit(images, epochs=25, verbose=0)
    model.save(folder / "model.keras")
    tledge.adopt(folder / "model.keras", data=digits, out=folder / "run", input="0..255")
    tledge.export(folder / "run", recipes=["micro-int8", "tflite-int8", "tflite-float32"])
    return folder / "run"


@pytest.fixture(scope="module")
def kit(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("micro-kit")
    result = run_cli("kit", run, "--target", "microcontroller", "-o", folder / "micro.zip")
    assert result.returncode == 0, result.stderr
    assert "operators: " in result.stdout
    assert re.search(r"flash [\d,]+ bytes, arena [\d,]+ \(tensors", result.stdout)
    with zipfile.ZipFile(folder / "micro.zip") as archive:
        archive.extractall(folder / "kit")
    return folder / "kit"


def test_every_test_image_is_answered_in_litert_micro(run: Path) -> None:
    here = tledge.check(run, on_undecided="pass").artefacts
    result = run_cli("check", run, "--on", "micro", "--on-undecided", "pass", "--gate", "arena < 64 kB, flash < 64 KiB")
    assert result.returncode == 0, result.stderr + result.stdout
    written = json.loads((run / "check.json").read_text())
    (host,) = written["hosts"]
    assert host["on"] == "micro"
    assert {item["runtime"] for item in written["artefacts"]} == {"litert"}
    assert {item["name"]: item["runtime"] for item in host["artefacts"]} == {
        "micro-int8": "litert-micro",
        "tflite-int8": "litert-micro",
    }
    before = {item.name: item for item in here}
    for item in host["artefacts"]:
        assert item["n"] == 12
        assert item["against_here"]["max_probability_difference"] < 0.1
        assert item["accuracy"] == before[item["name"]].accuracy.value
        gates = {gate["name"]: gate for gate in item["gates"]}
        assert gates["max_flash_kb"]["value"] == item["size_bytes"] / 1e3
        assert 0 < gates["max_arena_kb"]["value"] < 64
        assert gates["max_flash_kb"]["limit"] == pytest.approx(65.536)


def test_an_arena_that_is_too_large_fails_the_check(run: Path) -> None:
    result = run_cli("check", run, "--artefact", run / "export" / "micro-int8.tflite", "--gate", "arena < 8 kB")
    assert result.returncode == 1
    assert re.search(r"FAIL micro-int8: max_arena_kb is [\d.]+, limit 8", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "{run}", "--on", "toaster"), "or micro, but got 'toaster'"),
        (("check", "{run}", "--on", "micro", "--on", "micro"), "expected each host once with --on"),
        (
            ("check", "{run}", "--on", "micro", "--artefact", "{run}/export/tflite-float32.tflite"),
            "an int8 .tflite file",
        ),
        (("kit", "{run}", "--target", "{tiny}", "-o", "{run}/micro.zip"), "an arena of at most 4 kB for tiny"),
        (("bench", "{run}", "--on", "ssh://nowhere", "--target", "esp32-s3"), "esp32-s3, a microcontroller"),
    ],
)
def test_what_cannot_be_is_one_line(run: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    tiny = tmp_path / "tiny.toml"
    source = (recipe_folder() / "targets" / "microcontroller.toml").read_text()
    tiny.write_text(source.replace("arena_kb = 512", "arena_kb = 4"))
    result = run_cli(*(word.format(run=run, tiny=tiny) for word in arguments))
    assert result.returncode == 2, result.stdout
    lines = [line for line in result.stderr.strip().splitlines() if "asking the hosts" not in line]
    assert len(lines) == 1, result.stderr
    assert message in lines[0]
    assert not (run / "micro.zip").exists()


def test_an_arena_that_shows_only_in_the_file_fails_the_export(run: Path, tmp_path: Path) -> None:
    """The largest layer reads and makes 10.3 kB; what the interpreter keeps for itself comes on top."""
    path = tmp_path / "tight.toml"
    source = (recipe_folder() / "targets" / "microcontroller.toml").read_text()
    path.write_text(source.replace("arena_kb = 512", "arena_kb = 11"))
    result = run_cli("export", run, "--target", path)
    assert result.returncode == 1, result.stderr
    assert re.search(r"FAIL: micro-int8 needs an arena of 1\d\.\d kB, but tight has 11", result.stdout)


def test_a_missing_interpreter_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "installed", lambda package: package != "tflite_micro")
    commands = (
        ("check", run, "--on", "micro"),
        ("check", run, "--gate", "arena < 1 MB", "--artefact", run / "export" / "micro-int8.tflite"),
        ("export", run, "--target", "esp32-s3"),
        ("optimize", run, "--goal", "arena < 1 MB", "--out", run.parent / "small"),
    )
    for command in commands:
        result = run_cli(*command)
        assert result.returncode == 2, result.stdout
        (said,) = (line for line in result.stderr.splitlines() if "expected" in line)
        assert "run `pip install 'tledge[micro]'`" in said


def test_a_kit_says_what_the_interpreter_needs(run: Path, kit: Path) -> None:
    content = json.loads((kit / "kit.json").read_text())
    (item,) = content["artefacts"]
    assert (item["name"], item["runtime"], item["input_dtype"]) == ("micro-int8", "litert-micro", "int8")
    settings = (kit / "model_settings.h").read_text()
    assert f"kArenaBytes = {item['arena']['bytes']};" in settings
    assert "kInputZeroPoint = -128;" in settings
    assert f"kOutputZeroPoint = {item['output']['zero_point']};" in settings
    assert '"digit 0",\n    "digit 1",\n    "digit 7",' in settings
    resolver = (kit / "resolver.h").read_text()
    assert f"MicroMutableOpResolver<{len(item['operators'])}>" in resolver
    assert resolver.count("resolver.Add") == len(item["operators"])
    assert {"CONV_2D", "FULLY_CONNECTED", "SOFTMAX"} <= set(item["operators"])
    there = {path.relative_to(kit).as_posix() for path in kit.rglob("*") if path.is_file()}
    assert there == {*content["files"], "kit.json", "SHA256SUMS"}
    assert {name: sha256_file(kit / name) for name in content["files"]} == content["files"]
    for number, image in enumerate(content["images"]):
        label, _ = tledge.predict(run / "export" / "micro-int8.tflite", [kit / image["png"]])[0].ranking[0]
        assert content["labels"][item["top1"][number]] == label


@pytest.mark.parametrize("compiler", COMPILERS, ids=["C", "gcc C++", "g++"])
def test_the_sources_compile_and_hold_the_same_bytes(kit: Path, tmp_path: Path, compiler: tuple[str, ...]) -> None:
    if shutil.which(compiler[0]) is None or shutil.which("g++") is None:
        pytest.skip(f"{compiler[0]} is not installed")
    for name in ("model_data", "golden"):
        command = [*compiler, *STRICT, "-c", kit / f"{name}.cc", "-o", tmp_path / f"{name}.o"]
        subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "print.cc").write_text(PRINT)
    command = ["g++", *STRICT, f"-I{kit}", tmp_path / "print.cc", tmp_path / "model_data.o", "-o", tmp_path / "print"]
    subprocess.run(command, check=True)
    printed = subprocess.run([tmp_path / "print"], check=True, capture_output=True).stdout
    assert printed == (kit / "models" / "micro-int8.tflite").read_bytes()
    table = subprocess.run(["nm", tmp_path / "model_data.o"], check=True, capture_output=True, text=True).stdout
    (place,) = re.findall(r"^([0-9a-f]+) R tledge_model$", table, re.MULTILINE)
    assert int(place, 16) % 16 == 0


def test_golden_vectors_are_the_images_and_their_answers(kit: Path) -> None:
    content = json.loads((kit / "kit.json").read_text())
    text = (kit / "golden.cc").read_text()
    inputs, outputs = (
        [np.array(re.findall(r"\d+", row), np.uint8) for row in re.findall(r"\{\n([^{}]+)\n\}", part)]
        for part in re.split(r"tledge_golden_\w+\[\d+\]\[\d+\] = ", text)[1:]
    )
    assert len(inputs) == len(outputs) == len(content["images"])
    (item,) = content["artefacts"]
    for image, pixels, answer, expected in zip(content["images"], inputs, outputs, item["expected"], strict=True):
        assert np.array_equal(pixels, np.fromfile(kit / image["rgb"], np.uint8) ^ 128)
        values = (answer.view(np.int8).astype(float) - item["output"]["zero_point"]) * item["output"]["scale"]
        assert values == pytest.approx(expected, abs=1e-5)


def test_a_second_kit_is_the_same_to_the_byte(run: Path, kit: Path, tmp_path: Path) -> None:
    tledge.kit(run, tmp_path / "again.zip", target="microcontroller")
    assert sha256_file(tmp_path / "again.zip") == sha256_file(kit.parent / "micro.zip")


def test_boards_have_an_arena_and_one_int8_file(tmp_path: Path) -> None:
    for name in BOARDS:
        target = load_target(name)
        assert target.is_microcontroller
        assert target.recipe_names == ("micro-int8",)
    assert not load_target("raspberry-pi-5").is_microcontroller
    source = (recipe_folder() / "targets" / "esp32-s3.toml").read_text()
    for change, message in (
        (("arena_kb = 256", "arena_kb = 256\nmemory_mb = 1"), "but got both"),
        (("arena_kb = 256\n", ""), "but got none"),
        (
            (
                'recipe = "micro-int8"\ninput = "int8"\noutput = "int8"',
                'recipe = "onnx-int8"\ninput = "uint8"\noutput = "float32"',
            ),
            "one tflite int8 recipe beside",
        ),
    ):
        path = tmp_path / "mine.toml"
        path.write_text(source.replace(*change))
        with pytest.raises(RecipeError, match=message) as caught:
            load_target(str(path))
        assert "\n" not in str(caught.value)


def test_integers_in_and_out_are_a_matter_of_int8_tflite(tmp_path: Path) -> None:
    assert load_recipes(("micro-int8",))[0].input_dtype == "int8"
    for text in (
        'format = "onnx"\nprecision = "int8"\nio = "int8"\n[calibration]\nimages = 6\n',
        'format = "tflite"\nprecision = "float32"\nio = "int8"\n',
    ):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        with pytest.raises(RecipeError, match="only in tflite int8 recipes"):
            load_recipes((str(path),))


def test_names_of_operators_and_labels_in_c() -> None:
    names = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "MEAN", "BATCH_MATMUL", "RELU6", "PADV2", "ADD_N")
    assert [adder_of(name) for name in names] == [
        *("Conv2D", "DepthwiseConv2D", "MaxPool2D", "Mean", "BatchMatMul", "Relu6", "PadV2", "AddN")
    ]
    assert _literal('a "b"\\ é?') == '"a \\042b\\042\\134 \\303\\251\\077"'
