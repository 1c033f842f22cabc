"""Method `qat`: train with the rounding of 8 bits in the loop, and learn the ranges of the activations.

B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018:
weights and activations are rounded in the forward pass, gradients pass as if they were not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.compression.distill import TrainingSchedule
from tledge.compression.flat import input_size
from tledge.compression.images import RunImages
from tledge.compression.legacy_distill import DistillationData, Evaluator, Tuned, distill_legacy, preprocessed
from tledge.compression.legacy_net import Weights, require_toolkit, to_legacy, toolkit, with_weights
from tledge.compression.method import Method, Outcome, tuned_outcome
from tledge.compression.methods.cluster import Cluster, distinct
from tledge.compression.methods.prune import Prune, sparsity_of
from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.progress import Progress
from tledge.core.settings import Settings, option
from tledge.core.types import Images
from tledge.model.forward import compiled
from tledge.model.preprocessing import PREPROCESSING
from tledge.model.ranges import PREPROCESSED, ActivationRanges, weight_limits

if TYPE_CHECKING:
    import keras

_COLLABORATION = "tensorflow_model_optimization.python.core.quantization.keras.collab_opts"
_WRAPPED = "quant_"
_SMALLEST_RANGE = 1e-6


@dataclass(frozen=True)
class QatSettings(Settings):
    """0 `epochs` keep the weights and only measure ranges. `learning_rate` is Adam's.

    Raises:
        SettingsError: a value out of range.
    """

    epochs: int = option(5, help="Most epochs of training; 0 for none.")
    learning_rate: float = option(1e-5, help="Adam's highest.")
    seed: int = option(0, help="Of everything random.")

    def __post_init__(self) -> None:
        super().__post_init__()
        TrainingSchedule(self.epochs, self.learning_rate, self.seed)


@dataclass(frozen=True)
class Preserve:
    """What must stay: `zeros` after `prune`, `clusters` after `cluster`."""

    zeros: bool = False
    clusters: bool = False


class Qat(Method[QatSettings]):
    """Quantization-aware training: for better int8 files, always the last method."""

    name = "qat"
    settings = QatSettings
    place = 50
    last = True

    def require_installed(self) -> None:
        """As `Method.require_installed`."""
        require_toolkit()

    def apply(
        self,
        model: keras.Model,
        settings: QatSettings,
        history: Sequence[str],
        images: RunImages,
        progress: Progress,
        work: Path,
    ) -> Outcome:
        """As `Method.apply`."""
        preserve = Preserve(zeros=Prune.name in history, clusters=Cluster.name in history)
        data = images.distillation_data(input_size(model), settings.seed, progress)
        file = work / "training.npz"
        return tuned_outcome(self.name, settings, train_quantized(model, data, settings, progress, preserve, file))


def train_quantized(
    model: keras.Model,
    data: DistillationData,
    settings: QatSettings,
    progress: Progress,
    preserve: Preserve,
    file: Path | None = None,
) -> Tuned:
    """Train a chain for 8-bit weights and activations.

    Args:
        model: a chain that tledge trained; left as it is.
        data: images and the original's answers.
        settings: how long.
        progress: called with (what is going on, epochs done, epochs in all).
        preserve: what earlier methods made and must stay.
        file: where the training keeps how far it is; None: nowhere.

    Returns:
        The chain with its float weights, and the ranges: together they are the quantized model.

    Raises:
        SettingsError: not a chain that tledge trains.
        MissingDependencyError: TFMOT or Keras 2 is not installed.
    """
    before = Evaluator(model, to_legacy(model), data.val)()
    student = rebuild(model, measure(model, data.train.images), preserve)
    schedule = TrainingSchedule(settings.epochs, settings.learning_rate, settings.seed)
    evaluator = Evaluator(model, student, data.val)
    distillation = distill_legacy(evaluator, data.train, schedule, progress, "quantization-aware training", file=file)
    weights = _weights(student)
    result = with_weights(model, weights)
    # TFMOT's weight ranges are one step old; those of the files follow from the weights, and so do these from here.
    _set_weight_limits(student)
    after = evaluator()
    details = {
        "preserved": {"zeros": preserve.zeros, "clusters": preserve.clusters},
        "sparsity": {name: round(sparsity_of(kernel), 6) for name, (kernel, _) in weights.items()},
        "distinct": {name: distinct(kernel) for name, (kernel, _) in weights.items()} if preserve.clusters else None,
    }
    return Tuned(result, before.accuracy, after.accuracy, distillation, details, _ranges(student))


def rebuild(model: keras.Model, ranges: ActivationRanges, preserve: Preserve) -> Any:
    """The quantized model in Keras 2: a chain's weights rounded, and its activations rounded within `ranges`.

    Returns:
        A `tf_keras` model from preprocessed images to logits, its TFMOT wrappers ready for training.
    """
    student = quantized(to_legacy(model), preserve)
    for name, (low, high) in _range_variables(student).items():
        found = ranges.of(name)
        low.assign(found[0])
        high.assign(found[1])
    _set_weight_limits(student)
    return student


def measure(model: keras.Model, images: Images) -> ActivationRanges:
    """First ranges: means of the batches' smallest and largest values, where TFMOT's moving average would end.

    It starts at ±6 and moves by a thousandth a batch, while VGG16's activations reach hundreds: without this, short
    training would cut nearly everything off.

    Args:
        model: the chain.
        images: (N, S, S, 3) uint8 of the training subset.
    """
    tf, _ = require_tensorflow()
    tf_keras, _ = toolkit()
    legacy = to_legacy(model)
    layers = [layer for layer in legacy.layers if layer.weights or type(layer).__name__ == "GlobalAveragePooling2D"]
    outputs = tf_keras.Model(legacy.input, [layer.output for layer in layers])
    call = compiled(outputs, lambda found: [(tf.reduce_min(values), tf.reduce_max(values)) for values in found])
    found = np.mean([np.asarray(call(batch)) for batch in preprocessed(model, images)], axis=0)
    limits = {
        layer.name: (min(0.0, float(low)), max(_SMALLEST_RANGE, float(high)))
        for layer, (low, high) in zip(layers, found, strict=True)
    }
    return ActivationRanges({PREPROCESSING: PREPROCESSED, **limits})


def _range_variables(student: Any) -> dict[str, tuple[Any, Any]]:
    """By layer: the variables of its activation's range."""
    found = {}
    for layer in student.layers[1:]:
        variables = _named(layer)
        low = [name for name in variables if name.endswith("_min") and name != "kernel_min"]
        if low:
            # The first wrapper rounds what preprocessing hands over and carries a name of TFMOT's.
            name = layer.name.removeprefix(_WRAPPED) if layer.name.startswith(_WRAPPED) else PREPROCESSING
            found[name] = (variables[low[0]], variables[low[0].removesuffix("_min") + "_max"])
    return found


def _named(layer: Any) -> dict[str, Any]:
    return {variable.name.rpartition("/")[2].partition(":")[0]: variable for variable in layer.weights}


def _weights(student: Any) -> Weights:
    named = {layer.name.removeprefix(_WRAPPED): _named(layer) for layer in student.layers}
    return {name: (v["kernel"].numpy(), v["bias"].numpy()) for name, v in named.items() if "kernel" in v}


def _set_weight_limits(student: Any) -> None:
    for layer in student.layers:
        variables = _named(layer)
        if "kernel_min" in variables:
            limit = weight_limits(variables["kernel"].numpy())
            variables["kernel_min"].assign(-limit)
            variables["kernel_max"].assign(limit)


def _ranges(student: Any) -> ActivationRanges:
    found = {name: (float(low.numpy()), float(high.numpy())) for name, (low, high) in _range_variables(student).items()}
    return ActivationRanges(found)


def quantized(legacy: Any, preserve: Preserve) -> Any:
    """Wrap every layer of a `tf_keras` chain in TFMOT's 8-bit rounding, by the scheme that preserves what must stay."""
    _, toolkit_module = toolkit()
    quantization = toolkit_module.quantization.keras
    combine = toolkit_module.experimental.combine
    annotated = quantization.quantize_annotate_model(legacy)
    with quantization.quantize_scope(), quiet():
        if preserve.clusters:
            registry = require(f"{_COLLABORATION}.cluster_preserve.cluster_preserve_quantize_registry")
            # TFMOT takes the weights of a convolution for clustered per channel if all channels happen to use equally
            # many centroids, and would then train other centroids for every channel.
            with _replaced(registry, "get_centroids", lambda _, weight, __: _centroids(registry, weight)):
                return quantization.quantize_apply(annotated, _cluster_scheme(combine, registry, preserve.zeros))
        if preserve.zeros:
            return quantization.quantize_apply(annotated, combine.Default8BitPrunePreserveQuantizeScheme())
        return quantization.quantize_apply(annotated)


@contextlib.contextmanager
def _replaced(module: Any, name: str, replacement: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, replacement)
    try:
        yield
    finally:
        setattr(module, name, original)


def _centroids(registry: Any, weight: Any) -> tuple[Any, int, Any, bool]:
    """Distinct values of a whole layer, their number, each weight's index among them; not per channel."""
    values, indices = registry.get_unique(weight)
    return values, int(values.shape[0]), indices, False


def _cluster_scheme(combine: Any, registry: Any, zeros: bool) -> Any:
    class OneQuantizerEach(registry.Default8bitClusterPreserveQuantizeRegistry):  # type: ignore[misc]
        """TFMOT shares a quantizer among layers, and the first layer without zeros switches its sparsity off."""

        def get_quantize_config(self, layer: Any) -> Any:
            return registry.Default8bitClusterPreserveQuantizeRegistry(zeros).get_quantize_config(layer)

    class Scheme(combine.Default8BitClusterPreserveQuantizeScheme):  # type: ignore[misc]
        """The cluster-preserving scheme with the registry above."""

        def get_quantize_registry(self) -> Any:
            return OneQuantizerEach(zeros)

    return Scheme(preserve_sparsity=zeros)


METHOD = Qat()
