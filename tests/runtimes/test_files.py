"""The files of models of any origin: weights beside an .onnx file belong to it, and nothing else is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtimes.foreign_models import nchw_onnx, saved_model, small
from tledge.core.errors import ArtefactError
from tledge.core.files import sha256_file
from tledge.reporting.inspection import inspect
from tledge.runtimes import files
from tledge.runtimes.files import count_operators, measure_files, require_weights_inside

onnx = pytest.importorskip("onnx")
pytest.importorskip("keras")


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """An .onnx file with its weights in a file beside it."""
    (tmp_path / "model").mkdir()
    return nchw_onnx(small(), tmp_path / "model" / "model.onnx", external=True)


def named(path: Path, location: str) -> Path:
    """The same file, whose first weights are said to be in another place."""
    model: Any = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_model_belong_to_it(beside: Path) -> None:
    weights = beside.with_name("model.onnx.data")
    before = measure_files(beside)
    assert before.size_bytes == beside.stat().st_size + weights.stat().st_size
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    assert measure_files(beside).sha256 != before.sha256


def test_operators_are_those_of_the_same_graph_in_one_file(beside: Path, tmp_path: Path) -> None:
    found = count_operators(beside)
    assert found is not None
    assert found == count_operators(nchw_onnx(small(), tmp_path / "whole.onnx"))


def linked(path: Path) -> Path:
    (path.parent.parent / "secret").write_bytes(bytes(99))
    (path.parent / "link").symlink_to(path.parent.parent / "secret")
    return named(path, "link")


def without_weights(path: Path) -> Path:
    path.with_name("model.onnx.data").unlink()
    return path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: named(path, "../secret"), r"names '\.\./secret'"),
        (lambda path: named(path, str(path.parent.parent / "secret")), "names '/.*secret'"),
        (linked, "names 'link'"),
        (without_weights, r"in model\.onnx\.data beside it, but there is none; copy both"),
    ],
    ids=["parent", "absolute", "link", "missing"],
)
def test_weights_elsewhere_are_refused(beside: Path, spoil: Callable[[Path], Path], message: str) -> None:
    for use in (measure_files, require_weights_inside, count_operators):
        with pytest.raises(ArtefactError, match=message):
            use(spoil(beside) if use is measure_files else beside)


def test_constants_of_nodes_count_as_well(beside: Path) -> None:
    model: Any = onnx.load(beside, load_external_data=False)
    tensor = onnx.TensorProto(name="c", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["unused"], value=tensor))
    beside.write_bytes(model.SerializeToString())
    with pytest.raises(ArtefactError, match="names"):
        require_weights_inside(beside)


def test_digest_of_a_directory_follows_its_files(tmp_path: Path) -> None:
    path = saved_model(small(), tmp_path / "m")
    before = measure_files(path)
    assert before.size_bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert len(before.sha256) == len(hashlib.sha256().hexdigest())
    (path / "variables" / "variables.index").write_bytes(b"")
    assert measure_files(path).sha256 != before.sha256


def test_a_file_of_any_size_is_read_once_for_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = nchw_onnx(small(), tmp_path / "model.onnx"), []
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"lineage": {}, "sha256": digest}))

    def counted(file: Path) -> str:
        read.append(file)
        return sha256_file(file)

    monkeypatch.setattr(files, "sha256_file", counted)
    assert inspect(path).facts["sha256"] == digest
    assert read == [path], "the sidecar, the trial and the answer need the same digest"
