"""The table of docs/devices.md that says which runtime opens which file is true wherever the runtime is installed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import tledge
from tledge.conversion.recipe import DEFAULT_RECIPES
from tledge.core.dependencies import installed
from tledge.core.errors import ArtefactError
from tledge.runs.images import run_images
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.options import RuntimeOptions

pytest.importorskip("tensorflow")

PAGE = Path(__file__).parents[2] / "docs" / "devices.md"
NATIVE = {
    "LiteRT": ("ai_edge_litert", RuntimeOptions()),
    "onnxruntime": ("onnxruntime", RuntimeOptions()),
    "OpenVINO": ("openvino", RuntimeOptions(provider="openvino")),
    "LiteRT Micro": ("tflite_micro", RuntimeOptions(micro=True)),
}
IN_BROWSER = ("onnxruntime-web", "LiteRT.js")
# bfloat16 in OpenVINO, and the rounding of integer kernels that are not the same.
TOLERANCE = 0.02


def table() -> dict[tuple[str, str], str]:
    """What the page says, by file and runtime."""
    (block,) = re.findall(r"<!-- runtimes -->\n\n((?:\|.*\n)+)", PAGE.read_text())
    head, _, *rows = [[cell.strip(" `") for cell in line.strip("|\n ").split("|")] for line in block.splitlines()]
    return {(row[0], runtime): cell for row in rows for runtime, cell in zip(head[1:], row[1:], strict=True)}


def cells(runtimes: tuple[str, ...]) -> list[tuple[str, str, str]]:
    return [(file, runtime, said) for (file, runtime), said in table().items() if runtime in runtimes and said != "–"]


def opened(run: Path, file: str, options: RuntimeOptions) -> ImageClassifier:
    (path,) = (path for path in open_run(run).artefacts() if path.stem == file)
    return open_classifier(path, MODEL_OF_A_RUN, options=options)


def test_every_default_file_has_a_row() -> None:
    assert {file for file, _ in table()} == set(DEFAULT_RECIPES)


@pytest.mark.parametrize(("file", "runtime", "said"), cells(tuple(NATIVE)))
def test_here(file: str, runtime: str, said: str, vgg16_run: Path, digits: Path) -> None:
    package, options = NATIVE[runtime]
    if not installed(package):
        pytest.skip(f"{runtime} is not installed")
    if said == "refused":
        with pytest.raises(ArtefactError, match=rf"{file}.* {runtime} "):
            opened(vgg16_run, file, options)
        return
    run = open_run(vgg16_run, digits)
    images = run_images(run, read_manifest(run), (32,)).stores[32].take(np.arange(12))
    classifier, home = opened(vgg16_run, file, options), opened(vgg16_run, file, RuntimeOptions())
    answers, expected = classifier.predict(images), home.predict(images)
    np.testing.assert_array_equal(answers.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)
    told = classifier.computed()
    if told is not None and told.integer is not None:
        assert said.partition(",")[0] == ("integers" if told.integer > told.operators / 2 else "float")


@pytest.mark.slow
@pytest.mark.usefixtures("every_core")
def test_in_a_browser(run_copy: Path, digits: Path) -> None:
    for program in ("chromium", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    result = tledge.check(run_copy, on=("browser",), data=digits, max_drop=1.0, on_undecided="pass")
    (host,) = result.hosts
    differences = {
        item.name: against.max_probability_difference
        for item, against in zip(host.result.artefacts, host.against_here, strict=True)
    }
    assert set(differences) == {file for file, _, said in cells(IN_BROWSER) if said.startswith("answers")}
    assert max(differences.values()) < TOLERANCE
