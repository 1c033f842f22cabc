"""Weights: every kind of file gives the same 26 tensors; wrong and truncated files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tledge.core.errors import WeightsError
from tledge.model import weights
from tledge.model.catalogue import catalogue_folder, load_candidate
from tledge.model.vgg16 import CONV_LAYERS, build
from tledge.model.weights import TrunkWeights, digest_of, resolve

keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def published() -> keras.Model:
    return keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def digest(published: keras.Model) -> str:
    return digest_of({name: tuple(published.get_layer(name).get_weights()) for name in CONV_LAYERS})


@pytest.fixture(scope="module")
def files(published: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tledge.conversion.onnx import float_model
    from tledge.model.inference import inference_graph

    folder = tmp_path_factory.mktemp("weights")
    tensors = {name: tuple(published.get_layer(name).get_weights()) for name in CONV_LAYERS}
    ours = build(3, 32, "flatten", TrunkWeights(tensors, "test", ""))
    kinds = {kind: folder / f"vgg16{kind}" for kind in (".weights.h5", ".h5", ".keras", ".onnx")}
    published.save_weights(kinds[".weights.h5"])
    published.save(kinds[".h5"])
    ours.save(kinds[".keras"])
    # The inference form swaps the first kernel's channels: undo that, as an exporter of the plain network would.
    graph = inference_graph(ours)
    first = graph.call("block1_conv1").layer
    kernel, bias = first.get_weights()
    first.set_weights([kernel[:, :, ::-1, :], bias])
    kinds[".onnx"].write_bytes(float_model(graph).proto.SerializeToString())
    return kinds


@pytest.mark.parametrize("kind", [".weights.h5", ".h5", ".keras", ".onnx"])
def test_every_kind_of_file_gives_the_same_tensors(files: dict[str, Path], kind: str, digest: str) -> None:
    found = resolve(str(files[kind]))
    assert found is not None
    assert tuple(found.tensors) == CONV_LAYERS
    assert found.digest == digest


@pytest.mark.parametrize("kind", [".weights.h5", ".h5", ".keras", ".onnx"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_truncated_file(files: dict[str, Path], kind: str, keep: float, tmp_path: Path) -> None:
    cut = tmp_path / f"cut{kind}"
    content = files[kind].read_bytes()
    cut.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(WeightsError, match=r"cut.*"):
        resolve(str(cut))


def test_onnx_with_its_tensors_in_a_file_of_their_own(
    files: dict[str, Path], digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "vgg16.onnx"
    onnx.save(onnx.load(files[".onnx"]), path, save_as_external_data=True, location="vgg16.onnx.data")
    for folder, name in ((tmp_path, "model/vgg16.onnx"), (path.parent, "vgg16.onnx")):
        monkeypatch.chdir(folder)
        found = resolve(name)
        assert found is not None
        assert found.digest == digest
    data = path.with_name("vgg16.onnx.data")
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"whole weights of vgg16.onnx beside it, .*; copy both files again"):
        resolve(str(path))
    data.rename(tmp_path / data.name)
    with pytest.raises(WeightsError, match=r"in vgg16.onnx.data beside it, but there is none"):
        resolve(str(path))
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.external_data:
            tensor.external_data[0].value = f"../{data.name}"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"names '\.\./vgg16.onnx.data'"):
        resolve(str(path))


def test_other_network(tmp_path: Path) -> None:
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.Conv2D(4, 3)]).save_weights(path)
    with pytest.raises(WeightsError, match=r"13 3x3 convolutions .* found 2"):
        resolve(str(path))


def test_narrow_vgg16_names_the_first_layer_that_differs(tmp_path: Path) -> None:
    path = tmp_path / "narrow.weights.h5"
    layers = [keras.layers.Conv2D(64, 3, padding="same", name=name) for name in CONV_LAYERS]
    keras.Sequential([keras.Input((32, 32, 3)), *layers]).save_weights(path)
    with pytest.raises(WeightsError, match="block2_conv1"):
        resolve(str(path))


def test_not_finite(files: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(files[".onnx"])
    tensor = next(t for t in model.graph.initializer if t.name == "block3_conv1/kernel")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = tmp_path / "nan.onnx"
    onnx.save(model, path)
    with pytest.raises(WeightsError, match="block3_conv1 holds NaN"):
        resolve(str(path))


@pytest.mark.parametrize("name", ["missing.h5", "imagnet"])
def test_missing_file(name: str) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        resolve(name)


def test_unknown_suffix(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match=r"\.h5, \.keras, \.onnx"):
        resolve(str(path))


def test_random_has_no_file() -> None:
    assert resolve("random") is None


def pin(monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    """Let the catalogue's ImageNet trunk have another digest."""
    imagenet = load_candidate(catalogue_folder() / "vgg16-imagenet.toml")
    assert imagenet.trunk is not None
    pinned = replace(imagenet, trunk=replace(imagenet.trunk, digest=digest))
    monkeypatch.setattr(weights, "load_candidate", lambda _: pinned)


def test_other_tensors_than_the_pinned_ones_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, Path], digest: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.weights.h5"
    keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3)).save_weights(other)
    pin(monkeypatch, digest)
    monkeypatch.setattr(weights, "cached_trunk", lambda: other)
    monkeypatch.setattr(weights, "_download", lambda: files[".h5"])
    assert resolve("imagenet").source == "keras download"

    def offline() -> Path:
        raise OSError("no network")

    monkeypatch.setattr(weights, "_download", offline)
    monkeypatch.setattr(weights, "packaged_trunk", lambda: files[".onnx"])
    assert resolve("imagenet").source == "packaged trunk (weights extra)"
    monkeypatch.setattr(weights, "packaged_trunk", lambda: other)
    with pytest.raises(WeightsError, match=f"expected tensors with SHA-256 {digest}"):
        resolve("imagenet")


def test_order_of_imagenet_sources(monkeypatch: pytest.MonkeyPatch, files: dict[str, Path], digest: str) -> None:
    def offline() -> Path:
        raise OSError("no network")

    pin(monkeypatch, digest)
    monkeypatch.setattr(weights, "cached_trunk", lambda: None)
    monkeypatch.setattr(weights, "packaged_trunk", lambda: files[".onnx"])
    monkeypatch.setattr(weights, "_download", offline)
    found = resolve("imagenet")
    assert found is not None
    assert found.source == "packaged trunk (weights extra)"
    monkeypatch.setattr(weights, "_download", lambda: files[".h5"])
    assert resolve("imagenet").source == "keras download"
    monkeypatch.setattr(weights, "cached_trunk", lambda: files[".h5"])
    assert resolve("imagenet").source == "keras cache"
    monkeypatch.setattr(weights, "cached_trunk", lambda: None)
    monkeypatch.setattr(weights, "_download", offline)
    monkeypatch.setattr(weights, "packaged_trunk", lambda: None)
    with pytest.raises(WeightsError, match="no network"):
        resolve("imagenet")


def test_packaged_trunk_is_imagenet() -> None:
    path = weights.packaged_trunk()
    assert path is not None, "the weights extra is part of the dev installation"
    _, bias = weights.read_trunk(path).tensors["block1_conv1"]
    # The first biases of the file that Keras distributes.
    np.testing.assert_allclose(bias[:4], [0.73429835, 0.09340367, 0.06775674, 0.8862966], rtol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_all_thirteen_with_batch_normalization(published: keras.Model, suffix: str, tmp_path: Path) -> None:
    """The same function as the published network, its kernels a tenth and their outputs ten times."""
    x = pixels = keras.Input((32, 32, 3))
    for layer in published.layers[1:]:
        if layer.name not in CONV_LAYERS:
            x = keras.layers.MaxPooling2D()(x)
            continue
        kernel, bias = layer.get_weights()
        convolution = keras.layers.Conv2D(len(bias), 3, padding="same", use_bias=False)
        norm = keras.layers.BatchNormalization(epsilon=1e-3)
        x = keras.layers.ReLU()(norm(convolution(x)))
        convolution.set_weights([kernel * 0.1])
        norm.set_weights([np.full_like(bias, 10), bias, np.zeros_like(bias), np.full_like(bias, 0.999)])
    model, path = keras.Model(pixels, x), tmp_path / f"bn{suffix}"
    if suffix == ".weights.h5":
        model.save_weights(path)
        with pytest.raises(
            WeightsError, match=r"also holds layers/batch_normalization/vars and \d+ more, .*; pass the whole"
        ):
            resolve(str(path))
        return
    model.save(path)
    found = resolve(str(path))
    assert found is not None
    for name in CONV_LAYERS:
        for mine, theirs in zip(found.tensors[name], published.get_layer(name).get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    assert "13 normalizations folded" in found.notes[0]
