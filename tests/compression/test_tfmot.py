"""Quantization-aware training, pruning and clustering: on any run, in any allowed order, into ordinary models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import tledge
from tests.conftest import run_cli
from tledge.compression import ClusterSettings, LowRankSettings, PruneSettings, QatSettings, ShrinkSettings
from tledge.compression.chain import narrow
from tledge.compression.legacy_distill import DistillationData, Evaluator, LabelledExamples
from tledge.compression.legacy_net import preprocess, to_legacy, toolkit, weights_of
from tledge.compression.method import MethodSettings
from tledge.compression.methods.cluster import distinct
from tledge.compression.methods.prune import prune, pruned_layers, sparsity_of
from tledge.compression.methods.qat import Preserve, rebuild, train_quantized
from tledge.compression.optimize import OptimizedRun, optimize
from tledge.compression.options import require_order, settings_of
from tledge.core.dependencies import installed
from tledge.core.errors import MissingDependencyError, RunError, SettingsError
from tledge.core.files import sha256_file
from tledge.core.records import plain
from tledge.core.types import HEADS, TECHNIQUES, HeadName, TechniqueName
from tledge.model.forward import compiled
from tledge.model.ranges import ActivationRanges, read_ranges
from tledge.runs.images import data_root
from tledge.runs.manifest import moved, optimizations, read_manifest, write_manifest
from tledge.runs.rundir import RunDir, new_run, open_run
from tledge.runtimes import open_classifier

keras = pytest.importorskip("keras")
if not installed("tensorflow_model_optimization"):  # importing it here would switch tf.keras to Keras 2
    pytest.skip("needs the optimize extra", allow_module_level=True)

SPARSITY, CLUSTERS = 0.6, 8
CHAINS = (("qat",), ("filters", "qat"), ("low-rank", "qat"), ("prune", "qat"), ("cluster", "qat"))
# Every method and both heads; the techniques give chains of the same kind, and their trainings are the slow grid.
COVER = [
    pytest.param(chain, HEADS[row % len(HEADS)], marks=pytest.mark.slow if chain[0] == "filters" else ())
    for row, chain in enumerate(CHAINS)
]
GRID = [(chain, technique, head) for chain in CHAINS for technique in TECHNIQUES for head in HEADS]


def silent(*_: object) -> None:
    """Progress that nobody sees."""


def settings(method: str, epochs: int) -> MethodSettings:
    if method == "filters":
        return ShrinkSettings(speedup=2, epochs=epochs, pictures=80, last_layer="none")
    if method == "low-rank":
        return LowRankSettings(speedup=2, epochs=epochs, pictures=80, last_layer="none")
    if method == "prune":
        return PruneSettings(SPARSITY, epochs)
    return ClusterSettings(CLUSTERS, epochs) if method == "cluster" else QatSettings(epochs)


def load(run: RunDir) -> keras.Model:
    return keras.models.load_model(run.model, compile=False)


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: kernel for name, (kernel, _) in weights_of(model).items()}


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    from sklearn.datasets import load_digits

    chosen = np.round(load_digits().images[:24] * (255 / 16)).astype(np.uint8)
    return np.repeat(np.kron(chosen, np.ones((1, 4, 4), np.uint8))[..., np.newaxis], 3, axis=-1)


class Runs:
    """Finished runs by technique and head: the real VGG16 at 32 px, with an eighth of its filters unless `whole`."""

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self._folder = data, folder

    def get(self, technique: TechniqueName, head: HeadName, whole: bool = False, side: int = 32) -> Path:
        path = self._folder / f"{technique}-{head}-{whole}-{side}"
        if not path.exists():
            tledge.train(self._data, technique=technique, head=head, out=path, image_size=side, epochs=1)
            if not whole:
                self._narrow(open_run(path))
        return path

    def _narrow(self, run: RunDir) -> None:
        model = load(run)
        keep = {layer.name: np.arange(layer.filters // 8) for layer in model.layers if hasattr(layer, "filters")}
        narrow(model, keep).save(run.model)
        digest = sha256_file(run.model)
        write_manifest(run, replace(read_manifest(run), model_sha256=digest, reference_sha256=digest))


@pytest.fixture(scope="module")
def runs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(digits, tmp_path_factory.mktemp("by-technique"))


def expect_what_was_made(model: keras.Model, before: keras.Model, methods: tuple[str, ...]) -> None:
    if methods[-1] != "low-rank":
        assert [type(layer).__name__ for layer in model.layers] == [type(layer).__name__ for layer in before.layers]
    found = kernels(model)
    if "prune" in methods:
        assert min(sparsity_of(found[name]) for name in pruned_layers(model)) >= SPARSITY
    if "cluster" in methods:
        assert max(distinct(kernel) for kernel in found.values()) <= CLUSTERS


def expect_chain(parent: Path, methods: tuple[str, ...], out: Path, epochs: int) -> OptimizedRun:
    """Apply methods one run at a time; everything about every run must be right."""
    original = sha256_file(parent / "model.keras")
    for number, method in enumerate(methods):
        result = optimize(parent, settings(method, epochs), out / method, silent)
        done = methods[: number + 1]
        manifest = result.manifest
        assert tuple(step["method"] for step in optimizations(manifest)) == done
        assert manifest.reference_sha256 == original == sha256_file(result.run.reference)
        assert manifest.model_sha256 == sha256_file(result.run.model)
        expect_what_was_made(result.outcomes[-1].model, load(open_run(parent)), done)
        assert result.run.quantization.is_file() == (method == "qat")
        parent = result.run.path
    return result


@pytest.mark.parametrize(("methods", "head"), COVER)
def test_every_method_on_both_heads(
    methods: tuple[str, ...], head: HeadName, runs: Runs, tmp_path: Path, images: np.ndarray
) -> None:
    result = expect_chain(runs.get("feature-extraction", head), methods, tmp_path, epochs=0)
    if methods[0] == "low-rank":  # layers without an activation; files of others come below
        expect_integer_files(result.run, images)


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "technique", "head"), GRID)
def test_the_whole_grid_with_training_and_files(
    methods: tuple[str, ...], technique: TechniqueName, head: HeadName, runs: Runs, tmp_path: Path, images: np.ndarray
) -> None:
    result = expect_chain(runs.get(technique, head, whole=True), methods, tmp_path, epochs=1)
    expect_integer_files(result.run, images)


def quantized_answers(run: RunDir, images: np.ndarray) -> np.ndarray:
    """What the Keras 2 model with TFMOT's rounding says."""
    model = load(run)
    legacy = rebuild(model, read_ranges(run.quantization), Preserve())
    return probabilities(compiled(legacy)(preprocess(model, images)))


def expect_integer_files(run: RunDir, images: np.ndarray) -> None:
    """Both int8 files compute in integers and say what the quantized Keras 2 model says.

    Three images in four have to agree within 0.03 for TFLite, whose probabilities are multiples of 1/256 and whose mean
    subtraction is rounded too, within 0.02 for ONNX with 8-bit weights. Rounding can move an image that is between two
    classes by a tenth and more; a layer with a wrong range moves all.
    """
    folder = run.path / "mine"
    folder.mkdir(exist_ok=True)
    recipe = folder / "onnx-8bit.toml"
    recipe.write_text('format = "onnx"\nprecision = "int8"\n[calibration]\nimages = 1\n')
    made = {a.name: a for a in tledge.export(run.path, recipes=["tflite-int8", "onnx-int8", str(recipe)]).artefacts}
    kinds = Counter(type(layer).__name__ for layer in load(run).layers)
    convolutions, dense = kinds["Conv2D"], kinds["Dense"]
    assert convolutions >= 13
    assert plain(made["tflite-int8"].sidecar)["ops"]["CONV_2D int8"] == convolutions
    assert plain(made["tflite-int8"].sidecar)["ops"]["FULLY_CONNECTED int8"] == dense
    assert not [op for op in plain(made["tflite-int8"].sidecar)["ops"] if op.endswith("float32")]
    for name in ("onnx-int8", "onnx-8bit"):
        assert plain(made[name].sidecar)["ops"]["QLinearConv int8"] == convolutions
        assert plain(made[name].sidecar)["ops"]["QGemm int8"] == dense
        assert not {"Conv float32", "Gemm float32", "MatMul float32"} & set(plain(made[name].sidecar)["ops"])
    expected = quantized_answers(run, images)
    for name, tolerance in (("tflite-int8", 0.03), ("onnx-8bit", 0.02)):
        difference = np.abs(open_classifier(made[name].path).predict(images) - expected)
        assert np.quantile(difference.max(axis=1), 0.75) < tolerance, name
        assert difference.mean() < 0.02, name


@pytest.mark.parametrize("head", HEADS)
def test_the_chain_in_keras_2_answers_the_same(head: HeadName, runs: Runs, images: np.ndarray) -> None:
    model = load(open_run(runs.get("feature-extraction", head)))
    answers = probabilities(compiled(to_legacy(model))(preprocess(model, images)))
    np.testing.assert_allclose(answers, np.asarray(model(images.astype(np.float32))), atol=1e-6)


def test_keras_3_stays_what_it_was(runs: Runs, tmp_path: Path) -> None:
    toolkit()
    import tensorflow as tf

    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert tf.keras.__version__.startswith("3.")
    recipe = tmp_path / "again.toml"
    recipe.write_text('format = "tflite"\nprecision = "float32"\n')
    made = tledge.export(runs.get("feature-extraction", "gap"), recipes=[str(recipe)]).artefacts[0]
    assert plain(made.sidecar)["verification"]["agreement"] == 1


@pytest.fixture(scope="module")
def trained(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> OptimizedRun:
    """All methods that TFMOT brings in one go, each with an epoch of training."""
    run = runs.get("feature-extraction", "flatten")
    wanted = [settings(method, 1) for method in ("prune", "cluster", "qat")]
    return optimize(run, wanted, tmp_path_factory.mktemp("trained") / "run", silent)


def test_several_methods_in_one_go(trained: OptimizedRun, runs: Runs) -> None:
    steps = optimizations(trained.manifest)
    assert [step["method"] for step in steps] == ["prune", "cluster", "qat"]
    assert steps[2]["preserved"] == {"zeros": True, "clusters": True}
    assert trained.manifest.parent is not None
    assert trained.manifest.parent.path is None
    assert trained.manifest.parent.parent is not None
    assert trained.manifest.parent.parent.parent is not None
    assert trained.manifest.parent.parent.parent.path is not None
    assert [len(outcome.losses) for outcome in trained.outcomes] == [2, 2, 2]
    model = load(trained.run)
    expect_what_was_made(model, load(open_run(runs.get("feature-extraction", "flatten"))), ("prune", "cluster"))
    pruned, clustered = (kernels(trained.outcomes[index].model) for index in (0, 1))
    for name, kernel in kernels(model).items():
        assert not kernel[clustered[name] == 0].any()
        assert not clustered[name][pruned[name] == 0].any()
    assert trained.run.history.read_text().splitlines()[0] == "method,epoch,val_loss"


def test_a_copy_of_the_run_has_all_that_it_needs(trained: OptimizedRun, runs: Runs, tmp_path: Path) -> None:
    place = tmp_path / "deeper" / "copy"
    place.parent.mkdir()
    with new_run(place) as staged:
        staged.take_over(trained.run, ())
        write_manifest(staged, moved(trained.manifest, trained.run.path, place))
    made = tledge.export(place, recipes=["tflite-int8"])
    assert plain(made.artefacts[0].sidecar)["ranges"] == "qat"
    parent = read_manifest(open_run(place)).parent
    while parent is not None and parent.path is None:
        parent = parent.parent
    assert parent is not None
    assert (place / parent.path).resolve() == runs.get("feature-extraction", "flatten").resolve()


def test_integer_files_say_what_the_quantized_model_says(trained: OptimizedRun, images: np.ndarray) -> None:
    expect_integer_files(trained.run, images)
    sidecar = json.loads((trained.run.exports / "tflite-int8.json").read_text())
    assert sidecar["ranges"] == "qat"
    assert "calibration" not in sidecar
    assert sidecar["lineage"]["quantization_sha256"] == sha256_file(trained.run.quantization)
    assert sidecar["gzip_bytes"] < 0.7 * sidecar["size_bytes"]
    interpreter = open_classifier(trained.run.exports / "tflite-int8.tflite")
    assert (interpreter.input_dtype, interpreter.output_dtype) == ("uint8", "uint8")
    assert tledge.export(trained.run.path, recipes=["tflite-int8"]).artefacts[0].kept
    seven_bits = open_classifier(trained.run.exports / "onnx-int8.onnx").predict(images)
    np.testing.assert_allclose(seven_bits, quantized_answers(trained.run, images), atol=0.1)


def test_the_input_is_bytes_as_they_are(trained: OptimizedRun) -> None:
    from ai_edge_litert.interpreter import Interpreter

    tledge.export(trained.run.path, recipes=["tflite-int8"])
    reader = Interpreter(str(trained.run.exports / "tflite-int8.tflite"))
    assert reader.get_input_details()[0]["quantization"] == (1.0, 0)
    assert reader.get_output_details()[0]["quantization"] == (1 / 256, 0)


def test_reduce_range_gives_weights_seven_bits(trained: OptimizedRun) -> None:
    onnx = pytest.importorskip("onnx")
    tledge.export(trained.run.path, recipes=["onnx-int8"])
    graph = onnx.load(trained.run.exports / "onnx-int8.onnx").graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("kernel_quantized")]
    assert max(np.abs(kernel.astype(int)).max() for kernel in weights) == 64


def test_float_files_hold_the_plain_weights(trained: OptimizedRun, images: np.ndarray) -> None:
    made = tledge.export(trained.run.path, recipes=["onnx-float32"]).artefacts[0]
    assert "ranges" not in plain(made.sidecar)
    expected = np.asarray(load(trained.run)(images.astype(np.float32)))
    np.testing.assert_allclose(open_classifier(made.path).predict(images), expected, atol=1e-5)


def test_the_report_says_where_sparsity_shows(trained: OptimizedRun) -> None:
    tledge.export(trained.run.path, recipes=["onnx-float32"])
    result = tledge.report(trained.run.path)
    assert any("prune" in note and "compressed" in note for note in result.notes)
    assert "gzip MB" in result.run.report.read_text()


@pytest.fixture(scope="module")
def measured(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> OptimizedRun:
    """Ranges without training, of the other head."""
    out = tmp_path_factory.mktemp("measured") / "run"
    return optimize(runs.get("feature-extraction", "gap"), QatSettings(0), out, silent)


def test_integer_files_of_the_other_head(measured: OptimizedRun, images: np.ndarray) -> None:
    expect_integer_files(measured.run, images)


def test_changed_ranges_are_refused(measured: OptimizedRun, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(measured.run.path, copy)
    result = RunDir(copy)
    result.quantization.write_text(result.quantization.read_text().replace("qat", "me"))
    manifest = read_manifest(result)
    write_manifest(result, replace(manifest, data_root=str(data_root(measured.run, manifest))))
    with pytest.raises(RunError, match="SHA-256 differs"):
        tledge.export(copy, recipes=["onnx-int8"])
    with pytest.raises(RunError, match="around 0"):
        ActivationRanges({"fc1": (1.0, 2.0)})


def distillation_data(model: keras.Model, images: np.ndarray) -> DistillationData:
    answers = np.asarray(model(images.astype(np.float32)))
    examples = LabelledExamples(images, answers, answers.argmax(axis=1))
    return DistillationData(examples, examples)


@pytest.mark.slow
def test_training_never_ends_worse_than_it_starts(runs: Runs, images: np.ndarray) -> None:
    from tensorflow.python.framework.ops import gradient_registry

    model = load(open_run(runs.get("freeze", "flatten")))
    subsets = distillation_data(model, images)
    # At this rate every step destroys the net: the start must be kept.
    kept = set(gradient_registry.list())
    tuned = train_quantized(model, subsets, QatSettings(1, learning_rate=10.0), silent, Preserve())
    assert set(gradient_registry.list()) == kept  # nor does TensorFlow keep a step of it
    assert tuned.distillation.best == 0
    for name, (kernel, bias) in weights_of(model).items():
        np.testing.assert_array_equal(kernel, tuned.model.get_layer(name).get_weights()[0])
        np.testing.assert_array_equal(bias, tuned.model.get_layer(name).get_weights()[1])


@pytest.mark.slow
def test_pruning_never_ends_worse_than_pruning_at_once(runs: Runs, images: np.ndarray) -> None:
    model = load(open_run(runs.get("freeze", "flatten")))
    subsets = distillation_data(model, images)
    pruned = prune(model, subsets, PruneSettings(0.5, 1, learning_rate=10.0), silent)
    assert pruned.distillation.best == 0
    assert Evaluator(model, to_legacy(pruned.model), subsets.val)().loss == pytest.approx(pruned.distillation.losses[0])


def test_the_original_is_asked_at_its_own_size(runs: Runs, tmp_path: Path) -> None:
    run = runs.get("feature-extraction", "gap", side=64)
    wanted = [ShrinkSettings(speedup=4.1, image_size_px=32, epochs=0, pictures=80), QatSettings(0)]
    small = optimize(run, wanted, tmp_path / "small", silent)
    assert small.manifest.image_size_px == 32
    assert open_classifier(small.run.reference).image_size_px == 64
    assert small.shrunk is not None
    assert small.outcomes[1].losses[0] < 2 * np.log(3)


@pytest.mark.parametrize(
    ("history", "wanted", "message"),
    [
        (["qat"], ["prune"], "expected qat to be the last method, but got prune after qat; take the run before"),
        ([], ["qat", "qat"], "expected qat to be the last"),
        (["filters", "prune"], ["filters"], "got filters after prune, whose work it would destroy"),
        (["cluster"], ["prune"], "got prune after cluster"),
        ([], [], "at least one method"),
        (["prune"], ["prune"], "expected prune once"),
        ([], ["cluster", "cluster"], "expected cluster once"),
    ],
)
def test_orders_that_would_destroy_something(history: list[str], wanted: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        require_order(history, [settings(name, 0) for name in wanted])
    assert "\n" not in str(caught.value)


def test_orders_that_keep_everything() -> None:
    require_order(["filters", "filters", "low-rank"], [settings(name, 0) for name in ("prune", "cluster", "qat")])


@pytest.mark.parametrize(("history", "wanted"), [(["prune"], []), ([], [PruneSettings()])])
def test_clusters_of_a_pruned_model_leave_room_for_zero(history: list[str], wanted: list[PruneSettings]) -> None:
    require_order(history, [*wanted, ClusterSettings(3)])
    require_order([], [ClusterSettings(2)])
    with pytest.raises(SettingsError, match="at least 3 clusters after prune"):
        require_order(history, [*wanted, ClusterSettings(2)])


def test_a_quantized_run_is_refused_before_slow_work(measured: OptimizedRun, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="qat to be the last"):
        optimize(measured.run.path, ShrinkSettings(speedup=2), tmp_path / "no", silent)
    assert not (tmp_path / "no").exists()


def test_settings_that_make_no_sense() -> None:
    for make in (
        lambda: PruneSettings(0.0),
        lambda: PruneSettings(1.0),
        lambda: ClusterSettings(1),
        lambda: ClusterSettings(1000),
        lambda: QatSettings(epochs=-1),
        lambda: QatSettings(learning_rate=0.0),
        lambda: settings_of(("qat",), {"sparsity": 0.5}),
        lambda: settings_of(("prune",), {"clusters": 4}),
        lambda: settings_of(("prune", "qat"), {"speedup": 4}),
        lambda: settings_of(("nothing",), {}),
    ):
        with pytest.raises(SettingsError, match="expected"):
            make()
    assert settings_of(("prune", "qat"), {"sparsity": 0.7, "epochs": 2}) == (PruneSettings(0.7, 2), QatSettings(2))


def test_the_command_line_refuses_in_one_line(tmp_path: Path) -> None:
    completed = run_cli("optimize", tmp_path, "--method", "qat", "--sparsity", "0.5", "--out", tmp_path / "x")
    assert completed.returncode == 2
    assert "--sparsity only with --method prune" in completed.stderr
    assert completed.stderr.count("\n") == 1


def test_without_the_toolkit(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tledge.core import dependencies

    there = dependencies.installed
    monkeypatch.setattr(dependencies, "installed", lambda name: name != "tf_keras" and there(name))
    with pytest.raises(MissingDependencyError, match=r"tf_keras, .* run `pip install 'tledge\[optimize\]'`"):
        optimize(runs.get("feature-extraction", "gap"), QatSettings(), tmp_path / "x", silent)


def test_only_the_methods_import_keras_2() -> None:
    code = "import sys, tledge.compression.options, tledge.compression.optimize; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'tledge.compression.methods.qat'" in loaded
    assert "'tf_keras'" not in loaded
    assert "'tensorflow'" not in loaded
