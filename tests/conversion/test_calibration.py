"""Calibration: ranges are those of the layers, and every tensor of a converted graph finds its own again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.conversion.small_graphs import MAKERS, SIDE, SPLIT, images_of, tensors_of_onnx, tensors_of_tflite
from tledge.conversion import onnx as onnx_format
from tledge.conversion import tflite as tflite_format
from tledge.conversion.calibration import PIXELS, Fingerprint, Range, calibrate, calibration_of
from tledge.model.graph import Graph
from tledge.model.inference import inference_graph

keras = pytest.importorskip("keras")
pytest.importorskip("onnx")
layers = keras.layers

IMAGES = images_of(6)


def outputs_of_layers(graph: Graph, images: np.ndarray) -> dict[str, np.ndarray]:
    """By call what Keras computes for it."""
    found: dict[str, np.ndarray] = {}

    def keep(call: Any, result: Any) -> Any:
        found[call.name] = np.asarray(result)
        return result

    graph.run(images.astype(np.float32), keep)
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_ranges_are_the_extremes_of_the_layers(name: str) -> None:
    graph = inference_graph(MAKERS[name]())
    steps: list[tuple[int, int]] = []
    calibration = calibrate(graph, IMAGES, progress=lambda done, total: steps.append((done, total)))
    for call, values in outputs_of_layers(graph, IMAGES).items():
        expected = (values.min(), values.max())
        np.testing.assert_allclose(calibration.ranges[call], expected, rtol=1e-4, atol=1e-5, err_msg=call)
    assert calibration.ranges[PIXELS] == (0.0, 255.0)
    assert steps[0][0] == 0
    assert steps[-1] == (6, 6)


def require_extremes(ranges: dict[str, Range], tensors: dict[str, np.ndarray], leave: set[str]) -> None:
    """Every float tensor that a file computes has the range that it really takes on the calibration images."""
    floats = {name: values for name, values in tensors.items() if values.dtype == np.float32 and name not in leave}
    assert floats.keys() <= ranges.keys()
    for name, values in floats.items():
        atol = 1e-3 * float(np.abs(values).max()) + 1e-5  # which is what nothing looks like after rounding
        np.testing.assert_allclose(ranges[name], (values.min(), values.max()), atol=atol, err_msg=name)


@pytest.mark.parametrize("name", MAKERS)
def test_every_tensor_of_a_tflite_file_has_its_range(name: str) -> None:
    graph = inference_graph(MAKERS[name]())
    model = tflite_format.float_model(graph)
    require_extremes(model.ranges(calibrate(graph, IMAGES)), tensors_of_tflite(model.content, IMAGES), set())


@pytest.mark.parametrize("name", MAKERS)
def test_every_tensor_of_an_onnx_graph_has_its_range(name: str) -> None:
    graph = inference_graph(MAKERS[name]())
    model = onnx_format.float_model(graph)
    ranges = model.ranges(calibrate(graph, IMAGES))
    clamped = {node.input[0]: node.output[0] for node in model.proto.graph.node if node.op_type in ("Relu", "Clip")}
    require_extremes(ranges, tensors_of_onnx(model.proto, IMAGES), set(clamped))
    # Rounding clamps as well, so a tensor in front of a ReLU needs no more than what comes out of it.
    for before, after in clamped.items():
        assert ranges[before] == ranges[after]


@pytest.mark.parametrize("name", SPLIT)
def test_tensors_that_a_converter_made_of_its_own_are_measured(name: str) -> None:
    graph = inference_graph(SPLIT[name]())
    calibration = calibrate(graph, IMAGES)
    written, proto = tflite_format.float_model(graph), onnx_format.float_model(graph)
    require_extremes(written.ranges(calibration), tensors_of_tflite(written.content, IMAGES), set())
    require_extremes(proto.ranges(calibration), tensors_of_onnx(proto.proto, IMAGES), set())


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_other_methods_lie_inside_the_extremes_and_repeat(method: Any) -> None:
    graph = inference_graph(MAKERS["squeeze-excite"]())
    widest = calibrate(graph, IMAGES).ranges
    first, second = (calibrate(graph, IMAGES, method).ranges for _ in range(2))
    assert first == second
    assert set(first) == set(widest)
    for name, (low, high) in first.items():
        lowest, highest = min(0.0, widest[name][0]), max(0.0, widest[name][1])
        assert lowest - 1e-6 <= low <= high <= highest + 1e-6, name
    assert any(high < widest[name][1] or low > widest[name][0] for name, (low, high) in first.items())


def test_an_outlier_is_cut_off() -> None:
    pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(3, 1, name="mixed", use_bias=False, kernel_initializer=mixed)(pixels)
    graph = inference_graph(keras.Model(pixels, layers.GlobalAveragePooling2D()(x)))
    images = np.random.default_rng(0).integers(0, 40, (16, SIDE, SIDE, 3), np.uint8)
    images[0, 3, 3] = 255
    highest, percentile, least_error = (
        calibrate(graph, images, method).ranges["mixed"][1] for method in ("min-max", "percentile", "mse")
    )
    assert highest == pytest.approx(255)
    assert 30 < percentile < 40
    # Three values of 49,152 are worth about 2 % of the range: more would cost them more than it gives the others.
    assert 0.93 * 255 < least_error < 0.995 * 255


def mixed(shape: Any, dtype: Any = None) -> Any:
    """A kernel that makes fractions of whole numbers; all equal, they stay as they are."""
    shares = np.asarray([[0.71, 0.18, 0.11], [0.13, 0.67, 0.2], [0.16, 0.15, 0.69]])
    return keras.ops.convert_to_tensor((shares / shares.sum(0)).reshape(shape), dtype)


def test_known_ranges_are_taken_where_they_are_complete() -> None:
    graph = inference_graph(MAKERS["residual"]())
    measured = calibrate(graph, IMAGES).ranges
    known = {name: (low - 1, high + 1) for name, (low, high) in measured.items()}
    assert calibrate(graph, IMAGES, known=known).ranges == known
    del known[next(iter(known))]
    assert calibrate(graph, IMAGES, known=known).ranges == measured


def test_ranges_that_training_learned_find_their_tensors() -> None:
    graph = inference_graph(MAKERS["chain"]())
    given = {call.name: (-float(index), 10.0 + index) for index, call in enumerate(graph.calls)}
    calibration = calibration_of(graph, given, IMAGES)
    found = set(tflite_format.float_model(graph).ranges(calibration).values())
    assert {given[graph.activated[name].name] for name in graph.matrix_layers[:-1]} <= found
    assert found <= {*given.values(), (0.0, 255.0)}


def test_fingerprints() -> None:
    tensor = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    mark = Fingerprint.of(tensor)
    assert mark.distance(Fingerprint.of(tensor.transpose(0, 3, 1, 2).reshape(2, -1))) < 1e-6
    assert mark.distance(Fingerprint.of(tensor * (1 + 1e-5))) < 1e-4
    assert mark.distance(Fingerprint.of(tensor + 0.1)) > 1e-3
    assert mark.distance(Fingerprint.of(tensor[::-1])) > 1e-3
    zeros = Fingerprint.of(np.zeros((2, 3), np.float32))
    assert zeros.distance(zeros) == 0
