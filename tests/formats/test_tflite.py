"""Operators of .tflite files: read by LiteRT's helpers, counted, refused when damaged, without TensorFlow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tledge.core.errors import ArtefactError
from tledge.formats.operators import count_tflite_ops
from tledge.formats.tflite import operators_of, parse, read_operators, write_old_operator_codes

pytest.importorskip("ai_edge_litert")

READ_WITHOUT_TENSORFLOW = """
import sys
for package in ("tensorflow", "keras", "onnx"):
    sys.modules[package] = None
from pathlib import Path
from tledge.formats.activation_probe import read_points
from tledge.formats.operators import count_tflite_ops
from tledge.formats.tflite_metadata import read_labels, read_lineage, read_summary
path = Path(sys.argv[1])
content = path.read_bytes()
print(read_labels(content), read_lineage(content)["recipe"], read_summary(content)["name"])
print(count_tflite_ops(path).int8_share, sorted(read_points(path, ["subtract_mean", "block1_conv1", "prediction"])))
"""


@pytest.fixture
def int8_file(finished_run: Path) -> Path:
    return finished_run / "export" / "tflite-int8.tflite"


def test_operators_with_their_tensors(int8_file: Path) -> None:
    operators = read_operators(int8_file)
    first = next(op for op in operators if op.name == "CONV_2D")
    pixels, kernel, bias = first.inputs
    assert (pixels.shape, kernel.shape, bias.shape) == ((1, 32, 32, 3), (8, 3, 3, 3), (8,))
    assert (pixels.dtype, kernel.dtype, bias.dtype) == ("INT8", "INT8", "INT32")
    assert first.options["dilationWFactor"] == first.options["dilationHFactor"] == 1
    (output,) = first.outputs
    assert any(op.inputs[0] == output for op in operators), "the next operator takes it"
    (mean,) = (op for op in operators if op.name == "MEAN")
    assert mean.axes == (1, 2)


def test_operators_have_their_code_where_older_readers_look(int8_file: Path) -> None:
    model = parse(int8_file.read_bytes())
    assert [code.deprecatedBuiltinCode for code in model.operatorCodes] == [
        code.builtinCode for code in model.operatorCodes
    ]
    assert not write_old_operator_codes(model)
    model.operatorCodes[-1].deprecatedBuiltinCode = 0
    assert write_old_operator_codes(model)
    assert model.operatorCodes[-1].deprecatedBuiltinCode == model.operatorCodes[-1].builtinCode


def test_counts_follow_from_the_operators(int8_file: Path) -> None:
    counted, operators = count_tflite_ops(int8_file), read_operators(int8_file)
    assert sum(counted.by_dtype.values()) == len(operators)
    assert counted.by_dtype["CONV_2D int8"] == 13
    assert (counted.matrix_ops, counted.int8_matrix_ops, counted.int8_weight_share) == (14, 14, 1.0)


def test_what_is_no_whole_file_is_refused(int8_file: Path, tmp_path: Path) -> None:
    content = int8_file.read_bytes()
    for size in (0, 4, 8, 9, 64, 1000, len(content) // 2):
        with pytest.raises(ArtefactError):
            operators_of(content[:size])
    other = tmp_path / "other.tflite"
    other.write_bytes(b"\x08\x00\x00\x00ONNX")
    with pytest.raises(ArtefactError, match=r"other\.tflite is something else"):
        read_operators(other)


def test_several_graphs_are_refused(int8_file: Path, tmp_path: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    tree = parse(int8_file.read_bytes())
    tree.subgraphs = [*tree.subgraphs, *tree.subgraphs]
    path = tmp_path / "two.tflite"
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(tree))
    with pytest.raises(ArtefactError, match="but it has 2; use a classifier"):
        read_operators(path)


def test_a_device_needs_neither_tensorflow_nor_onnx(int8_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_TENSORFLOW, str(int8_file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "('digit 0', 'digit 1', 'digit 7') tflite-int8 tflite-int8",
        "1.0 ['block1_conv1', 'prediction', 'subtract_mean']",
    ]
