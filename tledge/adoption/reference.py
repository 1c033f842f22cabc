"""A foreign Keras model in the form of a run's reference: raw RGB pixels in, probabilities of all classes out."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.core.dependencies import quiet, require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.image_size import height_width
from tledge.model.graph import Call, Graph, Value, graph_of
from tledge.model.inference import compute_in_float32, copied_layer
from tledge.model.preprocessing import preprocessing_layer
from tledge.runtimes import ImageClassifier
from tledge.runtimes.declared import Declaration
from tledge.runtimes.files import require_openable
from tledge.runtimes.form import ModelForm
from tledge.runtimes.keras import KerasAdapter
from tledge.runtimes.keras_files import load_model
from tledge.runtimes.options import DEFAULT_OPTIONS
from tledge.runtimes.registry import open_adapter, runtime_of
from tledge.runtimes.saved_model import require_computing_ops

if TYPE_CHECKING:
    import keras

_FORMATS = (".keras", ".h5", ".hdf5")
_COMPARED = 16
# Two libraries add the same numbers in another order.
_TOLERANCE = 1e-4


def open_layers(path: Path, declared: Declaration) -> ImageClassifier:
    """Open a model of Keras by its layers, a SavedModel too, whose graph would say less of what it takes and gives.

    Args:
        path: a `.keras` or `.h5` file, or a SavedModel directory of Keras 2.
        declared: what people say about its input and output.

    Raises:
        ArtefactError: not a whole Keras model of standard layers, or not a classifier of RGB images.
        SettingsError: what is declared contradicts itself.
        MissingDependencyError: Keras 2 wrote it, and tf_keras is not installed.
    """
    runtime_of(path)
    if path.is_dir():
        require_computing_ops(path)
    elif path.suffix.lower() not in _FORMATS:
        raise ArtefactError(
            f"expected a Keras model with its layers ({', '.join(_FORMATS)}, or a SavedModel of Keras 2), but got "
            f'{path.name}; save the model with `model.save("model.keras")`'
        )
    else:
        require_openable(path)
    return ImageClassifier(path.name, KerasAdapter(path, None, DEFAULT_OPTIONS), declared)


def load_layers(path: Path, form: ModelForm) -> keras.Model:
    """Load a model of Keras 3 or Keras 2 as a model of Keras 3, with its layers.

    Args:
        path: as for `open_layers`.
        form: how the model takes pixels.

    Raises:
        ArtefactError: not a whole Keras model of standard layers, one that Keras 3 cannot take over, or a SavedModel
            whose graph answers otherwise than its layers.
        MissingDependencyError: Keras 2 wrote it, and tf_keras is not installed.
    """
    model = _of_keras3(path)
    if path.is_dir():
        _require_answers_of_graph(path, model, form)
    return model


def _of_keras3(path: Path) -> keras.Model:
    _, keras = require_tensorflow()
    model = load_model(path)
    if isinstance(model, keras.Model):
        return model
    # Keras 3 reads what Keras 2 wrote in the HDF5 format, and nothing newer of it.
    with tempfile.TemporaryDirectory(prefix="tledge-") as folder, quiet():
        file = Path(folder) / "model.h5"
        model.save(file, save_format="h5", include_optimizer=False)
        try:
            return keras.models.load_model(file, compile=False, safe_mode=True)
        except (ValueError, TypeError, KeyError) as error:
            raise ArtefactError(
                f"expected a model of Keras 2 that Keras 3 can take over in {path.name}, but it refuses it "
                f"({str(error).splitlines()[0][:160]}); rebuild the model in Keras 3 and load the weights"
            ) from None


def _require_answers_of_graph(path: Path, model: keras.Model, form: ModelForm) -> None:
    """A SavedModel says twice what it computes: as layers with variables, and as a graph, which is what others run."""
    graph, random = open_adapter(path), np.random.default_rng(0)
    # Noise alone looks the same everywhere: each image has a colour of its own beneath.
    noise = random.uniform(0, 1, (_COMPARED, *height_width(form.image_size_px), 3))
    images = noise * random.integers(0, 256, (_COMPARED, 1, 1, 3))
    for image in images.astype(np.uint8):
        pixels = form.encode(image[None])
        graph.bind([pixels])
        graph.invoke()
        with quiet():  # Keras warns of inputs that the file holds in a list
            found = model(pixels, training=False)
        if not np.allclose(graph.read()[0], found, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise ArtefactError(
                f"expected a SavedModel whose layers answer as its graph does in {path.name}, but they differ; save "
                "the model again with `model.save('x.keras')`"
            )


def reference_model(model: keras.Model, form: ModelForm, *, is_single_score: bool) -> keras.Model:
    """Put what an app would have to do in front of and behind a model.

    Args:
        model: as for `graph_of`; its layers become those of the result.
        form: how it takes pixels and what its output is.
        is_single_score: whether its one output is the score of the second of two classes.

    Returns:
        A functional model from (N, H, W, 3) RGB pixels of 0..255 to (N, C) probabilities.

    Raises:
        ArtefactError: see `graph_of`, or a layout that has no form here.
    """
    _, keras = require_tensorflow()
    if form.layout != "nhwc":
        raise ArtefactError(
            f"expected a model that takes images as height, width, channels, but {form.name} takes channels first; "
            "rebuild it with `data_format='channels_last'`"
        )
    graph = _with_own_names(graph_of(model))
    for call in graph.calls:
        compute_in_float32(call)
    if is_single_score:
        graph = _with_two_scores(graph, form)
    elif form.output_kind == "logits":
        graph = _followed_by(graph, keras.layers.Softmax(name="probabilities"))
    elif form.output_kind != "distribution":
        raise ArtefactError(
            f"expected class scores that sum to 1 from {form.name}, but --output says {form.output_kind}, one for each "
            "class by itself; adopt a model that tells classes apart"
        )
    pixels = keras.Input(graph.input_shape, name="image")
    result = keras.Model(pixels, graph.run(_preprocessed(pixels, form)), name=model.name)
    if len(result.output.shape) != 2:
        raise ArtefactError(
            f"expected one score for each class from {form.name}, but it puts out {tuple(result.output.shape[1:])}; "
            "use a classifier"
        )
    return result


def _with_own_names(graph: Graph) -> Graph:
    """Rename layers of inner models that share a name with another one, which one model cannot hold."""
    seen: set[int] = set()
    calls = []
    for call in graph.calls:
        is_again = id(call.layer) in seen
        seen.add(id(call.layer))
        if call.name != call.layer.name and not is_again and hasattr(call.layer, "get_weights"):
            call = replace(call, layer=copied_layer(call.layer, {"name": call.name}, call.layer.get_weights()))
        calls.append(call)
    return replace(graph, calls=tuple(calls))


def _preprocessed(pixels: Any, form: ModelForm) -> Any:
    mean, std = np.asarray(form.scaling.mean), np.asarray(form.scaling.std)
    order = np.eye(3)[::-1] if form.channels == "bgr" else np.eye(3)
    if form.channels == "rgb" and not mean.any() and (std == 1).all():
        return pixels
    # As in tledge's own models one matrix and one offset, which exporting folds into the first convolution.
    return preprocessing_layer(tuple(pixels.shape[1:]), order / std, -mean / std)(pixels)


def _followed_by(graph: Graph, layer: Any) -> Graph:
    after = Value(graph.last_number + 1)
    return replace(graph, calls=(*graph.calls, Call(layer.name, layer, (graph.output,), {}, (after,))), output=after)


def _with_two_scores(graph: Graph, form: ModelForm) -> Graph:
    """One sigmoid as a softmax over two classes, which is the same function: sigmoid(z) = softmax(0, z)[1]."""
    _, keras = require_tensorflow()
    last = next(call for call in graph.calls if graph.output in call.outputs)
    activation = getattr(getattr(last.layer, "activation", None), "__name__", "linear")
    if last.kind != "Dense" or activation != ("linear" if form.output_kind == "logits" else "sigmoid"):
        raise ArtefactError(
            f"expected Dense(1) with a sigmoid at the end of {form.name}, but {last.name} is a {last.kind} with "
            f"{activation}; let the model end with `Dense(2, activation='softmax')`"
        )
    kernel, *bias = last.layer.get_weights()
    config = last.layer.get_config() | {"units": 2, "activation": "softmax", "use_bias": True}
    two = keras.layers.Dense.from_config(config)
    two.build((None, len(kernel)))
    score = bias[0] if bias else np.zeros(1, np.float32)
    two.set_weights([np.concatenate([np.zeros_like(kernel), kernel], axis=1), np.concatenate([[0.0], score])])
    return replace(graph, calls=tuple(replace(call, layer=two) if call is last else call for call in graph.calls))
