"""The exported file in the hands of a phone app: MediaPipe Tasks' own image classifier and metadata schema."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.adoption.zoo import TUTORIALS, data_of, trained
from tests.conftest import converted, untrained_classifier
from tledge.data import open_rgb, resize
from tledge.formats.tflite_metadata import read_labels

pytestmark = pytest.mark.phone
mediapipe = pytest.importorskip("mediapipe")

SIDE_PX = 32
LABELS = ("Käfer", "猫", "daisy", "rose")
INT8_STEP = 1 / 256


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def vgg16():
    return untrained_classifier(len(LABELS), SIDE_PX)


@pytest.fixture(scope="module", params=["float32", "int8"])
def artefact(request, vgg16, images) -> tuple[str, bytes]:
    calibration = images[:2] if request.param == "int8" else None
    lineage = {"tledge": "0.1.0", "run": "phone"}
    return request.param, converted("tflite", request.param, vgg16, LABELS, calibration, lineage=lineage)


def litert_scores(model: bytes, image: np.ndarray) -> np.ndarray:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=model)
    interpreter.allocate_tensors()
    details, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.set_tensor(details["index"], image[None].astype(details["dtype"]))
    interpreter.invoke()
    scores = interpreter.get_tensor(output["index"])[0]
    if output["dtype"] == np.float32:
        return scores
    scale, zero_point = output["quantization"]
    return (scores.astype(np.float32) - zero_point) * scale


def expect_litert_scores(precision: str, model: bytes, images: np.ndarray, labels: tuple[str, ...]) -> None:
    tasks = pytest.importorskip("mediapipe.tasks.python")
    vision = pytest.importorskip("mediapipe.tasks.python.vision")
    options = vision.ImageClassifierOptions(base_options=tasks.BaseOptions(model_asset_buffer=model))
    tolerance = INT8_STEP + 1e-4 if precision == "int8" else 1e-4
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image in images:
            result = classifier.classify(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image))
            (head,) = result.classifications
            scores = {category.category_name: category.score for category in head.categories}
            expected = litert_scores(model, image)
            assert set(scores) == set(read_labels(model)) == set(labels)
            np.testing.assert_allclose([scores[label] for label in labels], expected, rtol=0, atol=tolerance)
            assert np.ptp(expected) > 4 * tolerance


def test_image_classifier_gives_litert_scores_under_the_embedded_labels(artefact, images):
    expect_litert_scores(*artefact, images, LABELS)


def test_an_adopted_mobilenet_answers_there_too(tmp_path: Path) -> None:
    (tutorial,) = (one for one in TUTORIALS if one.name == "mobilenet-v2")
    seen, unseen = data_of(tutorial, tmp_path)
    model, run = trained(tutorial, seen, tmp_path), tmp_path / "run"
    tledge.adopt(model, data=seen, out=run, input=tutorial.input, output=tutorial.output)
    made = tledge.export(run, recipes=["tflite-float32", "tflite-int8"]).artefacts
    pictures = [next(iter(sorted(folder.iterdir()))) for folder in sorted(unseen.iterdir())]
    images = np.stack([np.asarray(resize(open_rgb(path), tutorial.side_px), np.uint8) for path in pictures])
    for artefact in made:
        labels = tuple((run / "labels.txt").read_text().splitlines())
        expect_litert_scores(artefact.sidecar.precision, artefact.path.read_bytes(), images, labels)


def test_mediapipes_own_schema_reads_every_field(artefact):
    precision, model = artefact
    generated = pytest.importorskip("mediapipe.tasks.metadata.metadata_schema_py_generated")
    schema = pytest.importorskip("mediapipe.tasks.metadata.schema_py_generated")
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    (index,) = (entry.buffer for entry in tree.metadata if entry.name == b"TFLITE_METADATA")
    table = tree.buffers[index].data.tobytes()
    assert generated.ModelMetadata.ModelMetadataBufferHasIdentifier(table, 0)
    root = generated.ModelMetadataT.InitFromPackedBuf(table, 0)
    assert (root.name, root.version, root.author) == (f"tflite-{precision}".encode(), b"0.1.0", b"tledge")
    assert root.description.startswith(b"Image classifier")
    assert root.minParserVersion == b"1.0.0"
    assert [(file.name, file.type) for file in root.associatedFiles] == [(b"tledge.json", 0)]
    (subgraph,) = root.subgraphMetadata
    (tensor,) = subgraph.inputTensorMetadata
    assert (tensor.name, tensor.description) == (b"image", b"RGB image, 32 x 32 pixels, values 0 to 255")
    assert tensor.content.contentPropertiesType == generated.ContentProperties.ImageProperties
    assert tensor.content.contentProperties.colorSpace == generated.ColorSpaceType.RGB
    (unit,) = tensor.processUnits
    assert unit.optionsType == generated.ProcessUnitOptions.NormalizationOptions
    assert (list(unit.options.mean), list(unit.options.std)) == ([0.0], [1.0])
    assert (list(tensor.stats.min), list(tensor.stats.max)) == ([0.0], [255.0])
    (tensor,) = subgraph.outputTensorMetadata
    assert (tensor.name, list(tensor.stats.min)) == (b"probability", [0.0])
    assert list(tensor.stats.max) == [255.0 if precision == "int8" else 1.0]
    (labels,) = tensor.associatedFiles
    assert (labels.name, labels.type) == (b"labels.txt", generated.AssociatedFileType.TENSOR_AXIS_LABELS)
