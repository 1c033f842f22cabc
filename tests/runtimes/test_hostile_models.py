"""Model files that are damaged or mean harm: one line that names the file, whatever a runtime raises, and in time."""

from __future__ import annotations

import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import run_cli
from tledge.adoption.reference import open_layers
from tledge.benchmark import bench_files
from tledge.benchmark.measure import Subject, Worker
from tledge.core.errors import ArtefactError, TledgeError, WeightsError
from tledge.core.user_folders import cache_folder
from tledge.model.weight_files import read_trunk
from tledge.runtimes import open_classifier, probe
from tledge.runtimes.declared import Declaration, parse_input
from tledge.runtimes.files import require_openable
from tledge.runtimes.keras_files import load_model

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

BYTES = ("--input", "0..255")


def onnx_file(path: Path, nodes: list[Any], *, shape: tuple[Any, ...] = (1, 3, 8, 8), constants: Any = ()) -> Path:
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 3))
    graph = helper.make_graph(nodes, "g", [pixels], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def classifier(path: Path, **options: Any) -> Path:
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
    ]
    return onnx_file(path, [*nodes, helper.make_node("Softmax", ["flat"], ["scores"])], **options)


def looping(path: Path) -> Path:
    """A loop that counts to 2^60 before it answers."""
    state = [helper.make_tensor_value_info(name, kind, ()) for name, kind in (("i", 7), ("c", 9), ("x", 1))]
    made = [helper.make_tensor_value_info(name, kind, ()) for name, kind in (("c2", 9), ("x2", 1))]
    steps = [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Sin", ["x"], ["x2"])]
    body = helper.make_graph(steps, "body", state, made)
    constants = [numpy_helper.from_array(np.int64(2**60), "n"), numpy_helper.from_array(np.bool_(True), "yes")]
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Loop", ["n", "yes", "mean"], ["last"], body=body),
        helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Add", ["flat", "last"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["scores"]),
    ]
    return onnx_file(path, nodes, constants=constants)


def swelling(path: Path) -> Path:
    """A graph that asks for four terabytes."""
    size = numpy_helper.from_array(np.array([10**12], np.int64), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["much"]),
        helper.make_node("ReduceMean", ["much"], ["mean"]),
        helper.make_node("GlobalAveragePool", ["pixels"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Add", ["flat", "mean"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["scores"]),
    ]
    return onnx_file(path, nodes, constants=[size])


def tflite_file(path: Path) -> Path:
    """Mean over the sides, then a softmax: the smallest classifier."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    tools = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")

    def tensor(name: str, shape: tuple[int, ...], buffer: int, kind: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name, list(shape), buffer, kind
        made.quantization = schema.QuantizationParametersT()
        return made

    def operator(code: int, inputs: list[int], output: int, options: Any, kind: int) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, inputs, [output]
        made.builtinOptions, made.builtinOptionsType = options, kind
        return made

    mean, softmax = schema.ReducerOptionsT(), schema.SoftmaxOptionsT()
    mean.keepDims, softmax.beta = False, 1.0
    graph = schema.SubGraphT()
    graph.name, graph.inputs, graph.outputs = "main", [0], [3]
    types = schema.TensorType
    graph.tensors = [
        tensor("pixels", (1, 8, 8, 3), 1, types.FLOAT32),
        tensor("axes", (2,), 2, types.INT32),
        tensor("mean", (1, 3), 3, types.FLOAT32),
        tensor("scores", (1, 3), 4, types.FLOAT32),
    ]
    graph.operators = [
        operator(0, [0, 1], 2, mean, schema.BuiltinOptions.ReducerOptions),
        operator(1, [2], 3, softmax, schema.BuiltinOptions.SoftmaxOptions),
    ]
    model = schema.ModelT()
    model.version, model.description, model.subgraphs = 3, "mean", [graph]
    model.operatorCodes = []
    for builtin in (schema.BuiltinOperator.MEAN, schema.BuiltinOperator.SOFTMAX):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 1
        model.operatorCodes.append(code)
    model.buffers = [schema.BufferT() for _ in range(5)]
    model.buffers[2].data = np.array([1, 2], np.int32).view(np.uint8)
    path.write_bytes(bytes(tools.convert_object_to_bytearray(model)))
    return path


def refused(path: Path, picture: Path) -> str:
    """What `predict` and `inspect` say of a file: one line with exit code 2."""
    said = ""
    for words in (("predict", path, picture), ("inspect", path)):
        ended = run_cli(*words, *BYTES)
        assert ended.returncode == 2, (words, ended.stdout, ended.stderr)
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert path.name in ended.stderr
        said += ended.stderr
    return said


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_the_files_that_are_changed_here_are_good(tmp_path: Path, picture: Path) -> None:
    for path in (classifier(tmp_path / "a.onnx"), tflite_file(tmp_path / "a.tflite")):
        ended = run_cli("predict", path, picture, *BYTES)
        assert ended.returncode == 0, ended.stderr


def test_names_that_are_no_text(tmp_path: Path, picture: Path) -> None:
    path = classifier(tmp_path / "x.onnx")
    path.write_bytes(path.read_bytes().replace(b"pixels", b"\xff\xfeixel"))
    refused(path, picture)


@pytest.mark.parametrize("shape", [(1, 3, 200_000, 200_000), (1, 3, 8, 9000), (1, 3, 0, 0), (0, 3, 8, 8)])
def test_shapes_that_no_picture_has(shape: tuple[int, ...], tmp_path: Path, picture: Path) -> None:
    path = classifier(tmp_path / "x.onnx", shape=shape)
    form = Declaration(default=parse_input("0..255"))
    with pytest.raises(ArtefactError, match=r"x\.onnx"):
        open_classifier(path, form)


def test_a_tflite_file_whose_input_has_no_data(tmp_path: Path, picture: Path) -> None:
    path = tflite_file(tmp_path / "x.tflite")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    tools = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")
    model = tools.convert_bytearray_to_object(path.read_bytes())
    for change in ("no operators", "an output that nobody makes", "an operator that nobody knows"):
        graph = model.subgraphs[0]
        if change == "no operators":
            graph.operators = []
        elif change == "an output that nobody makes":
            graph.operators = graph.operators[:1]
        else:
            code = model.operatorCodes[0]
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        path.write_bytes(bytes(tools.convert_object_to_bytearray(model)))
        refused(path, picture)
        model = tools.convert_bytearray_to_object(tflite_file(tmp_path / "y.tflite").read_bytes())


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_flipped_bits_end_in_one_line_or_an_answer(suffix: str, tmp_path: Path, picture: Path, probe: None) -> None:
    make = classifier if suffix == ".onnx" else tflite_file
    whole, random = make(tmp_path / f"x{suffix}").read_bytes(), np.random.default_rng(7)
    for number in range(4):
        content = bytearray(whole)
        for _ in range(3):
            content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
        path = tmp_path / f"x{number}{suffix}"
        path.write_bytes(content)
        ended = run_cli("predict", path, picture, *BYTES)
        assert ended.returncode in (0, 2), ended.stderr
        assert ended.returncode == 0 or path.name in ended.stderr


def test_a_loop_without_end_is_given_up(
    tmp_path: Path, picture: Path, probe: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tledge.core import trial as module

    monkeypatch.setattr(module, "TIME_LIMIT_S", 2.0)
    started = time.monotonic()
    assert "still busy after 2 s" in refused(looping(tmp_path / "x.onnx"), picture)
    assert time.monotonic() - started < 12


def endless(path: Path) -> Path:
    """A file in HDF5 with one wrong bit, in the length of a text, over which its library searches for ever."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("block1_conv1/kernel", data=np.zeros((3, 3, 3, 64), np.float32))
        names = [f"layer_{number}/kernel" for number in range(40)]
        file["block1_conv1"].attrs.create("weight_names", names, dtype=h5py.string_dtype())
    content = bytearray(path.read_bytes())
    content[content.index(b"layer_7/kernel") - 7] ^= 4
    path.write_bytes(content)
    return path


def test_files_over_which_hdf5_searches_for_ever(
    tmp_path: Path, picture: Path, probe: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tledge.core import trial as module

    path = endless(tmp_path / "x.h5")
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.write(path, "model.weights.h5")
    monkeypatch.setattr(module, "TIME_LIMIT_S", 2.0)
    assert "still busy after 2 s" in refused(tmp_path / "x.keras", picture)
    for read in (read_trunk, lambda path: open_layers(path, Declaration())):
        with pytest.raises(ArtefactError, match="still busy after 2 s"):
            read(path)


def test_a_pipe_that_nobody_writes_into(tmp_path: Path, picture: Path) -> None:
    for suffix in (".keras", ".onnx", ".h5"):
        path = tmp_path / f"x{suffix}"
        os.mkfifo(path)
        assert "pipe" in refused(path, picture)
    with pytest.raises(ArtefactError, match="pipe"):
        open_layers(path, Declaration())
    with pytest.raises(WeightsError, match="in a file"):
        read_trunk(path)


def test_a_file_in_hdf5_that_declares_terabytes(tmp_path: Path, picture: Path, probe: None) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kernel", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))
    assert "memory" in refused(path, picture)


def test_a_configuration_that_unpacks_to_more_than_it_can_mean(tmp_path: Path, picture: Path, probe: None) -> None:
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (65 << 20))
    assert "memory" in refused(path, picture)


def test_a_graph_that_asks_for_all_memory(tmp_path: Path, picture: Path, probe: None) -> None:
    assert "memory" in refused(swelling(tmp_path / "x.onnx"), picture)


def test_a_crash_is_one_line_and_a_good_file_is_tried_once(
    tmp_path: Path, probe: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tledge.core import trial as module

    path = classifier(tmp_path / "x.onnx")
    started = []
    real = module.subprocess.run

    def counted(command: list[str], **options: Any) -> Any:
        started.append(command)
        return real(command, **options)

    monkeypatch.setattr(module.subprocess, "run", counted)
    require_openable(path)
    require_openable(path)
    assert len(started) == 1
    assert len([*(cache_folder() / "opened").iterdir()]) == 1
    crash = [module.sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    monkeypatch.setattr(module.subprocess, "run", lambda _, **options: real(crash, **options))
    other = classifier(tmp_path / "y.onnx", shape=(1, 3, 4, 4))
    with pytest.raises(ArtefactError, match=r"y\.onnx, but its runtime crashed \(SIGSEGV\)"):
        require_openable(other)


def test_modules_beside_a_model_are_not_run(tmp_path: Path, probe: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console script has no working directory in its path; the processes that it starts must not have it either."""
    path = classifier(tmp_path / "x.onnx")
    (tmp_path / "numpy.py").write_text("open('was_run', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    require_openable(path)
    Worker(Subject("x", path, "float32", "", bench_files._WORKER), threads=1, batch=1, seed=0).stop()
    assert not (tmp_path / "was_run").exists()


CONFIGURATIONS = {
    "nested deep": b'{"class_name":"Functional","config":' + b'{"config":' * 900 + b"1" + b"}" * 901,
    "nested without end": b"[" * 200_000,
    "digits": b"9" * 5000,
    "null": b"null",
    "a list": b"[1]",
    "layers as text": b'{"class_name":"Sequential","module":"keras","config":{"layers":"dense"}}',
    "no UTF-8": b'{"class_name":"\xff"}',
}


@pytest.mark.parametrize("content", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_keras_archives_with_other_configurations(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", content)
        archive.writestr("metadata.json", content)
        archive.writestr("model.weights.h5", b"no HDF5")
    with pytest.raises(TledgeError, match=r"x\.keras"):
        load_model(path)
    with pytest.raises(WeightsError, match=r"x\.keras"):
        read_trunk(path)


def test_the_probe_alone(tmp_path: Path) -> None:
    assert probe._try(classifier(tmp_path / "x.onnx")) == 0
