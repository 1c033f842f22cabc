"""Kits on 64-bit ARM Linux, emulated whole: the same answers as here. How long they take there says nothing.

The image is built once, into $TLEDGE_ARM64_CACHE or pytest's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tledge
from tests.conftest import write_digits
from tests.deployment.arm64_board import SITE, WHEELS, Board, Image, boot, build_image, missing_packages
from tledge.conversion.recipe import recipe_folder
from tledge.core.environment import cpu
from tledge.core.errors import RemoteError

pytestmark = [
    pytest.mark.arm64,
    pytest.mark.skipif(bool(missing_packages()), reason=f"needs Debian's packages {' '.join(missing_packages())}"),
]
VNNI = {"avx512_vnni", "avx_vnni"}
# What QEMU emulates, as which instructions its kernels must and must not find there.
CPUS = {
    "cortex-a72": (set(), {"asimddp", "i8mm"}),  # Raspberry Pi 4: no dot product
    "cortex-a76": ({"asimddp"}, {"i8mm"}),  # Raspberry Pi 5
    "max,sme=off,pauth-impdef=on": ({"asimddp", "i8mm", "sve"}, set()),  # all there is but matrix tiles
}
LIBRARIES = {
    "onnxruntime": f"/{SITE}/onnxruntime/capi/libonnxruntime.so.*",
    "litert": f"/{SITE}/ai_edge_litert/libLiteRt.so",
}


@dataclass(frozen=True)
class Deliverable:
    """A run with int8 files only, and the kit made of it."""

    run: Path
    kit: Path
    content: dict[str, Any]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Deliverable:
    folder = tmp_path_factory.mktemp("int8")
    # Ten classes in three epochs leave it in doubt: answers of 0 and 1 would be the same on any machine.
    digits = write_digits(folder / "digits", 12, tuple(range(10)))
    tledge.train(digits, technique="feature-extraction", out=folder / "run", image_size=32, epochs=3)
    recipes = ["tflite-int8", "onnx-int8"]
    # The answers to compare with are made here, and with all 8 bits they overflow where there is no VNNI.
    recipes += ["onnx-int8-full-range"] if VNNI & set(cpu()[1]) else []
    tledge.export(folder / "run", recipes=recipes)
    kit = tledge.kit(folder / "run", folder / "kit.zip")
    for artefact in kit.manifest["artefacts"]:
        best = [max(answers) for answers in artefact["expected"]]
        assert min(best) < 0.9, f"{artefact['name']} is too sure of itself to show a difference"
    assert {artefact["name"] for artefact in kit.manifest["artefacts"]} == set(recipes)
    return Deliverable(folder / "run", kit.path, kit.manifest)


@pytest.fixture(scope="module")
def image(pytestconfig: pytest.Config) -> Image:
    chosen = os.environ.get("TLEDGE_ARM64_CACHE")
    started = time.monotonic()
    built = build_image(Path(chosen) if chosen else pytestconfig.cache.mkdir("arm64"))
    print(f"image: {built.initrd.stat().st_size / 1e6:.0f} MB, after {time.monotonic() - started:.0f} s")
    return built


@pytest.fixture(scope="module", params=CPUS)
def board(image: Image, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    started = time.monotonic()
    with boot(image, request.param, tmp_path_factory.mktemp("board")) as running:
        print(f"{request.param}: up after {time.monotonic() - started:.0f} s")
        yield running


def test_bench_on_gives_the_answers_of_this_machine(
    int8: Deliverable, board: Board, request: pytest.FixtureRequest
) -> None:
    (line,) = [line for line in board.log.read_text().splitlines() if line.startswith("board: ")]
    print(line)
    assert "aarch64" in line
    tledge.bench_on(int8.run, board.url, ssh_config=board.config, rounds=1, samples=1, warmup=1)
    (entry,) = json.loads((int8.run / "bench.json").read_text())["hosts"][-1:]
    assert entry["on"] == board.url
    machine, versions = entry["environment"]["machine"], entry["environment"]["versions"]
    print(f"{machine['architecture']}, {machine['cores']} cores, {' '.join(machine['cpu_flags'])}, {versions}")
    assert (machine["architecture"], machine["cores"]) == ("aarch64", 2)
    present, absent = CPUS[request.node.callspec.params["board"]]
    assert present <= set(machine["cpu_flags"])
    assert not absent & set(machine["cpu_flags"])
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text().split()
    assert {f"{package}=={versions[package]}" for package in WHEELS} <= set(constraints)
    assert entry["skipped"] == []
    expected = {artefact["name"]: artefact for artefact in int8.content["artefacts"]}
    assert {item["name"]: item["sha256"] for item in entry["results"]} == {
        name: artefact["sha256"] for name, artefact in expected.items()
    }
    assert {item["name"] for item in entry["verified"]} == set(expected)
    for item in entry["verified"]:
        print(item)
        assert item["images"] == len(int8.content["images"])
        assert item["max_difference"] <= expected[item["name"]]["tolerance"]


def test_check_on_judges_the_answers_of_the_board(int8: Deliverable, board: Board) -> None:
    here = tledge.check(int8.run, on_undecided="pass")
    there = tledge.check(int8.run, on=board.url, ssh_config=board.config, on_undecided="pass")
    (host,) = there.hosts
    assert host.environment.machine.architecture == "aarch64"
    assert there.n == here.n
    for item, local, against in zip(host.result.artefacts, here.artefacts, host.against_here, strict=True):
        print(f"{item.name}: {item.accuracy.value:.3f} there, {local.accuracy.value:.3f} here, {against}")
        assert item.name == local.name
        assert item.sha256 == local.sha256
        assert against.max_probability_difference <= 0.1, "what rounding explains"
        assert against.reason == ""
        assert abs(item.accuracy.value - local.accuracy.value) <= against.other_class / there.n


@pytest.fixture(scope="module")
def kit_there(int8: Deliverable, board: Board) -> str:
    """A folder on the board with the kit unpacked."""
    board.run("mkdir -p /root/kit && cat > /root/kit.zip", int8.kit.read_bytes())
    board.run("python3 -m zipfile -e /root/kit.zip /root/kit")
    return "/root/kit"


def test_classify_names_the_same_classes(int8: Deliverable, board: Board, kit_there: str) -> None:
    """The answers themselves, compared here and not by the code that is under test there."""
    labels = int8.content["labels"]
    images = " ".join(item["rgb"] for item in int8.content["images"])
    for artefact in int8.content["artefacts"]:
        options = f"--model {artefact['name']} --top {len(labels)}"
        said = board.run(f"cd {kit_there} && python3 tledge_device.py classify {options} {images}")
        answers = np.zeros((len(int8.content["images"]), len(labels)))
        for row, line in zip(answers, said.splitlines(), strict=True):
            for part in line.split("\t")[1:]:
                name, _, probability = part.rpartition(" ")
                row[labels.index(name)] = float(probability)
        difference = np.abs(answers - np.asarray(artefact["expected"])).max()
        print(f"{artefact['name']}: at most {difference:.4f} apart over {len(answers)} images")
        assert answers.argmax(axis=1).tolist() == artefact["top1"]
        assert difference <= artefact["tolerance"]


def test_another_architecture_is_refused(int8: Deliverable, board: Board) -> None:
    with pytest.raises(RemoteError, match=r"expected x86_64 .* but it is aarch64"):
        tledge.bench_on(int8.run, board.url, ssh_config=board.config, target="linux-x86-vnni")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's C++ program, built here for ARM by Debian's compiler."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None or shutil.which("cmake") is None:
        pytest.skip("needs Debian's packages cmake and g++-aarch64-linux-gnu")
    build = tmp_path_factory.mktemp("build")
    source = recipe_folder() / "device" / "cpp"
    system = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}"]
    for command in (["cmake", "-S", source, "-B", build, *system], ["cmake", "--build", build]):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr.lower(), done.stderr
    return build / "classify"


def test_the_c_program_names_the_same_classes(
    int8: Deliverable, board: Board, kit_there: str, classifier: Path
) -> None:
    board.run("cat > /root/classify && chmod +x /root/classify", classifier.read_bytes())
    for artefact in int8.content["artefacts"]:
        library = LIBRARIES[artefact["runtime"]]
        said = board.run(f"cd {kit_there} && /root/classify {library} {artefact['file']} labels.txt images/*.rgb")
        rows = [line.split("\t") for line in said.splitlines()]
        assert [row[0] for row in rows] == [item["rgb"] for item in int8.content["images"]]
        assert [int(row[1]) for row in rows] == artefact["top1"]
        best = [max(answers) for answers in artefact["expected"]]
        difference = np.abs(np.asarray([float(row[3]) for row in rows]) - best).max()
        print(f"{artefact['name']}: at most {difference:.4f} apart over {len(rows)} images")
        assert difference <= artefact["tolerance"]
