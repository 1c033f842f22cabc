"""Method `qat`: train with the rounding of 8 bits in the loop, and learn the ranges of the activations.

B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018:
weights and activations are rounded in the forward pass, gradients pass as if they were not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.compression.distill import TrainingSchedule
from tledge.compression.flat import WEIGHTED, input_size
from tledge.compression.images import RunImages
from tledge.compression.legacy_distill import DistillationData, Evaluator, Tuned, distill_legacy, preprocessed
from tledge.compression.legacy_net import (
    Weights,
    legacy_graph,
    legacy_layer,
    no_legacy_form,
    require_toolkit,
    to_legacy,
    toolkit,
    with_weights,
)
from tledge.compression.method import Method, Outcome, tuned_outcome
from tledge.compression.methods.cluster import Cluster, distinct
from tledge.compression.methods.prune import Prune, sparsity_of
from tledge.core.dependencies import quiet, require, require_tensorflow
from tledge.core.progress import Progress
from tledge.core.settings import Settings, option
from tledge.core.types import Images
from tledge.model.forward import compiled
from tledge.model.preprocessing import PREPROCESSING
from tledge.model.ranges import ActivationRanges, preprocessed_range, weight_limits

if TYPE_CHECKING:
    import keras

_QUANTIZATION = "tensorflow_model_optimization.python.core.quantization.keras"
_DEFAULT, _COLLABORATION = f"{_QUANTIZATION}.default_8bit", f"{_QUANTIZATION}.collab_opts"
_WRAPPED = "quant_"
_KERNELS = ("kernel", "depthwise_kernel")
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

    def supports(self, model: keras.Model) -> str | None:
        """As `Method.supports`: flat nets whose layers TFMOT rounds as 8-bit files do."""
        return no_legacy_form(model) or _not_rounded(model)

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


def _not_rounded(model: keras.Model) -> str | None:
    toolkit()
    registry = require(f"{_DEFAULT}.default_8bit_quantize_registry").Default8BitQuantizeRegistry()
    for call in legacy_graph(model).calls:
        layer = legacy_layer(call)
        if not _knows(registry, layer):
            kind = f"activation layer of {call.layer.activation.__name__}" if call.kind == "Activation" else call.kind
            return (
                "expected layers whose 8-bit rounding TensorFlow's Model Optimization Toolkit can train, but "
                f"{call.name} is of another kind, {kind}; use low-rank, prune or cluster, or export int8 files with "
                "--max-drop"
            )
    return None


def _knows(registry: Any, layer: Any) -> bool:
    if not registry.supports(layer):
        return False
    try:
        # Of activations it takes all as layers, and some functions.
        registry.get_quantize_config(layer).get_output_quantizers(layer)
    except ValueError:
        return False
    return True


def train_quantized(
    model: keras.Model,
    data: DistillationData,
    settings: QatSettings,
    progress: Progress,
    preserve: Preserve,
    file: Path | None = None,
) -> Tuned:
    """Train a flat net for 8-bit weights and activations.

    Args:
        model: a net that the method supports; left as it is.
        data: images and the original's answers.
        settings: how long.
        progress: called with (what is going on, epochs done, epochs in all).
        preserve: what earlier methods made and must stay.
        file: where the training keeps how far it is; None: nowhere.

    Returns:
        The net with its float weights, and the ranges: together they are the quantized model.

    Raises:
        SettingsError: a layer that Keras 2 does not train.
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
    kernels = {layer.name: weights[layer.name][0] for layer in model.layers if type(layer).__name__ in WEIGHTED}
    details = {
        "preserved": {"zeros": preserve.zeros, "clusters": preserve.clusters},
        "sparsity": {name: round(sparsity_of(kernel), 6) for name, kernel in kernels.items()},
        "distinct": {name: distinct(kernel) for name, kernel in kernels.items()} if preserve.clusters else None,
    }
    return Tuned(result, before.accuracy, after.accuracy, distillation, details, _ranges(student))


def rebuild(model: keras.Model, ranges: ActivationRanges, preserve: Preserve) -> Any:
    """The quantized model in Keras 2: a net's weights rounded, and its activations rounded within `ranges`.

    Returns:
        A `tf_keras` model from preprocessed images to logits, its TFMOT wrappers ready for training.
    """
    student = _quantized(model, preserve)
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
        model: a flat net.
        images: (N, H, W, 3) uint8 of the training subset.
    """
    tf, _ = require_tensorflow()
    tf_keras, _ = toolkit()
    legacy = to_legacy(model)
    layers = legacy.layers[1:]
    outputs = tf_keras.Model(legacy.input, [layer.output for layer in layers])
    call = compiled(outputs, lambda found: [(tf.reduce_min(values), tf.reduce_max(values)) for values in found])
    found = np.mean([np.asarray(call(batch)) for batch in preprocessed(model, images)], axis=0)
    limits = {
        layer.name: (min(0.0, float(low)), max(_SMALLEST_RANGE, float(high)))
        for layer, (low, high) in zip(layers, found, strict=True)
    }
    return ActivationRanges({PREPROCESSING: preprocessed_range(*model.layers[1].get_weights()), **limits})


def _range_variables(student: Any) -> dict[str, tuple[Any, Any]]:
    """By layer: the variables of its activation's range."""
    found = {}
    for layer in student.layers[1:]:
        variables = _named(layer)
        low = [name for name in variables if name.endswith("_min") and not name.endswith("kernel_min")]
        if low:
            # The first wrapper rounds what preprocessing hands over and carries a name of TFMOT's.
            name = layer.name.removeprefix(_WRAPPED) if layer.name.startswith(_WRAPPED) else PREPROCESSING
            found[name] = (variables[low[0]], variables[low[0].removesuffix("_min") + "_max"])
    return found


def _named(layer: Any) -> dict[str, Any]:
    return {variable.name.rpartition("/")[2].partition(":")[0]: variable for variable in layer.weights}


def _weights(student: Any) -> Weights:
    named = {layer.name.removeprefix(_WRAPPED): _named(layer) for layer in student.layers}
    return {
        name: (variables[kernel].numpy(), variables["bias"].numpy())
        for name, variables in named.items()
        for kernel in _KERNELS
        if kernel in variables
    }


def _set_weight_limits(student: Any) -> None:
    for layer in student.layers:
        variables = _named(layer)
        for kernel in _KERNELS:
            if f"{kernel}_min" in variables:
                limit = weight_limits(variables[kernel].numpy(), is_depthwise=kernel == "depthwise_kernel")
                variables[f"{kernel}_min"].assign(-limit)
                variables[f"{kernel}_max"].assign(limit)


def _ranges(student: Any) -> ActivationRanges:
    found = {name: (float(low.numpy()), float(high.numpy())) for name, (low, high) in _range_variables(student).items()}
    return ActivationRanges(found)


def _quantized(model: keras.Model, preserve: Preserve) -> Any:
    """A flat net in Keras 2, every layer in TFMOT's 8-bit rounding, by the scheme that keeps what must stay."""
    _, toolkit_module = toolkit()
    quantization = toolkit_module.quantization.keras
    graph = legacy_graph(model)
    before_relu = frozenset(call.name for call in graph.calls if graph.relu_of(call) is not None)
    scheme = _scheme(toolkit_module, preserve, before_relu)
    annotated = quantization.quantize_annotate_model(to_legacy(model))
    clusters = require(f"{_COLLABORATION}.cluster_preserve.cluster_preserve_quantize_registry")
    # TFMOT takes the weights of a convolution for clustered per channel if all channels happen to use equally many
    # centroids, and would then train other centroids for every channel.
    with (
        quantization.quantize_scope(),
        quiet(),
        _replaced(clusters, "get_centroids", lambda _, weight, __: _centroids(clusters, weight)),
    ):
        return quantization.quantize_apply(annotated, scheme)


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


def _scheme(toolkit_module: Any, preserve: Preserve, before_relu: Collection[str]) -> Any:
    """TFMOT's 8-bit scheme, rounding what files round.

    TFMOT's own transformations leave the weights of a convolution unrounded that has a ReLU of its own behind it, and
    what goes into a concatenation unrounded.

    Args:
        toolkit_module: TFMOT.
        preserve: what must stay.
        before_relu: names of layers whose output only a ReLU reads; what it puts out is rounded instead.
    """
    default = require(f"{_DEFAULT}.default_8bit_quantize_registry")
    transforms = require(f"{_DEFAULT}.default_8bit_transforms")
    transformer = require(f"{_QUANTIZATION}.graph_transformations.model_transformer").ModelTransformer
    tf_keras, _ = toolkit()

    def registry() -> Any:
        if preserve.clusters:
            module = require(f"{_COLLABORATION}.cluster_preserve.cluster_preserve_quantize_registry")
            return module.Default8bitClusterPreserveQuantizeRegistry(preserve.zeros)
        if preserve.zeros:
            module = require(f"{_COLLABORATION}.prune_preserve.prune_preserve_quantize_registry")
            return module.Default8bitPrunePreserveQuantizeRegistry()
        return default.Default8BitQuantizeRegistry()

    class Registry:
        """A registry of its own for each layer.

        TFMOT shares a quantizer among layers, and the first layer without zeros switches its sparsity off.
        """

        def supports(self, layer: Any) -> bool:
            return bool(registry().supports(layer))

        def get_quantize_config(self, layer: Any) -> Any:
            config = registry().get_quantize_config(layer)
            if isinstance(layer, tf_keras.layers.DepthwiseConv2D):
                config.weight_quantizer = _depthwise_quantizer(toolkit_module)
            if layer.name in before_relu:
                config.activation_attrs, config.quantize_output = [], False
            return config

    class Layout:
        """Rounds what preprocessing hands over, and changes no layer."""

        def apply(self, model: Any, configs: dict[str, Any]) -> Any:
            return transformer(model, [transforms.InputLayerQuantize()], set(configs), configs).transform()

    class Scheme(toolkit_module.quantization.keras.QuantizeScheme):  # type: ignore[misc]
        """Of these two."""

        def get_layout_transformer(self) -> Any:
            return Layout()

        def get_quantize_registry(self) -> Any:
            return Registry()

    return Scheme()


def _depthwise_quantizer(toolkit_module: Any) -> Any:
    """Rounds a depthwise kernel (3, 3, in, multiplier) with one scale for each of its filters, as files do.

    TFMOT has one for each place in the last axis: one for all filters where the multiplier is 1.
    """
    tf, _ = require_tensorflow()

    class DepthwiseQuantizer(toolkit_module.quantization.keras.quantizers.LastValueQuantizer):  # type: ignore[misc]
        """Sees the kernel as (places, filters)."""

        def __init__(self) -> None:
            super().__init__(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)

        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            return super().build((int(np.prod(tensor_shape[-2:])),), name, layer)

        def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
            filters = tf.reshape(inputs, (-1, int(np.prod(inputs.shape[-2:]))))
            return tf.reshape(super().__call__(filters, training, weights, **kwargs), inputs.shape)

    return DepthwiseQuantizer()


METHOD = Qat()
