"""Adopting: a finished classifier of Keras becomes a run that every command works on; what nobody says is asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tledge
from tests.adoption.zoo import images_of
from tests.conftest import run_cli, write_digits
from tledge.conversion.recipe import DEFAULT_RECIPES
from tledge.runs.manifest import read_manifest, read_split
from tledge.runs.rundir import open_run
from tledge.runs.unfinished import unfinished
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier
from tledge.runtimes.files import measure_files

keras = pytest.importorskip("keras")
pytest.importorskip("onnx")

SIDE = 32
CLASSES = ("digit 0", "digit 1", "digit 7")


def convolutions(k: Any, side: int, first: list[Any], batch: int | None = None) -> list[Any]:
    return [
        k.layers.Input((side, side, 3), batch_size=batch),
        *first,
        k.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
        k.layers.BatchNormalization(momentum=0.8),
        k.layers.Conv2D(16, 3, strides=2, activation="relu"),
        k.layers.GlobalMaxPooling2D(),
        k.layers.Dropout(0.1),
    ]


def branched(k: Any, layers: list[Any]) -> Any:
    pixels = x = layers[0]
    for layer in layers[1:]:
        x = layer(x)
        if isinstance(layer, k.layers.BatchNormalization):
            x = k.layers.Add()([x, k.layers.Conv2D(8, 1, activation="relu")(x)])
    return k.Model(pixels, x)


@dataclass(frozen=True)
class Net:
    """A classifier of a few layers, what it takes, and what is said when it is adopted."""

    input: str | None
    end: Callable[[Any], Any] = lambda k: k.layers.Dense(3, activation="softmax")
    first: Callable[[Any], list[Any]] = lambda k: []
    side: int = SIDE
    library: str = "keras"
    suffix: str = ".keras"
    output: str | None = None
    branches: bool = False
    batch: int | None = None
    scaled: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels / 255

    @property
    def options(self) -> list[str]:
        said = (("--input", self.input), ("--output", self.output))
        return [word for option, value in said if value is not None for word in (option, value)]


def as_it_is(pixels: np.ndarray) -> np.ndarray:
    return pixels


def caffe(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., ::-1] - np.asarray([103.939, 116.779, 123.68])


def torch(pixels: np.ndarray) -> np.ndarray:
    return (pixels / 255 - np.asarray([0.485, 0.456, 0.406])) / np.asarray([0.229, 0.224, 0.225])


NETS = {
    "softmax": Net("0..1"),
    "rescaling": Net("0..255", first=lambda k: [k.layers.Rescaling(1 / 127.5, offset=-1)], scaled=as_it_is),
    "caffe": Net("caffe", side=40, scaled=caffe),
    "logits": Net("-1..1", end=lambda k: k.layers.Dense(3), output="logits", scaled=lambda p: p / 127.5 - 1),
    "sigmoid": Net("0..1", end=lambda k: k.layers.Dense(1, activation="sigmoid"), side=48),
    "torch": Net("torch", scaled=torch),
    "bgr": Net("bgr,0..1", scaled=lambda pixels: pixels[..., ::-1] / 255),
    "batches of 10": Net("0..1", batch=10),
    "keras 2 .h5": Net("0..1", library="tf_keras", suffix=".h5"),
    "keras 2 .keras": Net("0..255", first=lambda k: [k.layers.Rescaling(1 / 255)], library="tf_keras", scaled=as_it_is),
    "keras 3 .h5": Net("0..1", suffix=".h5"),
    "keras 2 SavedModel": Net("0..1", library="tf_keras", suffix=""),
    "keras 2 SavedModel with branches": Net("caffe", library="tf_keras", suffix="", branches=True, scaled=caffe),
}


@pytest.fixture(scope="module")
def two_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("two") / "two", 20, (0, 1))


class Trained:
    """Files of the nets, each trained when the first test asks for it."""

    def __init__(self, folder: Path, digits: Path, two_digits: Path) -> None:
        self._folder, self._digits, self._two = folder, digits, two_digits

    def data(self, name: str) -> Path:
        return self._two if name == "sigmoid" else self._digits

    def path(self, name: str) -> Path:
        path = self._folder / f"{name.replace(' ', '-').replace('.', '')}{NETS[name].suffix}"
        if not path.exists():
            self._train(name, path)
        return path

    def _train(self, name: str, path: Path) -> None:
        net, k = NETS[name], pytest.importorskip(NETS[name].library)
        k.utils.set_random_seed(0)
        layers = [*convolutions(k, net.side, net.first(k), net.batch), net.end(k)]
        model = branched(k, layers) if net.branches else k.Sequential(layers)
        loss = (
            k.losses.BinaryCrossentropy()
            if name == "sigmoid"
            else k.losses.SparseCategoricalCrossentropy(from_logits=net.output == "logits")
        )
        classes = tuple(sorted(folder.name for folder in self.data(name).iterdir()))
        pixels, labels = images_of(self.data(name), net.side, classes)
        model.compile(k.optimizers.Adam(0.01), loss)
        model.fit(net.scaled(pixels).astype(np.float32), labels, batch_size=10, epochs=25, verbose=0)
        model.save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Path, two_digits: Path) -> Trained:
    return Trained(tmp_path_factory.mktemp("nets"), digits, two_digits)


def adopt(model: Path, data: Path, out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return run_cli("adopt", model, "--data", data, "--out", out, *options)


def require_refused(done: subprocess.CompletedProcess[str], out: Path, *says: str) -> None:
    """Exit code 2, one line behind those of the progress, and nothing where the run would be."""
    assert done.returncode == 2, done.stdout + done.stderr
    *progress, line = done.stderr.strip().splitlines()
    assert all(other.startswith(("tledge: data: ", "tledge: decoding")) for other in progress), done.stderr
    assert line.startswith("tledge: expected")
    for words in says:
        assert words in line
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", NETS)
def test_a_run_that_answers_as_the_model_does(name: str, trained: Trained, tmp_path: Path) -> None:
    net, model, data = NETS[name], trained.path(name), trained.data(name)
    done = adopt(model, data, tmp_path / "run", *net.options)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(open_run(tmp_path / "run"))
    assert (manifest.origin, manifest.technique, manifest.head) == ("adopted", None, None)
    assert manifest.image_size_px == net.side
    assert manifest.weights.digest == measure_files(model).sha256
    pixels, labels = images_of(data, net.side, tuple(manifest.classes))
    library = pytest.importorskip(net.library)
    own_model = library.models.load_model(model, compile=False)
    own = own_model.predict(net.scaled(pixels).astype(np.float32), batch_size=10, verbose=0)
    if name == "sigmoid":
        own = np.concatenate([1 - own, own], axis=1)
    if name == "logits":
        own = np.exp(own - own.max(1, keepdims=True))
        own = own / own.sum(1, keepdims=True)
    reference = open_classifier(tmp_path / "run" / "model.keras", MODEL_OF_A_RUN).predict(pixels)
    np.testing.assert_allclose(reference, own, atol=1e-5)
    if net.output is None and name != "sigmoid":  # digits are grey, and tell no red from blue
        tinted = (pixels * np.asarray([1.0, 0.6, 0.3])).astype(np.uint8)
        found = open_classifier(tmp_path / "run" / "model.keras", MODEL_OF_A_RUN).predict(tinted)
        coloured = own_model.predict(net.scaled(tinted).astype(np.float32), batch_size=10, verbose=0)
        np.testing.assert_allclose(found, coloured, atol=1e-5)
    assert (reference.argmax(1) == labels).mean() > 0.8, "a net that guesses would prove nothing"
    assert manifest.training.val_accuracy > 0.7


@pytest.mark.parametrize(
    "name", ["rescaling", "caffe", "torch", "batches of 10", "logits", "sigmoid", "keras 2 SavedModel with branches"]
)
def test_everything_works_on_it(name: str, trained: Trained, tmp_path: Path) -> None:
    net, run = NETS[name], tmp_path / "run"
    assert adopt(trained.path(name), trained.data(name), run, *net.options).returncode == 0
    assert run_cli("export", run).returncode == 0
    assert {path.stem for path in open_run(run).artefacts()} == set(DEFAULT_RECIPES)
    check = tledge.check(run, max_drop=0.3, on_undecided="pass")
    assert check.passed
    assert all(item.drop.value <= 0.1 for item in check.artefacts)
    image = next(iter((trained.data(name) / "digit 1").iterdir()))
    done = run_cli("predict", run / "export" / "tflite-int8.tflite", image)
    assert done.returncode == 0, done.stderr
    assert "digit 1" in done.stdout


def hard_on_int8(path: Path, target: Path) -> Path:
    """The same function, through a layer whose first channel is 3000 times the others: 2 (x * s / s) - x."""
    model = keras.models.load_model(path)
    pixels = keras.Input((SIDE, SIDE, 3))
    x = pixels
    for layer in model.layers:
        x = layer(x)
        if isinstance(layer, keras.layers.BatchNormalization):
            scale = np.ones((1, 1, x.shape[-1], 1), np.float32)
            scale[0, 0, 0] = 3000
            up, down = (keras.layers.DepthwiseConv2D(1, use_bias=False, name=name) for name in ("up", "down"))
            y = down(up(x))
            up.set_weights([scale])
            down.set_weights([1 / scale])
            x = keras.layers.Subtract()([keras.layers.Rescaling(2.0)(y), x])
    keras.Model(pixels, x).save(target)
    return target


@pytest.mark.parametrize("recipe", ["tflite-int8", "onnx-int8"])
def test_layers_that_int8_breaks_return_to_float(recipe: str, trained: Trained, digits: Path, tmp_path: Path) -> None:
    model, run = hard_on_int8(trained.path("rescaling"), tmp_path / "hard.keras"), tmp_path / "run"
    assert adopt(model, digits, run, "--input=0..255").returncode == 0
    done = run_cli("export", run, "--recipe", recipe)
    whole = None if done.returncode else tledge.check(run, max_drop=1.0, on_undecided="pass").artefacts[0].drop.value
    assert whole is None or whole > 0.2, "int8 must break it"
    done = run_cli("export", run, "--recipe", recipe, "--max-drop", "0.05", "--force")
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((run / "export" / f"{recipe}.json").read_text())
    assert {"up", "down"} & set(sidecar["float_layers"])
    assert len(sidecar["float_layers"]) < 5, "not all of them"
    assert tledge.check(run, max_drop=1.0, on_undecided="pass").artefacts[0].drop.value <= 0.1


def test_what_adopting_prints(trained: Trained, digits: Path, tmp_path: Path) -> None:
    done = adopt(trained.path("caffe"), digits, tmp_path / "run", "--input", "caffe")
    for words in ("train", "val", "test", "digit 0, digit 1, digit 7", "caffe", "validation accuracy", "tledge export"):
        assert words in done.stdout
    assert "note: the data has no train, val and test folders" in done.stderr


def test_the_wrong_input_is_refused_and_the_right_one_named(trained: Trained, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = adopt(trained.path("caffe"), digits, out, "--input", "0..1")
    require_refused(done, out, "which is no better than a guess", "with --input=", ": pass that")


def test_a_missing_input_is_asked_for(trained: Trained, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    require_refused(adopt(trained.path("softmax"), digits, out), out, "--input", "0..255", "0..1", "-1..1", "caffe")


@pytest.mark.parametrize("option", ["--input={name}=0..1", "--input=rgb,0..1", "--input=mean:0,std:255"])
def test_other_ways_to_say_the_same(option: str, trained: Trained, digits: Path, tmp_path: Path) -> None:
    model, out = trained.path("softmax"), tmp_path / "run"
    assert adopt(model, digits, out, option.format(name=model.name)).returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--input=other.keras=0..1"], "got 'other.keras'"),
        (["--input=0..2"], "got '0..2'"),
        (["--input=0..1", "--output=scores"], "got 'scores'"),
        (["--input=rgb,caffe"], "expected bgr with the scaling caffe"),
        (["--input=0..1,nchw"], "nchw"),
        (["--input=0..1", "--val-fraction=1.5"], "1.5"),
    ],
)
def test_what_cannot_be(options: list[str], says: str, trained: Trained, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    require_refused(adopt(trained.path("softmax"), digits, out, *options), out, says)


def test_logits_are_not_taken_for_probabilities(trained: Trained, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    require_refused(adopt(trained.path("logits"), digits, out, "--input=-1..1"), out, "logits")


def test_labels_in_the_order_of_the_outputs(trained: Trained, digits: Path, tmp_path: Path) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "run"
    labels.write_text("digit 1\ndigit 7\ndigit 0\n")
    done = adopt(trained.path("softmax"), digits, out, "--input=0..1", "--labels", labels)
    require_refused(done, out, "no other --input makes it better; correct the order of --labels")
    labels.write_text("\n".join(CLASSES))
    assert adopt(trained.path("softmax"), digits, out, "--input=0..1", "--labels", labels).returncode == 0
    assert tuple(read_manifest(open_run(out)).classes) == CLASSES


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("digit 0\ndigit 1\n", "3"),
        ("digit 0\ndigit 1\ndigit 1\n", "expected each class once"),
        ("digit 0\ndigit 1\ndigit 8\n", "digit 7, digit 8 are in one alone"),
        (None, "expected class names, one a line"),
    ],
)
def test_labels_that_do_not_fit(lines: str | None, says: str, trained: Trained, digits: Path, tmp_path: Path) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "run"
    if lines is not None:
        labels.write_text(lines)
    require_refused(adopt(trained.path("softmax"), digits, out, "--input=0..1", "--labels", labels), out, says)


def test_another_number_of_folders(trained: Trained, two_digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = adopt(trained.path("softmax"), two_digits, out, "--input=0..1")
    require_refused(done, out, "one folder of images for each of the 3 classes", "has 2 (digit 0, digit 1)", "--labels")


def test_data_that_is_split_already_is_taken_so(trained: Trained, digits: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    for name in CLASSES:
        for number, path in enumerate(sorted((digits / name).iterdir())):
            folder = data / ("test" if number < 4 else "val" if number < 8 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    done = adopt(trained.path("softmax"), data, out, "--input=0..1")
    assert done.returncode == 0, done.stderr
    assert "note" not in done.stderr
    rows = read_split(open_run(out))
    assert {Path(row.path).parts[0] for row in rows} == {"train", "val", "test"}
    assert all(Path(row.path).parts[0] == row.subset for row in rows)


def test_a_saved_model_without_layers_is_refused(trained: Trained, digits: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "saved", tmp_path / "run"
    keras.models.load_model(trained.path("softmax")).export(folder, verbose=False)
    done = adopt(folder, digits, out, "--input=0..1")
    require_refused(done, out, "in saved, but this SavedModel holds a graph alone", "`model.save('x.keras')`")


def test_a_folder_that_is_no_saved_model(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    require_refused(adopt(digits, digits, out, "--input=0..1"), out, "saved_model.pb", "has none")


def test_a_saved_model_whose_graph_answers_otherwise(trained: Trained, digits: Path, tmp_path: Path) -> None:
    """A configuration of other layers with the same variables is found out by what the graph answers."""
    folder, out = tmp_path / "saved", tmp_path / "run"
    shutil.copytree(trained.path("keras 2 SavedModel"), folder)
    metadata = pytest.importorskip("tf_keras.protobuf.saved_metadata_pb2").SavedMetadata()
    metadata.ParseFromString((folder / "keras_metadata.pb").read_bytes())
    root = next(node for node in metadata.nodes if node.node_path == "root")
    content = json.loads(root.metadata)
    next(x for x in content["model_config"]["config"]["layers"] if x["class_name"] == "Conv2D")["config"][
        "activation"
    ] = "linear"
    root.metadata = json.dumps(content)
    (folder / "keras_metadata.pb").write_bytes(metadata.SerializeToString())
    require_refused(adopt(folder, digits, out, "--input=0..1"), out, "whose layers answer as its graph does in saved")


def grey() -> Any:
    return keras.Sequential(
        [keras.Input((32, 32, 1)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    )


def two_outputs() -> Any:
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Flatten()(pixels)
    return keras.Model(pixels, [keras.layers.Dense(3, activation="softmax")(x), keras.layers.Dense(2)(x)])


def no_scores() -> Any:
    pixels = keras.Input((32, 32, 3))
    return keras.Model(pixels, keras.layers.Conv2D(3, 3, activation="softmax")(pixels))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (grey, "an RGB input of 3 channels"),
        (two_outputs, "one output in model.keras, but it has 2"),
        (no_scores, "expected one score"),
    ],
)
def test_other_models_are_refused(make: Any, says: str, digits: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "model.keras", tmp_path / "run"
    make().save(path)
    require_refused(adopt(path, digits, out, "--input=0..1"), out, says)


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_files_that_are_no_models(content: bytes | None, digits: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "model.keras", tmp_path / "run"
    if content is not None:
        path.write_bytes(content)
    require_refused(adopt(path, digits, out, "--input=0..1"), out, "model.keras")


def test_a_model_that_guesses_is_refused(digits: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "model.keras", tmp_path / "run"
    end = keras.layers.Dense(3, activation="softmax", kernel_initializer="zeros")
    keras.Sequential([*convolutions(keras, SIDE, []), end]).save(path)
    require_refused(adopt(path, digits, out, "--input=0..1"), out, "expected a model that tells the classes apart")


def test_what_is_there_already_stays(trained: Trained, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    done = adopt(trained.path("softmax"), digits, out, "--input=0..1")
    assert done.returncode == 2
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_place_that_another_command_is_about_to_write(trained: Trained, digits: Path, tmp_path: Path) -> None:
    with unfinished(tmp_path / "run") as other:
        kept = other.work({"of": "a training"})
        done = adopt(trained.path("softmax"), digits, tmp_path / "run", "--input=0..1")
        assert done.returncode == 2
        assert "one command at a time" in done.stderr.strip().splitlines()[-1]
        assert kept.is_dir()
        assert not (tmp_path / "run").exists()


def test_the_same_twice(trained: Trained, digits: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert adopt(trained.path("rescaling"), digits, tmp_path / name, "--input=0..255").returncode == 0
    first, second = (open_run(tmp_path / name) for name in ("first", "second"))
    assert [row.sha256 for row in read_split(first, "test")] == [row.sha256 for row in read_split(second, "test")]
    assert read_manifest(first).data_fingerprint == read_manifest(second).data_fingerprint
