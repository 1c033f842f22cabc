"""Kits: the same every time, whole or refused, and able to run where neither tledge nor TensorFlow is."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tledge
from tests.conftest import converted, run_cli
from tests.core.test_escaping import harmless
from tledge.benchmark.conditions import load_notes
from tledge.conversion.recipe import DEFAULT_RECIPES, recipe_folder
from tledge.core.errors import SettingsError, VerificationError
from tledge.core.files import sha256_file
from tledge.data.decode import resize

pytest.importorskip("tensorflow")

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
QUICK = ("--rounds", "2", "--samples", "2", "--warmup", "1", "--threads", "1")


@pytest.fixture(scope="module")
def kit_zip(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tledge.kit(finished_run, tmp_path_factory.mktemp("kits") / "kit.zip").path


@pytest.fixture
def kit(kit_zip: Path, tmp_path: Path) -> Path:
    """An unpacked kit that a test may damage."""
    folder = tmp_path / "kit"
    with zipfile.ZipFile(kit_zip) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def device(kit: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tledge_device", kit / "tledge_device.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_device(kit: Path, *arguments: str, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    """The device's Python file as a user starts it, without tledge on the path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), str(kit / "tledge_device.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=kit, timeout=600, check=False)


def said_in_one_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("tledge_device: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


def rewrite(kit: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change kit.json as somebody would who packs a kit: with its digest."""
    content = json.loads((kit / "kit.json").read_text())
    change(content)
    text = json.dumps(content)
    (kit / "kit.json").write_text(text)
    (kit / "SHA256SUMS").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  kit.json\n")


def test_packed_twice_is_the_same_to_the_byte(finished_run: Path, kit_zip: Path, tmp_path: Path) -> None:
    result = run_cli("kit", finished_run, "-o", tmp_path / "again.zip")
    assert result.returncode == 0, result.stderr
    assert sha256_file(kit_zip) in result.stdout
    assert sha256_file(tmp_path / "again.zip") == sha256_file(kit_zip)


def test_a_kit_is_what_its_manifest_says(finished_run: Path, kit: Path) -> None:
    content = json.loads((kit / "kit.json").read_text())
    there = {path.relative_to(kit).as_posix() for path in kit.rglob("*") if path.is_file()}
    assert there == {*content["files"], "kit.json", "SHA256SUMS"}
    assert {name: sha256_file(kit / name) for name in content["files"]} == content["files"]
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=kit, check=True)
    assert len((kit / "SHA256SUMS").read_text().splitlines()) == len(there) - 1
    assert {artefact["name"] for artefact in content["artefacts"]} == set(DEFAULT_RECIPES)
    assert (kit / "labels.txt").read_text().splitlines() == content["labels"] == ["digit 0", "digit 1", "digit 7"]
    assert {image["label"] for image in content["images"]} == set(content["labels"])
    for number, image in enumerate(content["images"]):
        raw = np.fromfile(kit / image["rgb"], np.uint8).reshape(32, 32, 3)
        assert np.array_equal(raw, np.asarray(Image.open(kit / image["png"])))
        for artefact in content["artefacts"]:
            wanted = tledge.predict(finished_run / "export" / Path(artefact["file"]).name, [kit / image["png"]])
            label, probability = wanted[0].ranking[0]
            assert content["labels"][artefact["top1"][number]] == label
            assert max(artefact["expected"][number]) == pytest.approx(probability, abs=1e-5)
    assert str(finished_run) not in (kit / "kit.json").read_text()


def test_the_device_code_needs_only_numpy_and_a_runtime() -> None:
    tree = ast.parse((recipe_folder() / "device" / "tledge_device.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    others = {"numpy", "ai_edge_litert", "onnxruntime", "PIL", "tledge_resize"}
    assert found - set(sys.stdlib_module_names) == others


def test_bench_verifies_and_measures_without_tledge_and_tensorflow(kit: Path) -> None:
    code = (
        "import json, runpy, sys\n"
        f"sys.argv = ['tledge_device.py', 'bench', *{QUICK!r}]\n"
        "try:\n    runpy.run_path('tledge_device.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=kit, env=env, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr
    loaded = {name.split(".")[0] for name in json.loads(result.stderr.splitlines()[-1])}
    assert not loaded & {"tledge", "tensorflow", "keras", "PIL"}
    assert {"numpy", "onnxruntime", "ai_edge_litert"} <= loaded
    report = json.loads(result.stdout)
    assert {item["name"] for item in report["verified"]} == set(DEFAULT_RECIPES)
    assert all(item["max_difference"] < 1e-4 for item in report["verified"])
    assert report["skipped"] == report["over_limits"] == []
    assert {item["name"] for item in report["results"]} == set(DEFAULT_RECIPES)
    for item in report["results"]:
        assert (item["n"], len(item["samples_ms"]), item["threads"], item["batch"]) == (4, 2, 1, 1)
        latency = item["latency_ms"]
        assert 0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"]
        assert item["load_ms"] > 0
        assert item["first_ms"] > 0
        assert item["peak_rss_mb"] > item["model_rss_mb"] > 0
    assert report["environment"]["machine"]["cores"] >= 1
    assert set(report["environment"]["before"]) == set(report["environment"]["after"])
    assert 0 <= report["environment"]["other_cores"] <= os.cpu_count()


def test_the_numbers_have_the_names_of_bench_json(run_copy: Path, kit: Path) -> None:
    """So that a report can take either."""
    measured = json.loads(on_device(kit, "bench", *QUICK).stdout)["results"][0]
    tledge.bench(run_copy, rounds=1, samples=1, warmup=0, threads=1)
    ours = json.loads((run_copy / "bench.json").read_text())["results"][0]
    only_here = {"speedup_vs_keras", "speedup_interval_95", "stable", "energy_j", "energy_interval_95"}
    assert set(ours) - set(measured) == only_here
    assert set(measured) <= set(ours)
    assert set(measured["latency_ms"]) == set(ours["latency_ms"])


def test_bench_refuses_what_is_damaged(kit: Path) -> None:
    model = kit / "models" / "onnx-int8.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    result = on_device(kit, "bench", *QUICK)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "expected models/onnx-int8.onnx as kit.json describes it" in said_in_one_line(result)


def test_bench_refuses_other_answers(kit: Path) -> None:
    def turn(content: dict[str, Any]) -> None:
        content["artefacts"][0]["expected"][1].reverse()

    rewrite(kit, turn)
    result = on_device(kit, "bench", *QUICK)
    assert (result.returncode, result.stdout) == (1, "")
    assert "expected answers of onnx-float32 for images/01.rgb within 0.001" in said_in_one_line(result)


def test_a_changed_or_missing_manifest_is_refused(kit: Path) -> None:
    text = (kit / "kit.json").read_text()
    (kit / "kit.json").write_text(text.replace("0.1", "0.9", 1))
    result = on_device(kit, "bench")
    assert result.returncode == 1
    assert "kit.json as it was packed" in said_in_one_line(result)
    (kit / "kit.json").unlink()
    assert on_device(kit, "bench").returncode == 2


def test_damaged_digests_are_refused(kit: Path) -> None:
    (kit / "SHA256SUMS").write_bytes(b"\xff\xfe")
    result = on_device(kit, "bench")
    assert result.returncode == 2
    assert "unpack it whole" in said_in_one_line(result)


def test_memory_over_the_target_s_limit_fails_and_is_reported(kit: Path) -> None:
    rewrite(kit, lambda content: content.update(target={"name": "thimble", "memory_mb": 1}))
    result = on_device(kit, "bench", *QUICK)
    assert result.returncode == 1
    assert len(json.loads(result.stdout)["over_limits"]) == len(DEFAULT_RECIPES)
    assert "at most 1 MB of memory" in said_in_one_line(result)


def test_classify(kit: Path) -> None:
    content = json.loads((kit / "kit.json").read_text())
    images = [image[kind] for image in content["images"] for kind in ("png", "rgb")]
    for artefact in content["artefacts"]:
        result = on_device(kit, "classify", "--model", artefact["name"], "--top", "1", *images)
        assert result.returncode == 0, result.stderr
        named = [line.split("\t")[1].rpartition(" ")[0] for line in result.stdout.splitlines()]
        assert named == [content["labels"][index] for index in artefact["top1"] for _ in range(2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("classify", "nowhere.png"), "expected an image, but nowhere.png is no file"),
        (("classify", "nowhere.rgb"), "expected an image, but nowhere.rgb is no file"),
        (("classify", "kit.json"), "expected an image"),
        (("classify", "short.rgb"), "expected 32 x 32 x 3 bytes"),
        (("classify", "--model", "tflite-int4", "images/00.rgb"), "expected --model as one of"),
        (("classify",), "IMAGE"),
        (("bench", "--rounds", "0"), "whole number above 0"),
        (("bench", "--threads", "100000"), "the cores available here"),
        (("dance",), "invalid choice"),
        ((), "command"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(kit: Path, arguments: tuple[str, ...], message: str) -> None:
    (kit / "short.rgb").write_bytes(b"abc")
    result = on_device(kit, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in said_in_one_line(result)


def test_without_a_runtime_its_models_are_skipped(
    kit: Path, device: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    there, skipped = device.runnable(device.read_kit())
    assert {artefact["runtime"] for artefact in there} == {"litert"}
    assert {item["reason"] for item in skipped} == {"onnxruntime is not installed"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(device.UsageError, match="ai-edge-litert is not installed and onnxruntime is not installed"):
        device.runnable(device.read_kit())


def test_a_runtime_that_does_not_load_is_skipped_with_its_reason(kit: Path) -> None:
    broken = kit / "onnxruntime"  # found first, beside the program
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')\n")
    result = on_device(kit, "classify", "--model", "onnx-int8", "images/00.rgb")
    assert (result.returncode, result.stdout) == (2, "")
    assert "onnxruntime cannot be imported (libgomp.so.1: cannot open" in said_in_one_line(result)
    assert on_device(kit, "classify", "images/00.rgb").returncode == 0


def test_no_numpy_and_an_old_python_are_one_line_each(kit: Path) -> None:
    program = str(kit / "tledge_device.py")
    old = f"import runpy, sys; sys.version_info = (3, 9, 2); runpy.run_path({program!r}, run_name='__main__')"
    for command, says in (
        (["-I", "-S", program, "bench"], "expected numpy, but No module named 'numpy'; install it as README.md says"),
        (["-c", old], "expected Python 3.10 or later"),
    ):
        result = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=kit, check=False)
        assert (result.returncode, result.stdout) == (2, "")
        assert says in said_in_one_line(result)


def test_names_are_no_commands(kit: Path) -> None:
    rewrite(kit, lambda content: content.update(labels=["\u202egod", "##[error]b", "c"]))
    name = "::error::a\n::add-mask::b\x1b[2J.rgb"
    (kit / name).write_bytes((kit / "images" / "00.rgb").read_bytes())
    result = on_device(kit, "classify", "--model", "onnx-int8", name)
    assert result.returncode == 0, result.stderr
    harmless(result.stdout.replace("\t", " "))
    (kit / name).write_bytes(b"")
    result = on_device(kit, "classify", "--model", "onnx-int8", name)
    harmless(said_in_one_line(result))


def test_pictures_that_are_none(kit: Path) -> None:
    """A PNG file of a terapixel, which Pillow has an exception of its own for."""
    header = struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (kit / "huge.png").write_bytes(content + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    result = on_device(kit, "classify", "--model", "onnx-int8", "huge.png")
    assert result.returncode == 2
    assert "huge.png cannot be read" in said_in_one_line(result)


def test_labels_that_the_terminal_cannot_show(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(kit, lambda content: content.update(labels=["Äpfel", "日本", "Äpfel 2"]))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = on_device(kit, "classify", "--model", "onnx-int8", "images/00.rgb")
    assert result.returncode == 0, result.stderr
    assert "\\u65e5\\u672c" in result.stdout


def test_onnxruntime_reports_to_nobody(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORT_DISABLE_TELEMETRY", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert on_device(kit, "classify", "--model", "onnx-int8", "images/00.rgb").returncode == 0
    tool = [sys.executable, "-m", "tledge", "predict", kit / "models" / "onnx-int8.onnx", kit / "images" / "00.png"]
    assert subprocess.run(tool, capture_output=True, check=False).returncode == 0
    assert not (tmp_path / "cache" / "Microsoft").exists()


def test_condition_is_read_where_the_machine_tells_it_and_never_invented(
    device: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    silent = device.condition(str(tmp_path / "sys"))
    assert len(silent) == 6
    assert set(silent.values()) == {None}
    told = {
        "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000\n",
        "class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "class/thermal/thermal_zone0/temp": "48200\n",
        "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4\n",
        "class/thermal/cooling_device0/type": "cpufreq-cpu0\n",
        "class/thermal/cooling_device0/cur_state": "2\n",
    }
    for name, text in told.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = tmp_path / "vcgencmd"
    command.write_text("#!/bin/sh\necho throttled=0x50000\n")
    command.chmod(0o755)
    assert device.condition(str(tmp_path / "sys")) == {
        "governor": "ondemand",
        "frequency_mhz": [1800, 600],
        "temperature_c": {"thermal_zone0 cpu-thermal": 48.2},
        "throttled_flags": "0x50000",
        "throttle_count": 7,
        "cooling_state": 2,
    }


def test_other_work_is_told_from_the_measurement_s_own(device: ModuleType) -> None:
    burn = [sys.executable, "-c", "import time\nwhile time.process_time() < 1.5: pass"]
    before = device.processor_seconds()
    subprocess.run(burn, check=True)
    after = device.processor_seconds()
    assert 1.4 < after[2] - before[2] < 3
    assert after[1] - before[1] > 1.3
    assert device.cores_of_others((0, 100, 50), (10, 118, 60)) == 0.8
    assert device.cores_of_others(None, after) is None
    for enough, said in ((None, 0), (0.29, 0), (0.5, 1)):
        assert len(load_notes(enough)) == said


def test_a_kit_for_a_target_exports_what_is_missing(run_copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(run_copy / "export")
    result = run_cli("kit", run_copy, "--target", "android", "-o", tmp_path / "phone.zip", "--images", "3")
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(tmp_path / "phone.zip") as archive:
        content = json.loads(archive.read("kit.json"))
    assert [artefact["name"] for artefact in content["artefacts"]] == ["tflite-int8", "tflite-float16", "ort-int8"]
    assert content["target"]["name"] == "android"
    assert content["threads"] == [1, 2, 4]
    assert len(content["images"]) == 3


def test_no_kit_where_it_cannot_be(run_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"a place for a \.zip file"):
        tledge.kit(run_copy, tmp_path / "kit.tar")
    with pytest.raises(SettingsError, match="at least 1 image"):
        tledge.kit(run_copy, tmp_path / "kit.zip", images=0)
    tight = tmp_path / "tight.toml"
    text = (recipe_folder() / "targets" / "coral-edgetpu.toml").read_text()
    tight.write_text(text.replace("size_mb = 8", "size_mb = 0.24"))
    with pytest.raises(VerificationError, match="no kit was written"):
        tledge.kit(run_copy, tmp_path / "kit.zip", target=str(tight))
    assert not (tmp_path / "kit.zip").exists()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cmake") or not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("needs cmake and a C++ compiler")
    build = tmp_path_factory.mktemp("build")
    for command in (["cmake", "-S", recipe_folder() / "device" / "cpp", "-B", build], ["cmake", "--build", build]):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr.lower(), done.stderr
    return build / "classify"


def library_of(module: str, pattern: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    found = sorted(Path(spec.origin).parent.glob(pattern))
    if not found:
        pytest.skip(f"this {module} carries no {pattern}")
    return found[0]


@pytest.mark.parametrize(
    ("runtime", "module", "pattern"),
    [("onnxruntime", "onnxruntime", "capi/libonnxruntime.so*"), ("litert", "ai_edge_litert", "libLiteRt.so")],
)
def test_the_c_program_gives_the_same_answers(
    kit: Path, classifier: Path, runtime: str, module: str, pattern: str
) -> None:
    content = json.loads((kit / "kit.json").read_text())
    library = library_of(module, pattern)
    images = [str(kit / image["rgb"]) for image in content["images"]]
    artefacts = [artefact for artefact in content["artefacts"] if artefact["runtime"] == runtime]
    assert artefacts
    for artefact in artefacts:
        command = [classifier, library, kit / artefact["file"], kit / "labels.txt", *images]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert [row[0] for row in rows] == images
        assert [int(row[1]) for row in rows] == artefact["top1"], artefact["name"]
        assert [row[2] for row in rows] == [content["labels"][index] for index in artefact["top1"]]
        best = [max(answers) for answers in artefact["expected"]]
        np.testing.assert_allclose([float(row[3]) for row in rows], best, atol=1e-3)


@pytest.mark.parametrize(
    ("fmt", "module", "pattern"),
    [("onnx", "onnxruntime", "capi/libonnxruntime.so*"), ("tflite", "ai_edge_litert", "libLiteRt.so")],
)
def test_the_c_program_tells_height_from_width(
    classifier: Path, fmt: str, module: str, pattern: str, tmp_path: Path
) -> None:
    keras = pytest.importorskip("keras")
    pixels = keras.Input((8, 12, 3))
    scores = keras.layers.Dense(3, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(0, 0.01, 1))
    model = keras.Model(pixels, scores(keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(pixels))))
    path, image = tmp_path / f"model.{fmt}", tmp_path / "image.rgb"
    path.write_bytes(converted(fmt, "float32", model, ("a", "b", "c")))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    noise = np.random.default_rng(3).integers(0, 256, (1, 8, 12, 3)).astype(np.uint8)
    image.write_bytes(noise.tobytes())
    command = [classifier, library_of(module, pattern), path, tmp_path / "labels.txt", image]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = np.asarray(model(noise.astype(np.float32)))[0]
    assert done.stdout.split("\t")[1:3] == [str(expected.argmax()), "abc"[expected.argmax()]]
    assert float(done.stdout.split("\t")[3]) == pytest.approx(expected.max(), abs=1e-4)

    for name, shown in (
        ("a\x1b[2J", r"a\x1b[2J"),
        ("\u202eb\x85", r"\u202eb\x85"),
        ("猫", "猫"),
        ("\udcffb", r"\xffb"),
    ):
        (tmp_path / "hostile.txt").write_text(f"{name}\n" * 3, errors="surrogateescape")
        hostile = [*map(str, command[:3]), str(tmp_path / "hostile.txt"), str(image)]
        done = subprocess.run(hostile, capture_output=True, text=True, check=False)
        assert done.stdout.split("\t")[2] == shown
    picture = np.random.default_rng(4).integers(0, 256, (31, 20, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.ppm")
    done = subprocess.run([*map(str, command[:-1]), str(tmp_path / "picture.ppm")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = np.asarray(model(resize(Image.fromarray(picture), (8, 12))[np.newaxis].astype(np.float32)))[0]
    assert float(done.stdout.split("\t")[3]) == pytest.approx(expected.max(), abs=1e-4)


def test_the_c_program_refuses_bad_input(kit: Path, classifier: Path) -> None:
    library = library_of("onnxruntime", "capi/libonnxruntime.so*")
    model, labels, image = kit / "models" / "onnx-int8.onnx", kit / "labels.txt", kit / "images" / "00.rgb"
    broken = kit / "broken.onnx"
    broken.write_bytes(model.read_bytes()[:1000])
    cut, deep = kit / "cut.ppm", kit / "deep.ppm"
    cut.write_bytes(b"P6 # a comment\n4 4 255\n" + bytes(47))
    deep.write_bytes(b"P6 4 4 65535\n" + bytes(96))
    for arguments, code in (
        ((library, model, labels), 2),
        ((library, model, labels, kit / "labels.txt"), 2),
        ((library, model, labels, kit / "images"), 2),
        ((library, model, kit / "images", image), 2),
        ((library, model, image, image), 2),
        ((library, model, labels, cut), 2),
        ((library, model, labels, deep), 2),
        ((library, kit / "none.onnx", labels, image), 2),
        ((library, labels, labels, image), 2),
        ((kit / "none.so", model, labels, image), 1),
        ((library, broken, labels, image), 1),
    ):
        done = subprocess.run([str(classifier), *map(str, arguments)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (code, ""), (arguments, done.stderr)
        assert done.stderr.startswith("classify: ")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["ai-edge-litert", "onnxruntime"])
def test_a_clean_environment_with_one_runtime(kit: Path, tmp_path: Path, runtime: str) -> None:
    venv = tmp_path / "venv"
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), "numpy", runtime]
    subprocess.run(pip, check=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    size_mb = sum(path.stat().st_size for path in venv.rglob("*") if path.is_file()) / 1e6
    print(f"{runtime}: {size_mb:.0f} MB, {time.monotonic() - started:.0f} s")
    result = on_device(kit, "bench", *QUICK, python=python)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    expected = {name for name in DEFAULT_RECIPES if name.startswith("onnx") == (runtime == "onnxruntime")}
    assert {item["name"] for item in report["results"]} == expected
    assert {item["name"] for item in report["verified"]} == expected
    assert {item["name"] for item in report["skipped"]} == set(DEFAULT_RECIPES) - expected
    assert set(report["environment"]["versions"]) == {"python", "numpy", runtime}
