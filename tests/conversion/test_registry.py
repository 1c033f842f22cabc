"""A format is added with one module and one line of the registry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tledge
from tledge.conversion.format import Format
from tledge.conversion.recipe import load_recipes
from tledge.conversion.registry import FORMATS, format_of_suffix
from tledge.core.errors import RecipeError
from tledge.formats.operators import count_tflite_ops
from tledge.runtimes import open_classifier

# What a newcomer writes to `tledge/conversion/plain.py`.
PLAIN = '''
"""TFLite without any optimization of the converter."""

from tledge.conversion.format import ExportRequest, Format
from tledge.core.dependencies import quiet, require_tensorflow
from tledge.formats.operators import count_tflite_ops
from tledge.formats.tflite_metadata import ImageClassifierMetadata, embed


def convert(request: ExportRequest) -> bytes:
    tf, _ = require_tensorflow()
    with quiet():
        content = tf.lite.TFLiteConverter.from_keras_model(request.model).convert()
    side = request.model.input_shape[1]
    return embed(content, ImageClassifierMetadata(request.name, "plain", "1", side, request.labels, request.lineage))


FORMAT = Format(suffix=".tflite", precisions=("float32",), convert=convert, count_ops=count_tflite_ops)
'''


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Format:
    """A further format: its module, and its line in the registry."""
    path = tmp_path / "plain.py"
    path.write_text(PLAIN)
    spec = importlib.util.spec_from_file_location("plain", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(FORMATS, "plain", module.FORMAT)
    added: Format = module.FORMAT
    return added


def recipe(folder: Path, text: str) -> str:
    path = folder / "plain-float32.toml"
    path.write_text(f'format = "plain"\n{text}\n')
    return str(path)


def test_a_new_format_exports_and_is_checked(plain: Format, run_copy: Path, tmp_path: Path) -> None:
    (made,) = tledge.export(run_copy, recipes=[recipe(tmp_path, 'precision = "float32"')]).artefacts
    assert made.path == run_copy / "export" / f"plain-float32{plain.suffix}"
    assert (made.sidecar["format"], made.sidecar["precision"]) == ("plain", "float32")
    assert made.sidecar["output"]["dtype"] == "float32"
    images = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), np.uint8)
    reference = open_classifier(run_copy / "model.keras").predict(images)
    np.testing.assert_allclose(open_classifier(made.path).predict(images), reference, atol=1e-5)
    assert tledge.check(run_copy, artefacts=[made.path]).passed
    assert tledge.export(run_copy, recipes=[recipe(tmp_path, 'precision = "float32"')]).artefacts[0].kept


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
    assert plain.calibrate is None
    with pytest.raises(RecipeError, match=message):
        load_recipes((recipe(tmp_path, text),))


def test_a_recipe_of_an_unknown_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"format \(tflite, onnx, ort\)"):
        load_recipes((recipe(tmp_path, 'precision = "float32"'),))


def test_a_format_with_int8_needs_a_calibrator() -> None:
    with pytest.raises(ValueError, match="calibrate with the precision int8"):
        Format(suffix=".x", precisions=("int8",), convert=lambda request: b"", count_ops=count_tflite_ops)


def test_suffixes_are_found_in_any_case() -> None:
    assert format_of_suffix(".TFLITE") is FORMATS["tflite"]
    assert format_of_suffix(".pb") is None
