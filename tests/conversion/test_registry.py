"""A format is added with one module and one line of the registry."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import tledge
from tledge.conversion.format import Format
from tledge.conversion.recipe import load_recipes
from tledge.conversion.registry import FORMATS, format_of_suffix
from tledge.core.errors import RecipeError
from tledge.runtimes import open_classifier

GUIDE = (Path(__file__).parents[2] / "docs" / "extend" / "format.md").read_text()


def of_guide(language: str, number: int) -> str:
    """A block of code of the guide, counted from 0 among those of its language."""
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)[number]


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Format:
    """A further format, as docs/extend/format.md adds it: its module, and its line in the registry."""
    path = tmp_path / "plain.py"
    path.write_text(of_guide("python", 0))
    spec = importlib.util.spec_from_file_location("plain", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line: dict[str, Format] = eval(f"{{{of_guide('python', 1)}}}", {"plain": module})
    for name, added in line.items():
        monkeypatch.setitem(FORMATS, name, added)
    return line["plain"]


def recipe(folder: Path, text: str = of_guide("toml", 0)) -> str:
    path = folder / "plain-float32.toml"
    path.write_text(text)
    return str(path)


def test_a_new_format_exports_and_is_checked(plain: Format, run_copy: Path, tmp_path: Path) -> None:
    (made,) = tledge.export(run_copy, recipes=[recipe(tmp_path)]).artefacts
    assert made.path == run_copy / "export" / f"plain-float32{plain.suffix}"
    assert (made.sidecar.format, made.sidecar.precision) == ("plain", "float32")
    assert made.sidecar.output.dtype == "float32"
    images = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), np.uint8)
    reference = open_classifier(run_copy / "model.keras").predict(images)
    np.testing.assert_allclose(open_classifier(made.path).predict(images), reference, atol=1e-5)
    assert tledge.check(run_copy, artefacts=[made.path], on_undecided="pass").passed
    assert tledge.export(run_copy, recipes=[recipe(tmp_path)]).artefacts[0].kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('precision = "int8"', r"a precision that plain offers \(float32\) in recipe plain-float32"),
        ('precision = "float32"\nbatch = 2', "batch only in onnx and ort recipes, but plain-float32 is plain"),
        (
            'precision = "float32"\n[quantization]\nreduce_range = true',
            "reduce_range only in onnx and ort int8 recipes, but plain-float32 is plain float32",
        ),
    ],
)
def test_recipes_ask_what_the_format_offers(plain: Format, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipes((recipe(tmp_path, f'format = "plain"\n{text}\n'),))


def test_a_recipe_of_an_unknown_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="format as tflite or onnx or ort in"):
        load_recipes((recipe(tmp_path),))


def test_suffixes_are_found_in_any_case() -> None:
    assert format_of_suffix(".TFLITE") is FORMATS["tflite"]
    assert format_of_suffix(".pb") is None
