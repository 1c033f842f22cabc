"""Diagnose: the guilty layer stands first, JSON and errors are as promised; causes are tried in test_sabotage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.conftest import run_cli
from tledge.core.errors import ArtefactError
from tledge.diagnosis.answers import FaultHypotheses, explain_answers
from tledge.diagnosis.layers import SQNR_LIMITS_DB, sqnr_db
from tledge.runtimes import open_classifier

onnx = pytest.importorskip("onnx")

LAYERS = 15  # the first convolution's input, 13 convolutions, the prediction


def damage(run: Path, layer: str, share: float) -> Path:
    """Shuffle a share of a layer's weights in an ONNX artefact that has no sidecar."""
    path = run / "export" / "onnx-float32.onnx"
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == f"{layer}/kernel")
    values = onnx.numpy_helper.to_array(tensor).copy()
    flat = values.ravel()
    rng = np.random.default_rng(0)
    chosen = rng.permutation(flat.size)[: int(share * flat.size)]
    flat[chosen] = flat[rng.permutation(chosen)]
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    path.with_suffix(".json").unlink()
    return path


@pytest.mark.parametrize(
    ("layer", "share"),
    [
        ("block1_conv2", 0.3),
        pytest.param("block4_conv1", 1.0, marks=pytest.mark.slow),
        pytest.param("prediction", 1.0, marks=pytest.mark.slow),
    ],
)
def test_the_guilty_layer_stands_first(run_copy: Path, layer: str, share: float) -> None:
    diagnosis = tledge.diagnose(run_copy, damage(run_copy, layer, share))
    assert diagnosis.cause == "damaged-layer", diagnosis.sentence
    assert diagnosis.sentence.startswith(layer)
    assert diagnosis.layers[0].name == layer
    assert len(diagnosis.layers) == LAYERS
    # Only the layer itself is to blame, although all after it are wrong too.
    assert all(other.own_sqnr_db > 60 for other in diagnosis.layers[1:])
    assert diagnosis.layers[0].fall_db > 20


def test_integer_layers_know_their_ranges(vgg16_run: Path) -> None:
    for name in ("tflite-int8.tflite", "onnx-int8.onnx"):
        diagnosis = tledge.diagnose(vgg16_run, vgg16_run / "export" / name)
        assert diagnosis.cause == "none"
        for layer in diagnosis.layers:
            assert layer.range_ratio == pytest.approx(1, abs=1e-4), layer.name
            assert layer.clipped is not None
            assert layer.clipped < 0.001
            assert layer.own_sqnr_db > 25


@pytest.mark.parametrize("name", ["tflite-float16.tflite", "tflite-dynamic.tflite"])
def test_other_precisions_are_healthy(finished_run: Path, name: str) -> None:
    assert tledge.diagnose(finished_run, finished_run / "export" / name).cause == "none"


def test_command_prints_a_sentence_and_writes_json(finished_run: Path, tmp_path: Path) -> None:
    target = tmp_path / "diagnosis.json"
    path = finished_run / "export" / "tflite-float32.tflite"
    completed = run_cli("diagnose", finished_run, path, "--json", target)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines()[-1].startswith("none: ")
    assert "block5_conv3" in completed.stdout
    written = json.loads(target.read_text())
    assert written["cause"] == "none"
    assert len(written["layers"]) == LAYERS
    assert {"own_sqnr_db", "fall_db", "cosine", "clipped"} <= written["layers"][0].keys()


def test_what_is_no_artefact_is_refused(finished_run: Path, tmp_path: Path) -> None:
    text = tmp_path / "model.tflite"
    text.write_text("no model")
    for path in (text, tmp_path / "missing.onnx", finished_run / "model.keras"):
        completed = run_cli("diagnose", finished_run, path)
        assert completed.returncode == 2
        assert len(completed.stderr.splitlines()) == 1
        assert "expected" in completed.stderr


def test_explanations_need_answers_to_the_same_images(finished_run: Path) -> None:
    artefact = open_classifier(finished_run / "export" / "onnx-float32.onnx")
    images = np.zeros((2, 32, 32, 3), np.uint8)
    answers = artefact.predict(images)
    reference = open_classifier(finished_run / "model.keras")
    with pytest.raises(ArtefactError, match="same images"):
        explain_answers("float32", reference, images, answers[:1], answers, FaultHypotheses(tuple("abc")))


def test_sqnr_by_hand() -> None:
    assert sqnr_db(100, 1) == pytest.approx(20)
    assert sqnr_db(1, 0) == SQNR_LIMITS_DB[1]
    assert sqnr_db(float("nan"), 1) == sqnr_db(1, float("inf")) == SQNR_LIMITS_DB[0]
