from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.conftest import untrained_classifier
from tledge.core.dependencies import quiet, require_tensorflow
from tledge.core.errors import ArtefactError, DataError
from tledge.formats import tflite_metadata as md
from tledge.formats.tflite_flatbuffer import encode

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")

# The smallest side whose flatten merges several positions: at 32 px the converter needs no reshape for it.
SIDE_PX = 64
LABELS = ("Käfer", "猫", "line\u2028separator", "daisy")
METADATA = md.ImageClassifierMetadata(
    name="flowers",
    description="VGG16, raw RGB pixels",
    version="0.1.0",
    image_size_px=SIDE_PX,
    labels=LABELS,
    lineage={"run": "a1b2", "ü": [1, 2.5, None], "recipe": {"precision": "int8"}},
    license="Apache-2.0",
)


@dataclass(frozen=True)
class Case:
    """A converted model before and after `finalize`, and uint8 pixels (3, S, S, 3) to feed it."""

    dtype: str
    converted: bytes
    finalized: bytes
    pixels: np.ndarray


def convert(model, pixels, dtype) -> bytes:
    tf, _ = require_tensorflow()
    with quiet():
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if dtype == "uint8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in pixels)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
        return bytes(converter.convert())


@pytest.fixture(scope="module")
def vgg16():
    return untrained_classifier(len(LABELS), SIDE_PX)


@pytest.fixture(scope="module", params=["float32", "uint8"])
def case(request, vgg16) -> Case:
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    converted = convert(vgg16, pixels[:2], request.param)
    return Case(request.param, converted, md.finalize(converted, METADATA), pixels)


def run(model: bytes, pixels: np.ndarray) -> np.ndarray:
    runtime = interpreter.Interpreter(model_content=model, num_threads=2)
    details = runtime.get_input_details()[0]
    if tuple(details["shape"]) != pixels.shape:
        runtime.resize_tensor_input(details["index"], pixels.shape)
    runtime.allocate_tensors()
    runtime.set_tensor(details["index"], pixels.astype(details["dtype"]))
    runtime.invoke()
    return runtime.get_tensor(runtime.get_output_details()[0]["index"])


def buffers_of(model: bytes) -> list[tuple[int, int]]:
    """Position and size of every buffer with data."""
    root = schema.Model.GetRootAs(model, 0)
    buffers = [root.Buffers(i) for i in range(root.BuffersLength())]
    return [(b._tab.Vector(b._tab.Offset(4)), b.DataLength()) for b in buffers if b.DataLength()]


def entries_of(model: bytes) -> dict[bytes, bytes]:
    root = schema.Model.GetRootAs(model, 0)
    entries = [root.Metadata(i) for i in range(root.MetadataLength())]
    return {entry.Name(): root.Buffers(entry.Buffer()).DataAsNumpy().tobytes() for entry in entries}


def with_metadata(model: bytes, table: bytes, files: dict[str, bytes] | None) -> bytes:
    """What another tool would write: its own metadata flatbuffer, and its own archive, deflated."""
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    tree.buffers[-1].data = np.frombuffer(table, np.uint8)
    tree.metadata = [schema.MetadataT(name="TFLITE_METADATA", buffer=len(tree.buffers) - 1)]
    flatbuffers = pytest.importorskip("flatbuffers")
    builder = flatbuffers.Builder(len(model))
    builder.Finish(tree.Pack(builder), b"TFL3")
    stream = io.BytesIO(bytes(builder.Output()))
    if files is not None:
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    return stream.getvalue()


def test_output_is_unchanged_by_finalizing(case):
    before, after = run(case.converted, case.pixels[:1]), run(case.finalized, case.pixels[:1])
    np.testing.assert_array_equal(after, before)
    assert len(np.unique(before)) == len(LABELS)


def test_a_finalized_model_takes_another_batch(case):
    together = run(case.finalized, case.pixels)
    alone = np.concatenate([run(case.finalized, image[None]) for image in case.pixels])
    assert together.shape == (3, len(LABELS))
    if case.dtype == "uint8":
        np.testing.assert_array_equal(together, alone)
    else:
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert np.ptp(alone.astype(np.float64), axis=0).max() > 0


def test_equal_zero_points_are_written_once(case):
    graph = schema.Model.GetRootAs(case.finalized, 0).Subgraphs(0)
    tables = [graph.Tensors(i).Quantization() for i in range(graph.TensorsLength())]
    found = [
        (q.ZeroPointAsNumpy().tobytes(), q._tab.Vector(q._tab.Offset(10))) for q in tables if q and q.ScaleLength()
    ]
    assert len(set(found)) == len({content for content, _ in found})
    assert len(found) > len(set(found)) or case.dtype == "float32"


def test_freeing_the_batch_is_what_makes_it_resizable(case):
    with pytest.raises(RuntimeError):
        run(md.embed(case.converted, METADATA), case.pixels)
    free = md.make_batch_resizable(case.converted)
    np.testing.assert_array_equal(run(free, case.pixels), run(case.finalized, case.pixels))
    assert md.make_batch_resizable(free) == free


def test_freeing_the_batch_changes_only_shapes(case):
    def shapes(model: bytes) -> list[list[int]]:
        graph = schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0]
        return [list(graph.tensors[i].shape) for op in graph.operators for i in op.outputs]

    assert shapes(case.finalized) == shapes(case.converted)
    assert sum(size for _, size in buffers_of(md.make_batch_resizable(case.converted))) == sum(
        size for _, size in buffers_of(case.converted)
    )


def test_labels_and_lineage_round_trip(case):
    assert md.read_labels(case.finalized) == LABELS
    assert md.read_lineage(case.finalized) == dict(METADATA.lineage)


def test_equal_input_gives_equal_bytes(case):
    shuffled = replace(METADATA, lineage=dict(reversed(METADATA.lineage.items())))
    assert md.finalize(case.converted, shuffled) == case.finalized
    assert md.finalize(case.finalized, METADATA) == case.finalized


def test_metadata_embedded_again_replaces_the_old(case):
    renamed = md.embed(case.finalized, replace(METADATA, name="renamed", labels=("a", "b", "c", "d")))
    assert md.read_labels(renamed) == ("a", "b", "c", "d")
    assert md.read_summary(renamed)["name"] == "renamed"
    assert list(entries_of(renamed)) == list(entries_of(case.finalized))


def test_the_input_says_how_pictures_come_to_it(case):
    letterboxed = md.embed(case.finalized, replace(METADATA, resizing="longer side fits, black bars"))
    (tensor,) = md.read_summary(letterboxed)["inputs"]
    assert tensor["description"] == "RGB image, 64 x 64 pixels, values 0 to 255; longer side fits, black bars"


def test_the_archive_is_stored_with_fixed_times_and_whole_file_offsets(case):
    with zipfile.ZipFile(io.BytesIO(case.finalized)) as archive:
        infos = archive.infolist()
        assert [info.filename for info in infos] == ["labels.txt", "tledge.json"]
        assert archive.testzip() is None
        text = archive.read("tledge.json").decode()
    assert text == json.dumps(dict(METADATA.lineage), sort_keys=True, separators=(",", ":"))
    for info in infos:
        assert info.compress_type == zipfile.ZIP_STORED
        assert info.date_time == (1980, 1, 1, 0, 0, 0)
        assert case.finalized[info.header_offset :][:4] == b"PK\x03\x04"


def test_identifiers_alignment_and_the_converters_own_entries(case):
    entries = entries_of(case.finalized)
    assert case.finalized[4:8] == b"TFL3"
    assert entries[b"TFLITE_METADATA"][4:8] == b"M001"
    converters = entries_of(case.converted)
    assert b"min_runtime_version" in converters
    assert {name: entries[name] for name in converters} == converters
    assert {position % 16 for position, _ in buffers_of(case.finalized)} == {0}


def test_summary_says_what_was_embedded(case):
    maximum = 255.0 if case.dtype == "uint8" else 1.0
    assert md.read_summary(case.finalized) == {
        "name": "flowers",
        "description": "VGG16, raw RGB pixels",
        "version": "0.1.0",
        "author": "tledge",
        "license": "Apache-2.0",
        "min_parser_version": "1.0.0",
        "associated_files": ["tledge.json"],
        "inputs": [
            {
                "name": "image",
                "description": "RGB image, 64 x 64 pixels, values 0 to 255",
                "color_space": "RGB",
                "mean": [0.0],
                "std": [1.0],
                "min": [0.0],
                "max": [255.0],
                "associated_files": [],
            }
        ],
        "outputs": [
            {
                "name": "probability",
                "description": "probability of each class",
                "color_space": "",
                "mean": [],
                "std": [],
                "min": [0.0],
                "max": [maximum],
                "associated_files": ["labels.txt"],
            }
        ],
    }


def test_a_model_without_metadata_has_none(case):
    assert md.read_labels(case.converted) is None
    assert md.read_lineage(case.converted) is None
    assert md.read_summary(case.converted) is None


def test_labels_under_another_tools_name(case):
    vocabulary, names = {0: "vocab.txt", 2: 5}, {0: "flowers_en.txt", 2: 2}
    table = encode({0: "other", 3: [{3: [{6: [vocabulary, names]}]}]}, b"M001")
    model = with_metadata(case.converted, table, {"vocab.txt": b"x\n", "flowers_en.txt": b"rose\r\ntulip"})
    assert md.read_labels(model) == ("rose", "tulip")
    assert md.read_lineage(model) is None
    assert md.read_summary(model)["inputs"] == []
    assert md.read_summary(model)["outputs"][0]["associated_files"] == ["vocab.txt", "flowers_en.txt"]


def test_metadata_without_files_needs_no_archive(case):
    model = with_metadata(case.converted, encode({0: "bare"}, b"M001"), None)
    assert md.read_labels(model) is None
    assert md.read_lineage(model) is None
    assert md.read_summary(model)["name"] == "bare"


def test_metadata_of_another_identifier_is_refused(case):
    model = with_metadata(case.converted, encode({0: "bare"}, b"M999"), None)
    with pytest.raises(ArtefactError, match="M001"):
        md.read_summary(model)


@pytest.mark.parametrize("cut", [1, 30, 200, 100_000, 3_000_000])
@pytest.mark.parametrize("read", [md.read_labels, md.read_lineage])
def test_a_cut_file_is_refused(case, read, cut):
    with pytest.raises(ArtefactError, match=r"copy or export (it|the file) again"):
        read(case.finalized[:-cut])


def test_any_cut_within_the_tables_is_refused_or_none(case):
    for size in (0, 4, 8, 9, 30, 64, 100, 200, 500, 1000, 5000):
        with pytest.raises(ArtefactError):
            md.read_labels(case.finalized[:size])


def test_a_flipped_label_byte_is_refused(case):
    at = case.finalized.rindex("猫".encode())
    damaged = case.finalized[:at] + b"X" + case.finalized[at + 1 :]
    with pytest.raises(ArtefactError, match=r"labels\.txt"):
        md.read_labels(damaged)
    assert md.read_lineage(damaged) == dict(METADATA.lineage)


def test_an_announced_but_missing_file_is_refused(case):
    table = encode({3: [{3: [{6: [{0: "names.txt", 2: 2}]}]}]}, b"M001")
    with pytest.raises(ArtefactError, match=r"names\.txt"):
        md.read_labels(with_metadata(case.converted, table, {"labels.txt": b"a\n"}))


def test_labels_must_match_the_models_outputs(case):
    with pytest.raises(ArtefactError, match="4 outputs, but got 2"):
        md.finalize(case.converted, replace(METADATA, labels=("a", "b")))


@pytest.mark.parametrize("function", [md.make_batch_resizable, md.read_labels, md.read_lineage, md.read_summary])
@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x08\x00\x00\x00ONNXxxxxxxx", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_tflite_model_is_refused(function, content):
    with pytest.raises(ArtefactError):
        function(content)


@pytest.mark.parametrize("label", ["", "two\nlines", "carriage\rreturn", "\udcff"])
def test_a_label_that_no_label_file_can_hold_is_refused(label):
    with pytest.raises(DataError, match="rename the folder"):
        replace(METADATA, labels=("a", label))


def test_importing_the_module_stays_light():
    heavy = ("tensorflow", "keras", "ai_edge_litert", "flatbuffers")
    code = f"import sys, tledge.formats.tflite_metadata; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
