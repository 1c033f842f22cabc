"""Models of other tools give through their classifier what the Keras original gives on the same pixels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtimes import foreign_models
from tests.runtimes.foreign_models import CLASSES, SIDE, nchw_onnx, pictures, saved_model, small, tflite
from tledge.core.errors import ArtefactError, FixedBatchError
from tledge.diagnosis.answers import FaultHypotheses, examine_answers, other_forms
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier, require_labels
from tledge.runtimes.declared import Declaration, InputForm, OutputKind, parse_input
from tledge.runtimes.registry import open_adapter

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
onnx = pytest.importorskip("onnx")

FRACTIONS = "0..1"
# Float runtimes sum in another order; what they give for the same numbers was seen to differ by less than 1e-6.
FLOAT_TOLERANCE = 1e-5
# Thirteen layers in 8 bits, on random weights.
INT8_TOLERANCE = 0.06


def declared(own: str | None = None, output: OutputKind | None = None, default: str | None = None) -> Declaration:
    forms = [parse_input(text) if text else InputForm() for text in (own, default)]
    return Declaration(forms[0], forms[1], output or "distribution")


def opened(path: Path, *form: Any) -> ImageClassifier:
    return open_classifier(path, declared(*form))


@pytest.fixture(scope="module")
def vgg() -> Any:
    return foreign_models.keras_vgg16()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="module")
def files(vgg: Any, folder: Path) -> dict[str, Path]:
    """The same VGG16, which takes what it is fed, in every format."""
    vgg.save(folder / "vgg.keras")
    fractions = pictures() / 255.0
    return {
        "keras": folder / "vgg.keras",
        "saved_model": saved_model(vgg, folder / "vgg"),
        "tflite": tflite(vgg, folder / "vgg.tflite"),
        "onnx": nchw_onnx(vgg, folder / "vgg.onnx"),
        "uint8": tflite(vgg, folder / "uint8.tflite", tf.uint8, fractions),
        "int8": tflite(vgg, folder / "int8.tflite", tf.int8, fractions * 2 - 1),
    }


@pytest.fixture(scope="module")
def wide() -> Any:
    """A model whose softmax does not saturate on values of hundreds."""
    model = small()
    dense = model.layers[-1]
    dense.set_weights([dense.get_weights()[0] / 100, dense.get_weights()[1]])
    return model


@pytest.fixture(scope="module")
def wide_files(wide: Any, folder: Path) -> dict[str, Path]:
    return {
        "keras": write_keras(wide, folder / "wide.keras"),
        "saved_model": saved_model(wide, folder / "wide"),
        "tflite": tflite(wide, folder / "wide.tflite"),
        "onnx": nchw_onnx(wide, folder / "wide.onnx"),
    }


def by_hand(form: str) -> np.ndarray:
    """What an app's own code would compute for `pictures`."""
    pixels = pictures().astype(np.float64)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values: dict[str, Any] = {
        "0..255": lambda: pixels,
        "0..1": lambda: pixels / 255,
        "bgr,0..1": lambda: pixels[..., ::-1] / 255,
        "-1..1": lambda: pixels / 127.5 - 1,
        "caffe": lambda: keras.applications.vgg16.preprocess_input(pixels.copy()),
        "torch": lambda: (pixels / 255 - mean) / std,
        "mean:10/20/30,std:100": lambda: (pixels - [10, 20, 30]) / 100,
        "bgr,mean:127,std:50/60/70": lambda: (pixels[..., ::-1] - 127) / [50, 60, 70],
    }
    return np.asarray(values[form](), np.float32)


FORMS = ("0..1", "bgr,0..1", "-1..1", "torch", "mean:10/20/30,std:100", "bgr,mean:127,std:50/60/70")
WIDE_FORMS = ("0..255", "caffe")
KINDS = ("keras", "saved_model", "tflite", "onnx")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_float_models_answer_as_the_original(vgg: Any, files: dict[str, Path], kind: str, form: str) -> None:
    classifier = opened(files[kind], form)
    answers = classifier.predict(pictures())
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, vgg(by_hand(form)), atol=FLOAT_TOLERANCE)
    assert (classifier.image_size_px, classifier.classes, classifier.labels) == (SIDE, CLASSES, None)
    assert (classifier.form.layout == "nchw") == (kind == "onnx")


@pytest.mark.parametrize("form", WIDE_FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_wide_values(wide: Any, wide_files: dict[str, Path], kind: str, form: str) -> None:
    answers = opened(wide_files[kind], form).predict(pictures())
    np.testing.assert_allclose(answers, wide(by_hand(form)), atol=FLOAT_TOLERANCE)


WRONG = [(given, true) for given in FORMS[:4] for true in FORMS[:4] if given != true]


@pytest.mark.parametrize(("given", "true"), WRONG)
def test_a_wrong_form_is_recognised_by_its_answers(vgg: Any, files: dict[str, Path], given: str, true: str) -> None:
    """A file that is fed another form than it takes answers as the original does on other pixels, of one guess."""
    original, artefact = opened(files["keras"], true), opened(files["onnx"], given)
    pixels = pictures()
    answers, expected = artefact.predict(pixels), original.predict(pixels)
    faults = FaultHypotheses(tuple("abc"), other_forms("vgg.onnx", artefact.form), "")
    best = examine_answers(original, pixels, answers, expected, faults).hypotheses[0]
    np.testing.assert_allclose(best.distance, 0, atol=FLOAT_TOLERANCE)
    words = set(best.advice.removeprefix("declare --input vgg.onnx=").split(", or")[0].split(","))
    assert words == set(true.split(",")) | (set() if true == "torch" or "bgr" in true else {"rgb"})
    assert best.cause == ("channel-order" if {given, true} == {"0..1", "bgr,0..1"} else "scaled-input")


def test_forms_differ_in_their_answers(vgg: Any, wide: Any) -> None:
    """Or else the two tests above would pass with any form."""
    for model, forms in ((vgg, FORMS), (wide, WIDE_FORMS)):
        answers = [np.asarray(model(by_hand(form))) for form in forms]
        for i, first in enumerate(answers):
            for second in answers[:i]:
                assert np.abs(first - second).max() > 1000 * FLOAT_TOLERANCE


@pytest.mark.parametrize(("kind", "range_"), [("uint8", "0..1"), ("int8", "-1..1")])
def test_quantized_input_tells_its_range(vgg: Any, files: dict[str, Path], kind: str, range_: str) -> None:
    classifier = opened(files[kind])
    assert (classifier.form.scaling.name, classifier.input_dtype, classifier.output_dtype) == (range_, kind, kind)
    assert "range of the quantized input" in str(classifier.form)
    np.testing.assert_allclose(classifier.predict(pictures()), vgg(by_hand(range_)), atol=INT8_TOLERANCE)


def test_quantized_values_are_those_of_the_files_own_scale(files: dict[str, Path]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(files["uint8"]))
    interpreter.allocate_tensors()
    details, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = details["quantization"]
    assert scale == pytest.approx(1 / 255)
    rows = []
    for picture in pictures():
        interpreter.set_tensor(details["index"], np.round(picture / 255 / scale + zero)[None].astype(np.uint8))
        interpreter.invoke()
        rows.append(interpreter.get_tensor(output["index"])[0] / 256)
    np.testing.assert_allclose(opened(files["uint8"]).predict(pictures()), rows, atol=1e-7)


def test_quantized_input_of_another_range_must_be_declared(folder: Path) -> None:
    model = small()
    path = tflite(model, folder / "caffe.tflite", tf.uint8, by_hand("caffe"))
    with pytest.raises(ArtefactError, match=r"--input caffe.tflite=SCALING, one of 0..255, 0..1, -1..1, caffe, torch"):
        opened(path)
    np.testing.assert_allclose(opened(path, "caffe").predict(pictures()), model(by_hand("caffe")), atol=0.05)
    with pytest.raises(ArtefactError, match=r"\(-1\d\d.* to 1\d\d.*\), but 0..1 gives 0 to 1"):
        opened(path, "0..1")


@pytest.mark.parametrize("name", ["model.keras", "export/tflite-float32.tflite", "export/tflite-int8.tflite"])
def test_files_of_tledge_need_no_words(finished_run: Path, name: str) -> None:
    path = finished_run / name
    # A form for all others must not overrule what this file says of itself.
    classifier = opened(path, None, None, "torch")
    declared_by_run = open_classifier(path, MODEL_OF_A_RUN)
    np.testing.assert_array_equal(classifier.predict(pictures()), declared_by_run.predict(pictures()))


@pytest.mark.parametrize("name", ["onnx-float32", "onnx-int8"])
def test_onnx_files_of_tledge_need_no_words(finished_run: Path, name: str) -> None:
    path = finished_run / "export" / f"{name}.onnx"
    classifier = opened(path)
    assert classifier.lineage() is not None
    declared_by_run = open_classifier(path, MODEL_OF_A_RUN)
    np.testing.assert_array_equal(classifier.predict(pictures()), declared_by_run.predict(pictures()))


def with_normalization(source: Path, target: Path, mean: float, std: float, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TFLite metadata as another tool writes it: its own normalization."""
    from tledge.formats import tflite_metadata

    honest = tflite_metadata._input_tensor

    def other(side: int) -> Any:
        tensor = honest(side)
        table = tensor[tflite_metadata._Tensor.UNITS][0][tflite_metadata._Union.TABLE]
        table |= {tflite_metadata._Normalization.MEAN: (mean,), tflite_metadata._Normalization.STD: (std,)}
        return tensor

    monkeypatch.setattr(tflite_metadata, "_input_tensor", other)
    metadata = tflite_metadata.ImageClassifierMetadata("m", "d", "1", SIDE, ("a", "b", "c"), {})
    target.write_bytes(tflite_metadata.embed(source.read_bytes(), metadata))
    return target


def test_tflite_metadata_is_read(
    vgg: Any, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_normalization(files["tflite"], tmp_path / "m.tflite", 127.5, 127.5, monkeypatch)
    classifier = opened(path, None, None, "bgr,0..1")
    assert str(classifier.form) == "rgb -1..1 nhwc (TFLite metadata)"
    np.testing.assert_allclose(classifier.predict(pictures()), vgg(by_hand("-1..1")), atol=FLOAT_TOLERANCE)
    overruled = opened(path, "torch")
    np.testing.assert_allclose(overruled.predict(pictures()), vgg(by_hand("torch")), atol=FLOAT_TOLERANCE)
    nonsense = with_normalization(files["tflite"], tmp_path / "n.tflite", 0.5, 0.25, monkeypatch)
    with pytest.raises(ArtefactError, match=r"metadata of n.tflite, but: .* from 1 to 255.*--input n.tflite=SCALING"):
        opened(nonsense)


def test_what_nobody_says_is_not_guessed(files: dict[str, Path]) -> None:
    for kind in ("keras", "saved_model", "tflite", "onnx"):
        with pytest.raises(ArtefactError, match="neither the file nor --input says it"):
            opened(files[kind])
    assert opened(files["keras"], None, None, "0..1").form.source == "declared for all models"


def test_logits(folder: Path, vgg: Any) -> None:
    path = nchw_onnx(vgg, folder / "logits.onnx", ending=("Flatten",))
    with pytest.raises(ArtefactError, match=r"--output logits.onnx=logits"):
        opened(path, FRACTIONS)
    with pytest.raises(ArtefactError, match=r"--output logits.onnx=logits"):
        opened(path, FRACTIONS, "probabilities").predict(pictures())
    answers = opened(path, FRACTIONS, "logits").predict(pictures())
    np.testing.assert_allclose(answers, vgg(by_hand("0..1")), atol=FLOAT_TOLERANCE)


def test_scores_that_do_not_sum_to_1(tmp_path: Path) -> None:
    model = small(activation="sigmoid")
    model.save(tmp_path / "sigmoid.keras")
    with pytest.raises(ArtefactError, match="rows that sum to 1"):
        opened(tmp_path / "sigmoid.keras", FRACTIONS)
    answers = opened(tmp_path / "sigmoid.keras", FRACTIONS, "probabilities").predict(pictures())
    np.testing.assert_allclose(answers, model(by_hand("0..1")), atol=FLOAT_TOLERANCE)


def test_coarse_scores_of_many_classes(tmp_path: Path) -> None:
    """Their sum does not tell what they are; that they come from a softmax does."""
    path = tflite(small(classes=200, activation="sigmoid"), tmp_path / "many.tflite", tf.uint8, by_hand("0..1"))
    with pytest.raises(ArtefactError, match=r"at a resolution of 0\.0039"):
        opened(path)
    assert opened(path, None, "probabilities").classes == 200
    path = tflite(small(classes=200), tmp_path / "softmax.tflite", tf.uint8, by_hand("0..1"))
    assert opened(path).predict(pictures()).shape == (6, 200)


@pytest.mark.parametrize("batch", ["batch", 1, 4])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_any_number_of_images_through_any_batch(folder: Path, vgg: Any, batch: int | str, count: int) -> None:
    path = folder / f"batch-{batch}.onnx"
    if not path.exists():
        nchw_onnx(vgg, path, batch=batch)
    answers = opened(path, FRACTIONS).predict(pictures()[:count])
    np.testing.assert_allclose(answers, vgg(by_hand("0..1")[:count]), atol=FLOAT_TOLERANCE)


def test_open_batch_that_only_takes_one(folder: Path, vgg: Any) -> None:
    path = nchw_onnx(vgg, folder / "one.onnx", ending=("Softmax", "ReshapeToOne"))
    answers = opened(path, FRACTIONS).predict(pictures())
    np.testing.assert_allclose(answers, vgg(by_hand("0..1")), atol=FLOAT_TOLERANCE)


def test_open_size(folder: Path, vgg: Any) -> None:
    path = nchw_onnx(vgg, folder / "open.onnx", side="side")
    with pytest.raises(ArtefactError, match=r"--input open.onnx=224px"):
        opened(path, FRACTIONS)
    answers = opened(path, "0..1,32px").predict(pictures())
    np.testing.assert_allclose(answers, vgg(by_hand("0..1")), atol=FLOAT_TOLERANCE)
    assert opened(path, "0..1,64px").image_size_px == 64
    assert opened(path, "0..1,64x96px").image_size_px == (64, 96)


@pytest.mark.parametrize(
    ("shape", "said", "size"),
    [
        ((32, 48, 3), "", (32, 48)),
        ((32, 48, 3), ",32x48px", (32, 48)),
        ((None, 48, 3), ",32x48px", (32, 48)),
        ((32, None, 3), ",32x48px", (32, 48)),
        ((None, None, 3), ",32x48px", (32, 48)),
        ((None, 48, 3), "", 48),
    ],
)
def test_height_and_width(shape: tuple[int | None, ...], said: str, size: object, tmp_path: Path) -> None:
    path = write_keras(small(shape), tmp_path / "m.keras")
    found = opened(path, f"0..1{said}")
    assert found.image_size_px == size
    assert found.predict(np.zeros((2, *(size if isinstance(size, tuple) else (48, 48)), 3), np.uint8)).shape == (2, 3)
    with pytest.raises(ArtefactError, match=r"expected images of shape"):
        found.predict(np.zeros((2, 48, 32, 3), np.uint8))
    if shape != (None, None, 3):
        with pytest.raises(ArtefactError, match=r"px in m.keras, but --input says 48x32px; leave the size out"):
            opened(path, "0..1,48x32px")


@pytest.mark.parametrize("kind", ["keras", "tflite", "saved_model"])
def test_open_size_in_other_formats(tmp_path: Path, kind: str) -> None:
    model = small((None, None, 3))
    path = {"keras": tmp_path / "m.keras", "tflite": tmp_path / "m.tflite", "saved_model": tmp_path / "m"}[kind]
    {"keras": model.save, "tflite": lambda p: tflite(model, p), "saved_model": lambda p: saved_model(model, p)}[kind](
        path
    )
    answers = opened(path, "0..1,32px").predict(pictures())
    np.testing.assert_allclose(answers, model(by_hand("0..1")), atol=FLOAT_TOLERANCE)


@pytest.mark.parametrize(
    ("dtype", "divisor", "form", "tolerance"),
    [
        ("FLOAT16", 1.0, "0..1", 2e-3),
        ("UINT8", 255.0, None, FLOAT_TOLERANCE),
        ("INT8", 1.0, "mean:128,std:1", FLOAT_TOLERANCE),
    ],
)
def test_other_dtypes_of_onnx(
    folder: Path, vgg: Any, dtype: str, divisor: float, form: str | None, tolerance: float
) -> None:
    path = nchw_onnx(vgg, folder / f"{dtype}.onnx", dtype=dtype, divisor=divisor)
    values = pictures() - 128.0 if dtype == "INT8" else by_hand("0..1")
    classifier = opened(path, form)
    assert classifier.input_dtype == dtype.lower()
    np.testing.assert_allclose(classifier.predict(pictures()), vgg(values.astype(np.float32)), atol=tolerance)


def test_plain_integers_hold_no_fractions(folder: Path) -> None:
    path = nchw_onnx(small(), folder / "bytes.onnx", dtype="UINT8")
    with pytest.raises(ArtefactError, match=r"\(0 to 255\), but 0..1 gives 0 to 1"):
        opened(path, "0..1")


def test_prepare_binds_what_invoke_runs(files: dict[str, Path], folder: Path, vgg: Any) -> None:
    classifier = opened(files["onnx"], FRACTIONS)
    classifier.prepare(pictures()[:3])
    classifier.invoke()
    one = opened(files["tflite"], FRACTIONS)
    one.prepare(pictures()[:1])
    one.invoke()
    one.prepare(pictures()[:2])
    one.invoke()
    fixed = opened(nchw_onnx(vgg, folder / "fixed.onnx", batch=1), FRACTIONS)
    with pytest.raises(FixedBatchError, match="this file takes 1"):
        fixed.prepare(pictures()[:2])
    with pytest.raises(ArtefactError, match="resize them first"):
        one.predict(pictures(side=64))
    assert one.predict(pictures()[:0]).shape == (0, CLASSES)


def write_keras(model: Any, path: Path) -> Path:
    model.save(path)
    return path


class Square(keras.layers.Layer):  # type: ignore[misc, name-defined]
    """A layer that no other process knows."""

    def call(self, x: Any) -> Any:
        return x * x


def python_model(path: Path) -> Path:
    module = tf.Module()
    signature = [tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32)]
    call = tf.function(lambda x: tf.py_function(lambda v: v, [x], tf.float32), input_signature=signature)
    tf.saved_model.save(module, str(path), signatures=call.get_concrete_function())
    return path


def computing(path: Path, body: Any, module: Any = None) -> Path:
    """A SavedModel whose signature does what `body` does with the pixels before it answers."""
    owner = tf.Module() if module is None else module
    signature = [tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32)]

    @tf.function(input_signature=signature)
    def call(x: Any) -> Any:
        body(x)
        return tf.nn.softmax(tf.reduce_mean(x, (1, 2)))

    owner.call = call
    tf.saved_model.save(owner, str(path), signatures=call)
    return path


def printing_model(folder: Path) -> Path:
    return computing(folder / "m", lambda x: tf.print(x, output_stream=f"file://{folder / 'written'}"))


def saving_model(folder: Path) -> Path:
    target = str(folder / "written")
    return computing(
        folder / "m", lambda x: tf.raw_ops.SaveV2(prefix=target, tensor_names=["x"], shape_and_slices=[""], tensors=[x])
    )


def table_model(folder: Path) -> Path:
    """Its table is filled from a text file while TensorFlow loads it."""
    words = folder / "words.txt"
    words.write_text("a\nb\n")
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        ),
        -1,
    )
    return computing(folder / "m", lambda x: module.table.lookup(tf.constant(["a"])), module)


def calling_its_saver(path: Path) -> Path:
    """The signature calls the function that saves the variables, which alone may write files."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = saved_model(small(), path) / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(file.read_bytes())
    (meta,) = model.meta_graphs
    names = [function.signature.name for function in meta.graph_def.library.function]
    saving = next(name for name in names if "traced_save" in name)
    serving = next(f for f in meta.graph_def.library.function if "signature_wrapper" in f.signature.name)
    node = serving.node_def.add(name="again", op="StatefulPartitionedCall")
    node.attr["f"].func.name = saving
    file.write_bytes(model.SerializeToString())
    return path


def test_a_saved_model_of_many_layers_only_computes(tmp_path: Path) -> None:
    """What the list of allowed operators must not forget; Keras writes other operators for it than for VGG16."""
    layers = keras.layers

    def between(x: Any) -> Any:
        x = layers.Normalization(mean=[0.4] * 3, variance=[0.2] * 3)(layers.Resizing(SIDE, SIDE)(x))
        x = layers.RandomFlip()(layers.BatchNormalization()(layers.SeparableConv2D(8, 3, padding="same")(x)))
        for activation in ("relu6", "gelu", "swish", "hard_swish", "leaky_relu"):
            x = layers.Activation(activation)(x)
        x = layers.Conv2DTranspose(4, 3)(layers.UpSampling2D()(layers.GroupNormalization(4)(layers.PReLU()(x))))
        x = layers.MaxPooling2D(8)(layers.SpatialDropout2D(0.1)(layers.ZeroPadding2D()(x)))
        y = layers.Reshape((-1, 4))(x)
        y = layers.LSTM(4, return_sequences=True)(layers.MultiHeadAttention(2, 4)(y, y))
        return layers.add([x, layers.Reshape(x.shape[1:])(layers.LayerNormalization()(y))])

    path = saved_model(small(between=between), tmp_path / "m")
    assert opened(path, FRACTIONS).classes == CLASSES


def no_signature(path: Path) -> Path:
    tf.saved_model.save(tf.Module(), str(path))
    return path


def cut(path: Path, file: Path | None = None) -> Path:
    target = file or path
    target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    return path


REFUSALS: dict[str, tuple[Any, str]] = {
    "lambda": (
        lambda d: write_keras(small(between=keras.layers.Lambda(lambda x: x * 2, name="twice")), d / "m.keras"),
        "'twice' is a Lambda layer, which is code; replace it",
    ),
    "custom class": (
        lambda d: write_keras(small(between=Square(name="sq")), d / "m.keras"),
        "'sq' is of the custom class Square; replace it",
    ),
    "two inputs": (lambda d: write_keras(small(inputs=2), d / "m.keras"), "expected one input in m.keras.* has 2"),
    "two outputs": (lambda d: write_keras(small(outputs=2), d / "m.keras"), "expected one output in m.keras.* has 2"),
    "two outputs, TFLite": (lambda d: tflite(small(outputs=2), d / "m.tflite"), "expected one output in m.tflite.* 2"),
    "two outputs, SavedModel": (lambda d: saved_model(small(outputs=2), d / "m"), "expected one output in m, .* has 2"),
    "two inputs, SavedModel": (lambda d: saved_model(small(inputs=2), d / "m"), "expected one input in m, .* has 2"),
    "grey": (lambda d: write_keras(small((32, 32, 1)), d / "m.keras"), "RGB input of 3 channels in m.keras"),
    "one score of no known kind": (
        lambda d: write_keras(small(classes=1, activation=None), d / "m.keras"),
        "what the one score of m.keras is, .* add --output m.keras=probabilities if it comes from a sigmoid, or",
    ),
    "softmax of one": (
        lambda d: write_keras(small(classes=1), d / "m.keras"),
        "sigmoid behind the one score of m.keras, .* ends with a softmax",
    ),
    "maps": (lambda d: nchw_onnx(small(), d / "m.onnx", ending=("Softmax", "Widen")), r"gave \(\d, 3, 2, 2\)"),
    "nan": (lambda d: nchw_onnx(small(), d / "m.onnx", ending=("ToNaN",)), "finite scores from m.onnx"),
    "bytes out": (lambda d: nchw_onnx(small(), d / "m.onnx", ending=("CastToBytes",)), "output is plain uint8"),
    "double": (lambda d: nchw_onnx(small(), d / "m.onnx", dtype="DOUBLE"), r"tensor\(double\)"),
    "python": (lambda d: python_model(d / "m"), "only computes, but m holds EagerPyFunc"),
    "print to a file": (printing_model, "only computes, but m holds .*PrintV2.*, which may reach Python or files"),
    "saves": (saving_model, "only computes, but m holds SaveV2,"),
    "table from a file": (table_model, "only computes, but m holds .*InitializeTableFromTextFileV2"),
    "calls its saver": (lambda d: calling_its_saver(d / "m"), "only computes, but m holds MergeV2Checkpoints, SaveV2"),
    "no signature": (lambda d: no_signature(d / "m"), "signature serving_default in m, but it has none"),
    "no SavedModel": (lambda d: d, "saved_model.pb, but .* has none; check the path"),
    "cut keras": (lambda d: cut(write_keras(small(), d / "m.keras")), "m.keras is truncated"),
    "cut tflite": (lambda d: cut(tflite(small(), d / "m.tflite")), "whole TFLite model in"),
    "cut onnx": (lambda d: cut(nchw_onnx(small(), d / "m.onnx")), "whole ONNX model in"),
    "cut SavedModel": (
        lambda d: cut(saved_model(small(), d / "m"), d / "m" / "saved_model.pb"),
        "saved_model.pb is cut",
    ),
    "cut variables": (
        lambda d: cut(saved_model(small(), d / "m"), next((d / "m" / "variables").glob("*.data*"))),
        "whole SavedModel in",
    ),
    "absent": (lambda d: d / "m.tflite", "does not exist; check the path"),
}


@pytest.mark.parametrize("case", list(REFUSALS))
def test_refusals_are_one_clear_line(case: str, tmp_path: Path) -> None:
    make, message = REFUSALS[case]
    path = make(tmp_path)
    with pytest.raises(ArtefactError, match=message) as caught:
        opened(path, FRACTIONS)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value) or "refuses it" in str(caught.value)


def test_other_suffixes(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"x")
    with pytest.raises(
        ArtefactError, match=r"\.keras, \.onnx, \.ort, \.tflite or a SavedModel directory\), but got .*model\.pt"
    ):
        opened(path)


def test_a_side_of_3_leaves_the_layout_open(tmp_path: Path) -> None:
    path = write_keras(small((3, 3, 3)), tmp_path / "m.keras")
    with pytest.raises(ArtefactError, match=r"--input m.keras=nhwc or =nchw"):
        opened(path, FRACTIONS)
    assert opened(path, "0..1,nhwc").form.layout == "nhwc"
    wide = write_keras(small(), tmp_path / "wide.keras")
    with pytest.raises(ArtefactError, match=r"expected nchw with 3 channels in wide.keras"):
        opened(wide, "0..1,nchw")
    with pytest.raises(ArtefactError, match=r"expected 32px in wide.keras, but --input says 64px"):
        opened(wide, "0..1,64px")


def test_labels_must_be_those_of_the_model(finished_run: Path, tmp_path: Path) -> None:
    form = declared(FRACTIONS)
    path = write_keras(small(), tmp_path / "m.keras")
    model = open_classifier(path, form)
    require_labels(model, ("a", "b", "c"))
    assert model.classes == 3
    with pytest.raises(ArtefactError, match=r"expected 2 outputs in m.keras, one for each label, but it has 3"):
        require_labels(model, ("a", "b"))
    own = finished_run / "export" / "tflite-float32.tflite"
    with pytest.raises(ArtefactError, match=r"expected 'digit 1' as class 0 of .* in the file say 'digit 0'"):
        require_labels(open_classifier(own), ("digit 1", "digit 0", "digit 7"))


def test_a_keras_file_of_tledge_is_known_by_its_weights(finished_run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(finished_run / "model.keras", tmp_path / "m.keras"))
    assert opened(path).form.source == "written by tledge"
    model = keras.models.load_model(path)
    layer = model.get_layer("preprocessing")
    layer.set_weights([layer.get_weights()[0], layer.get_weights()[1] + 1])
    model.save(path)
    with pytest.raises(ArtefactError, match="neither the file"):
        opened(path)


def one_score(path: Path, activation: str | None = "sigmoid") -> tuple[Any, Path]:
    """A model of two classes with one output, in the format that the suffix of `path` says."""
    model = small(classes=1, activation=activation)
    ending = ("Flatten", *(["Sigmoid"] if activation else []))
    write = {
        ".keras": lambda: write_keras(model, path),
        ".tflite": lambda: tflite(model, path),
        ".onnx": lambda: nchw_onnx(model, path, ending=ending),
        "": lambda: saved_model(model, path),
    }
    return model, write[path.suffix]()


@pytest.mark.parametrize("name", ["m.keras", "m.tflite", "m.onnx"])
def test_one_sigmoid_tells_two_classes_apart(tmp_path: Path, name: str) -> None:
    model, path = one_score(tmp_path / name)
    second = np.asarray(model(by_hand("0..1")))
    expected = np.concatenate([1 - second, second], axis=1)
    classifier = opened(path, FRACTIONS)
    assert (classifier.classes, classifier.is_single_score) == (2, True)
    np.testing.assert_allclose(classifier.predict(pictures()), expected, atol=FLOAT_TOLERANCE)
    np.testing.assert_allclose(
        opened(path, FRACTIONS, "probabilities").predict(pictures()), expected, atol=FLOAT_TOLERANCE
    )
    require_labels(classifier, ("cat", "dog"))
    with pytest.raises(ArtefactError, match=r"expected 3 outputs in m\..*has one, which tells two classes apart"):
        require_labels(classifier, ("cat", "dog", "cow"))
    with pytest.raises(ArtefactError, match=r"before the sigmoid from m\..*leave --output logits out"):
        opened(path, FRACTIONS, "logits")


def test_one_quantized_sigmoid(tmp_path: Path) -> None:
    model = small(classes=1, activation="sigmoid")
    path = tflite(model, tmp_path / "m.tflite", tf.uint8, by_hand("0..1"))
    answers = opened(path).predict(pictures())
    np.testing.assert_allclose(answers[:, 1:], model(by_hand("0..1")), atol=0.02)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["m.keras", "m.tflite", "m.onnx", "saved"])
def test_one_logit_must_be_declared(tmp_path: Path, name: str) -> None:
    model, path = one_score(tmp_path / name, activation=None)
    with pytest.raises(ArtefactError, match=r"what the one score of .*--output .*=logits"):
        opened(path, FRACTIONS)
    second = 1 / (1 + np.exp(-np.asarray(model(by_hand("0..1")))))
    answers = opened(path, FRACTIONS, "logits").predict(pictures())
    np.testing.assert_allclose(answers, np.concatenate([1 - second, second], axis=1), atol=FLOAT_TOLERANCE)


def test_a_saved_model_does_not_say_how_it_ends(tmp_path: Path) -> None:
    model, path = one_score(tmp_path / "saved")
    with pytest.raises(ArtefactError, match=r"--output saved=probabilities if it comes from a sigmoid"):
        opened(path, FRACTIONS)
    answers = opened(path, FRACTIONS, "probabilities").predict(pictures())
    np.testing.assert_allclose(answers[:, 1:], model(by_hand("0..1")), atol=FLOAT_TOLERANCE)


def test_large_logits_of_one_score_do_not_overflow(tmp_path: Path) -> None:
    model = small(classes=1, activation=None)
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0] * 0, np.float32([-2000])])
    answers = opened(write_keras(model, tmp_path / "m.keras"), FRACTIONS, "logits").predict(pictures())
    np.testing.assert_array_equal(answers, [[1, 0]] * 6)


@pytest.mark.parametrize("kind", KINDS[:1] + KINDS[2:])
def test_what_ends_with_a_softmax_holds_no_logits(files: dict[str, Path], kind: str) -> None:
    with pytest.raises(ArtefactError, match=r"before the softmax from vgg.*leave --output logits out"):
        opened(files[kind], FRACTIONS, "logits")


def test_endings_are_seen_behind_what_keeps_values(tmp_path: Path) -> None:
    inner = small(classes=1, activation="sigmoid")
    inside = keras.Sequential([keras.Input((SIDE, SIDE, 3)), inner, keras.layers.Activation("linear")])
    assert open_adapter(write_keras(inside, tmp_path / "linear.keras")).ending() is None
    nested = keras.Sequential([keras.Input((SIDE, SIDE, 3)), keras.layers.Rescaling(1.0), inner])
    assert open_adapter(write_keras(nested, tmp_path / "nested.keras")).ending() == "sigmoid"
    quantized = tflite(small(), tmp_path / "m.tflite", tf.uint8, by_hand("0..1"))
    assert open_adapter(quantized).ending() == "softmax"
    assert open_adapter(nchw_onnx(small(), tmp_path / "m.onnx")).ending() == "softmax"
    flat = nchw_onnx(small(), tmp_path / "flat.onnx", ending=("Softmax", "Flatten"))
    assert open_adapter(flat).ending() == "softmax"
    assert open_adapter(nchw_onnx(small(), tmp_path / "none.onnx", ending=())).ending() is None
