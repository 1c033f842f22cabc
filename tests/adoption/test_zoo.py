"""Models as tutorials make them, through everything: adopted, exported, checked, measured, packed, diagnosed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.adoption.zoo import TUTORIALS, Tutorial, data_of, trained
from tests.conftest import run_cli
from tests.integration.sabotage import FaultContext
from tledge.conversion.recipe import DEFAULT_RECIPES
from tledge.data import open_rgb, resize
from tledge.model.graph import Graph
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run, sidecar_of

pytest.importorskip("keras")
pytest.importorskip("onnx")
pytestmark = pytest.mark.slow

FLOAT = ("tflite-float32", "tflite-float16", "onnx-float32")
FLOAT32 = ("tflite-float32", "onnx-float32")
FLOAT32_DIFFERENCE = 5e-5
INT8 = ("tflite-int8", "onnx-int8")
# Depthwise layers and swish: what int8 is known to be hard on.
HARD = ("mobilenet-v2", "mobilenet-v3", "efficientnet-b0")
LARGEST_DROP = 0.05
# After one epoch: whether a method works on the net, not how well.
LARGEST_DROP_OF_A_METHOD = 0.15
METHODS: Mapping[str, tuple[object, ...]] = {
    "low-rank": ("--speedup", 1.3),
    "prune": ("--sparsity", 0.3),
    "cluster": ("--clusters", 32),
    "qat": (),
}
CHAINS = ("vgg-on-flatten", "vgg-frozen", "vgg-features", "sequential-vgg", "sequential-rescaling")
# What TFMOT does not quantize: products of tensors, and normalization in front of a convolution.
REFUSED: Mapping[str, Mapping[str, str]] = {
    "qat": {
        "mobilenet-v3": "hard_silu",
        "efficientnet-b0": "Multiply",
        "resnet50-v2": "Rescaling",
        "one-sigmoid": "Rescaling",
    }
}


@dataclass(frozen=True)
class Adopted:
    """A run of a tutorial's model with the six default files, and images that nothing of it saw."""

    tutorial: Tutorial
    run: Path
    unseen: Path

    def artefact(self, recipe: str) -> Path:
        return next(path for path in open_run(self.run).artefacts() if path.stem == recipe)


@pytest.fixture(scope="module", params=TUTORIALS, ids=lambda tutorial: tutorial.name)
def adopted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adopted:
    tutorial: Tutorial = request.param
    folder = tmp_path_factory.mktemp(tutorial.name)
    seen, unseen = data_of(tutorial, folder)
    model = trained(tutorial, seen, folder)
    said = ["--input", tutorial.input, *(["--output", tutorial.output] if tutorial.output else [])]
    done = run_cli("adopt", model, "--data", seen, "--out", folder / "run", *said)
    assert done.returncode == 0, done.stderr
    done = run_cli("export", folder / "run")
    assert done.returncode == 0, done.stderr
    return Adopted(tutorial, folder / "run", unseen)


def test_files_keep_the_accuracy(adopted: Adopted, record_property: Callable[[str, object], None]) -> None:
    result = tledge.check(adopted.run, data=adopted.unseen, max_drop=0.5, on_undecided="pass")
    assert {item.path.stem for item in result.artefacts} == set(DEFAULT_RECIPES)
    assert result.reference_accuracy.value > 0.8, "a model that knows little has little to lose"
    for item in result.artefacts:
        about = f"{adopted.tutorial.name} {item.path.stem}, n = {result.n}"
        record_property(about, f"drop {item.drop.value:+.4f}, largest difference {item.max_probability_difference:.2g}")
        if item.path.stem in FLOAT32:
            assert item.max_probability_difference <= FLOAT32_DIFFERENCE, item.name
        if item.path.stem in FLOAT:
            assert item.agreement.value >= 0.99, item.name
            assert item.drop.value <= 0.01, item.name
            assert {gate.verdict for gate in item.gates if gate.name == "float_differs"} <= {"pass"}
        else:
            assert item.drop.value <= LARGEST_DROP, item.name


def test_integer_files_are_integer_and_small(adopted: Adopted) -> None:
    size = adopted.artefact("tflite-float32").stat().st_size
    for recipe in INT8:
        sidecar = json.loads(sidecar_of(adopted.artefact(recipe)).read_text())
        assert sidecar["int8_op_share"] > (0.99 if recipe.startswith("tflite") else 0.6)
        assert adopted.artefact(recipe).stat().st_size < max(0.5 * size, 20_000)


def test_a_file_is_measured_beside_the_model(adopted: Adopted) -> None:
    result = tledge.bench(adopted.run, threads=2, rounds=2, samples=2, artefacts=[adopted.artefact("tflite-int8")])
    reference, file = result.measurements
    assert file.latency_ms["p50"] < reference.latency_ms["p50"]


def test_a_kit_answers_on_its_own(adopted: Adopted, tmp_path: Path) -> None:
    kit = tledge.kit(adopted.run, tmp_path / "kit.zip")
    with zipfile.ZipFile(kit.path) as archive:
        archive.extractall(tmp_path / "kit")
    side = adopted.tutorial.side_px
    picture = next(iter(sorted((adopted.unseen / "digit 1").iterdir())))
    (tmp_path / "one.rgb").write_bytes(np.asarray(resize(open_rgb(picture), side), np.uint8).tobytes())
    [program] = (tmp_path / "kit").rglob("tledge_device.py")
    done = subprocess.run(
        [sys.executable, "-I", str(program), "classify", "--model", "tflite-float32", str(tmp_path / "one.rgb")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers = run_cli("predict", adopted.artefact("tflite-float32"), picture)
    names = read_manifest(open_run(adopted.run)).classes
    best = max(names, key=lambda name: _score(answers.stdout, name))
    assert best in done.stdout.strip().splitlines()[0]


def _score(text: str, name: str) -> float:
    rest = text.partition(name)[2].split()
    return next((float(word.rstrip("%")) for word in rest if word.rstrip("%").replace(".", "").isdigit()), 0.0)


@pytest.mark.parametrize("recipe", ["tflite-float32", "onnx-int8"])
def test_a_damaged_layer_is_named(adopted: Adopted, recipe: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    broken: list[str] = []

    def scrambled(graph: Graph) -> Graph:
        calls = [call for call in graph.calls if call.kind == "Conv2D"]
        call = calls[len(calls) // 2]
        kernel, *rest = call.layer.get_weights()
        call.layer.set_weights([rng.permutation(kernel.ravel()).reshape(kernel.shape), *rest])
        broken.append(call.name)
        return replace(graph)

    context = FaultContext(adopted.run, adopted.run, tmp_path, rng)
    path = context.deliver(recipe, "scrambled", context.convert(recipe, scrambled))
    found = tledge.diagnose(adopted.run, path)
    assert found.cause == "damaged-layer", found.sentence
    assert broken[0] in found.sentence
    healthy = tledge.diagnose(adopted.run, adopted.artefact("tflite-float32"))
    assert healthy.cause == "none", healthy.sentence


@pytest.mark.parametrize("method", METHODS)
def test_methods_take_it_or_say_which_layer_they_do_not_take(adopted: Adopted, method: str, tmp_path: Path) -> None:
    if adopted.tutorial.name in CHAINS:
        pytest.skip("VGG16's chain is what all other tests of the methods are about")
    out = tmp_path / "smaller"
    done = run_cli("optimize", adopted.run, "--method", method, "--epochs", 1, *METHODS[method], "--out", out)
    if (refused := REFUSED.get(method, {}).get(adopted.tutorial.name)) is not None:
        assert done.returncode == 2
        assert refused in done.stderr.strip().splitlines()[-1]
        assert not out.exists()
        return
    assert done.returncode == 0, done.stderr
    done = run_cli("export", out, "--recipe", "tflite-int8", "--recipe", "onnx-int8")
    assert done.returncode == 0, done.stderr
    for item in tledge.check(out, data=adopted.unseen, max_drop=0.5, on_undecided="pass").artefacts:
        assert item.drop.value <= LARGEST_DROP_OF_A_METHOD, item.name


@pytest.mark.parametrize("recipe", INT8)
def test_a_drop_is_held(adopted: Adopted, recipe: str) -> None:
    """Last, since it writes the file anew."""
    if adopted.tutorial.name not in HARD:
        pytest.skip("int8 loses little here")

    def drop() -> float:
        file = [adopted.artefact(recipe)]
        result = tledge.check(adopted.run, artefacts=file, data=adopted.unseen, max_drop=0.5, on_undecided="pass")
        return result.artefacts[0].drop.value

    before = drop()
    done = run_cli("export", adopted.run, "--recipe", recipe, "--max-drop", 0.01, "--force")
    assert done.returncode == 0, done.stderr
    after = drop()
    facts = json.loads(sidecar_of(adopted.artefact(recipe)).read_text())
    assert facts["accuracy_aware"]["max_drop"] == 0.01
    assert after <= before + 0.01
    if not facts.get("float_layers"):
        assert after == before, "nothing returned to float, so the file is the same"
