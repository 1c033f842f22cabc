"""Files of small graphs: float ones equal Keras, integer ones compute in integers and stay close, all repeat."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import converted
from tests.conversion.small_graphs import LABELS, MAKERS, SPLIT, images_of
from tledge.conversion.calibration import Calibration, calibrate
from tledge.conversion.format import ExportRequest
from tledge.conversion.registry import FORMATS
from tledge.core.errors import ArtefactError
from tledge.core.types import INTEGER_PRECISIONS, Precision
from tledge.formats.operators import TFLITE_MATRIX_OPS, OpCount, count_onnx_ops, count_tflite_ops
from tledge.formats.tflite import operators_of
from tledge.model.graph import Graph
from tledge.model.inference import inference_graph
from tledge.runtimes import open_classifier

keras = pytest.importorskip("keras")
pytest.importorskip("onnx")

IMAGES = images_of(12)
FORMS: list[tuple[str, Precision]] = [("tflite", "int8"), ("tflite", "int8x16"), ("onnx", "int8")]

INTEGER_MATRIX_OPS = {
    *("QLinearConv int8", "QGemm int8"),
    *("CONV_2D int8", "DEPTHWISE_CONV_2D int8", "FULLY_CONNECTED int8"),
}

each = pytest.mark.parametrize("name", MAKERS)


@dataclass(frozen=True)
class Subject:
    """A model's graph, what Keras answers for `IMAGES`, their ranges, and the float models that files are made from."""

    graph: Graph
    expected: np.ndarray
    calibration: Calibration
    float_models: dict[str, Any]

    def written(self, folder: Path, fmt: str, precision: Precision, **options: Any) -> Path:
        if fmt not in self.float_models:
            self.float_models[fmt] = FORMATS[fmt].float_model(self.graph)
        request = ExportRequest(
            name=precision,
            precision=precision,
            graph=self.graph,
            float_model=self.float_models[fmt],
            labels=LABELS,
            lineage={"tledge": "0"},
            calibration=self.calibration if precision in INTEGER_PRECISIONS else None,
            **options,
        )
        path = folder / f"{precision}.{fmt}"
        path.write_bytes(FORMATS[fmt].convert(request))
        return path


@cache
def made(name: str) -> Subject:
    model = (MAKERS | SPLIT)[name]()
    graph = inference_graph(model)
    expected = model.predict(IMAGES.astype(np.float32), verbose=0)
    return Subject(graph, expected, calibrate(graph, IMAGES), {})


def ops_of(path: Path) -> OpCount:
    return count_tflite_ops(path) if path.suffix == ".tflite" else count_onnx_ops(path)


@pytest.mark.parametrize("name", [*MAKERS, *SPLIT])
def test_float_files_equal_keras(name: str, tmp_path: Path) -> None:
    subject = made(name)
    for fmt in ("tflite", "onnx"):
        answers = open_classifier(subject.written(tmp_path, fmt, "float32")).predict(IMAGES)
        np.testing.assert_allclose(answers, subject.expected, atol=1e-5, err_msg=fmt)
    for precision, tolerance in (("float16", 5e-3), ("dynamic", 0.05)):
        answers = open_classifier(subject.written(tmp_path, "tflite", precision)).predict(IMAGES)
        np.testing.assert_allclose(answers, subject.expected, atol=tolerance, err_msg=precision)


@pytest.mark.parametrize(("fmt", "precision"), FORMS)
@each
def test_integer_files_compute_in_integers_and_stay_close(
    name: str, fmt: str, precision: Precision, tmp_path: Path
) -> None:
    subject = made(name)
    path = subject.written(tmp_path, fmt, precision)
    ops = ops_of(path)
    matrix = len(subject.graph.matrix_layers)
    if fmt == "onnx":
        assert sum(count for op, count in ops.by_dtype.items() if op in INTEGER_MATRIX_OPS) == matrix
    elif precision == "int8":
        assert ops.int8_share == 1.0, ops.by_dtype
    else:
        # LiteRT has no hard swish of 16 bits: that one operator computes in float32.
        floats = {op.partition(" ")[0] for op in ops.by_dtype if op.endswith("float32")}
        assert floats == {"DEQUANTIZE", *(["HARD_SWISH"] if name == "hard-swish" else [])}
        assert (ops.int8_matrix_ops, ops.int8_weight_share) == (matrix, 1.0)
    answers = open_classifier(path).predict(IMAGES)
    tolerance = 0.02 if precision == "int8x16" else 0.06
    assert np.ptp(subject.expected, axis=0).max() > tolerance
    np.testing.assert_allclose(answers, subject.expected, atol=tolerance)


@pytest.mark.parametrize(("fmt", "precision"), FORMS)
@pytest.mark.parametrize("name", SPLIT)
def test_integer_files_of_layers_that_become_several_operators(
    name: str, fmt: str, precision: Precision, tmp_path: Path
) -> None:
    subject = made(name)
    answers = open_classifier(subject.written(tmp_path, fmt, precision)).predict(IMAGES)
    assert np.ptp(subject.expected, axis=0).max() > 0.3
    np.testing.assert_allclose(answers, subject.expected, atol=0.02 if precision == "int8x16" else 0.15)


@pytest.mark.parametrize("name", SPLIT)
def test_their_onnx_files_take_any_batch(name: str, tmp_path: Path) -> None:
    subject = made(name)
    classifier = open_classifier(subject.written(tmp_path, "onnx", "float32"))
    for batch in (1, 5):
        classifier.prepare(IMAGES[:batch])
        np.testing.assert_allclose(classifier.predict(IMAGES[:batch]), subject.expected[:batch], atol=1e-5)


def test_what_a_format_cannot_hold_is_one_line(tmp_path: Path) -> None:
    """Recurrent layers become loops, of which the quantizer knows nothing and tf2onnx makes a graph that is refused."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((32, 32, 3))
    steps = keras.layers.LSTM(4)(keras.layers.Reshape((32, 96))(pixels))
    graph = inference_graph(keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(steps)))
    subject = Subject(graph, np.empty(0), calibrate(graph, IMAGES[:2]), {})
    with pytest.raises(ArtefactError, match="TFLite can hold in this precision, but it cannot") as refused:
        subject.written(tmp_path, "tflite", "int8")
    assert "\n" not in str(refused.value)
    with pytest.raises(ArtefactError, match="tf2onnx converts, but it does not") as refused:
        subject.written(tmp_path, "onnx", "float32")
    assert "\n" not in str(refused.value)


def test_dynamic_files_leave_depthwise_convolutions_in_float(tmp_path: Path) -> None:
    subject = made("depthwise")
    path = subject.written(tmp_path, "tflite", "dynamic")
    assert count_tflite_ops(path).int8_weight_share == 1.0
    matrix = [op for op in operators_of(path.read_bytes()) if op.name in TFLITE_MATRIX_OPS]
    kernels = {(op.name, op.inputs[1].dtype) for op in matrix}
    assert kernels == {("CONV_2D", "INT8"), ("DEPTHWISE_CONV_2D", "FLOAT32"), ("FULLY_CONNECTED", "INT8")}


@pytest.mark.parametrize(("fmt", "precision"), FORMS)
def test_two_conversions_are_the_same_to_the_byte(fmt: str, precision: Precision) -> None:
    first, second = (converted(fmt, precision, MAKERS["squeeze-excite"](), LABELS, IMAGES) for _ in range(2))
    assert first == second


def test_the_order_of_nodes_does_not_depend_on_what_was_converted_before() -> None:
    graph = inference_graph(SPLIT["attention"]())
    protos = [FORMATS["onnx"].float_model(graph).proto.SerializeToString(deterministic=True) for _ in range(3)]
    assert protos[0] == protos[1] == protos[2]


@pytest.mark.parametrize(("fmt", "precision"), FORMS)
def test_any_batch_gives_the_same_answers(fmt: str, precision: Precision, tmp_path: Path) -> None:
    subject = made("depthwise")
    classifier = open_classifier(subject.written(tmp_path, fmt, precision))
    one_by_one = np.concatenate([classifier.predict(image[None]) for image in IMAGES])
    np.testing.assert_allclose(classifier.predict(IMAGES), one_by_one, atol=1e-6)
    assert classifier.labels == LABELS


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
@pytest.mark.parametrize("layer", ["stem", "depthwise", "prediction"])
def test_one_layer_in_float_between_integers(fmt: str, layer: str, tmp_path: Path) -> None:
    subject = made("depthwise")
    whole, mixed = (
        subject.written(folder, fmt, "int8", float_layers=chosen)
        for folder, chosen in ((tmp_path / "whole", ()), (tmp_path / "mixed", (layer,)))
        if not folder.mkdir()
    )
    integers = [
        sum(count for op, count in ops_of(path).by_dtype.items() if op in INTEGER_MATRIX_OPS) for path in (whole, mixed)
    ]
    assert integers == [len(subject.graph.matrix_layers), len(subject.graph.matrix_layers) - 1]
    np.testing.assert_allclose(open_classifier(mixed).predict(IMAGES), subject.expected, atol=0.06)


@pytest.mark.parametrize(("fmt", "precision"), FORMS)
def test_filters_without_weights_keep_their_bias(fmt: str, precision: Precision, tmp_path: Path) -> None:
    """A step of nothing lets a bias of 32 bits overflow: of a pruned filter, or one that normalization switched off."""
    model = MAKERS["depthwise"]()
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.gamma.assign([0.0, 1e-9, *layer.gamma[2:]])
            layer.beta.assign([2.0, 2.0, *layer.beta[2:]])
    scores = model.get_layer("prediction")
    features = keras.Model(model.input, scores.input)(IMAGES.astype(np.float32))
    scores.bias.assign(-np.mean(features @ scores.kernel, axis=0))
    graph = inference_graph(model)
    subject = Subject(graph, np.asarray(model(IMAGES.astype(np.float32))), calibrate(graph, IMAGES), {})
    assert np.ptp(subject.expected, axis=0).max() > 0.1
    answers = open_classifier(subject.written(tmp_path, fmt, precision)).predict(IMAGES)
    np.testing.assert_allclose(answers, subject.expected, atol=0.06)


def test_seven_bits_of_weights(tmp_path: Path) -> None:
    import onnx

    subject = made("residual")
    path = subject.written(tmp_path, "onnx", "int8", reduce_range=True)
    proto = onnx.load(path)
    kernels = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in proto.graph.initializer
        if tensor.name.endswith("kernel_quantized")
    ]
    assert len(kernels) == len(subject.graph.matrix_layers)
    assert {int(np.abs(kernel.astype(int)).max()) for kernel in kernels} <= {63, 64}


def test_a_fixed_batch(tmp_path: Path) -> None:
    subject = made("branches")
    path = subject.written(tmp_path, "onnx", "int8", batch=1)
    import onnx

    proto = onnx.load(path).graph
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in (*proto.input, *proto.output)] == [1, 1]
