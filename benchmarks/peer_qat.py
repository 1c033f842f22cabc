"""Quantization-aware training with TFMOT, for `peers.py`: on a tf_keras twin, since TFMOT knows Keras 2 only."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.types import Images

# VGG16 has no batch normalisation and diverges on the larger steps that suit newer networks.
_LEARNING_RATE = 1e-5
_BATCH = 8
_CONFIG = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "activation"),
    "MaxPooling2D": ("pool_size", "strides"),
    "GlobalAveragePooling2D": (),
    "Flatten": (),
    "Dense": ("units", "activation"),
}


def twin_of(model: Any) -> Any:
    """Rebuild tledge's Keras 3 chain in tf_keras with the same weights."""
    layers = importlib.import_module("tf_keras").layers
    pixels = x = layers.Input(model.input_shape[1:], name="image")
    for layer in model.layers[1:]:
        kind, weights = type(layer).__name__, layer.get_weights()
        if kind == "EinsumDense":
            # The preprocessing, a matrix over the channels: TFMOT takes it as a convolution of one pixel.
            copy, weights = layers.Conv2D(3, 1, name=layer.name), [weights[0][None, None], weights[1]]
        else:
            config = layer.get_config()
            copy = getattr(layers, kind)(name=layer.name, **{key: config[key] for key in _CONFIG[kind]})
        x = copy(x)
        copy.set_weights(weights)
    return importlib.import_module("tf_keras").Model(pixels, x)


def quantized(twin: Any, calibration: Images | None, *, preserving: bool = False) -> Any:
    """Wrap the twin for training.

    Args:
        twin: the float model.
        calibration: images from whose activations the ranges start; None for TFMOT's own start, -6 to 6, from where
            they follow the activations with a moving average of 0.999 a step.
        preserving: keep zeros and few distinct weights as they are.
    """
    model = _wrapped(twin, preserving)
    if calibration is not None:
        _fit_ranges(twin, model, calibration.astype(np.float32))
    return model


def _fit_ranges(twin: Any, model: Any, pixels: NDArray[np.float32]) -> None:
    variables = {variable.name.partition(":")[0]: variable for variable in model.variables}
    variables["quantize_layer/quantize_layer_min"].assign(pixels.min())
    variables["quantize_layer/quantize_layer_max"].assign(pixels.max())
    for layer in twin.layers[1:]:
        for where in ("output", "post_activation", "pre_activation"):
            key = f"quant_{layer.name}/{where}"
            if f"{key}_min" in variables:
                low, high = _range(twin, layer, pixels, before_activation=where == "pre_activation")
                variables[f"{key}_min"].assign(low)
                variables[f"{key}_max"].assign(high)


def _range(twin: Any, layer: Any, pixels: NDArray[np.float32], before_activation: bool) -> tuple[float, float]:
    """Smallest and largest value of a layer's output, zero included."""
    model = importlib.import_module("tf_keras").Model
    values = model(twin.input, layer.input if before_activation else layer.output)
    parts = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
    found = [np.asarray(values(part, training=False)) for part in parts]
    if before_activation:
        kernel, bias = layer.get_weights()
        found = [part @ kernel + bias for part in found]
    return min(0.0, *(float(part.min()) for part in found)), max(0.0, *(float(part.max()) for part in found))


def pruned_and_clustered(twin: Any, images: Images, labels: NDArray[np.int64], epochs: int) -> Any:
    """The twin, half of whose weights become zero, then 16 distinct ones in each layer and the zeros kept.

    As TFMOT's guide on its combined techniques does.
    """
    tfmot = importlib.import_module("tensorflow_model_optimization")
    sparsity = tfmot.sparsity.keras
    steps = epochs * -(-len(images) // _BATCH)
    schedule = sparsity.PolynomialDecay(0.0, 0.5, 0, steps, frequency=max(1, steps // 20))
    pruned = sparsity.prune_low_magnitude(twin, schedule)
    train(pruned, images, labels, epochs, sparsity.UpdatePruningStep())
    cluster = importlib.import_module("tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster")
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    clustered = cluster.cluster_weights(
        sparsity.strip_pruning(pruned), number_of_clusters=16, cluster_centroids_init=start, preserve_sparsity=True
    )
    train(clustered, images, labels, 1)
    stripped = tfmot.clustering.keras.strip_clustering(clustered)
    # Its layers still stand in the graphs before it, where nobody could say what their input is.
    result = importlib.import_module("tf_keras").models.clone_model(stripped)
    result.set_weights(stripped.get_weights())
    return result


def _wrapped(twin: Any, preserving: bool) -> Any:
    tfmot = importlib.import_module("tensorflow_model_optimization")
    if not preserving:
        return tfmot.quantization.keras.quantize_model(twin)
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
    return tfmot.quantization.keras.quantize_apply(tfmot.quantization.keras.quantize_annotate_model(twin), scheme)


def train(model: Any, images: Images, labels: NDArray[np.int64], epochs: int, *callbacks: Any) -> None:
    """Train with the labels, as TFMOT's guide does."""
    tf_keras = importlib.import_module("tf_keras")
    tf_keras.utils.set_random_seed(0)
    model.compile(tf_keras.optimizers.Adam(_LEARNING_RATE), "sparse_categorical_crossentropy")
    model.fit(images.astype(np.float32), labels, batch_size=_BATCH, epochs=epochs, callbacks=callbacks, verbose=2)


def convert(model: Any) -> bytes:
    """TFLite with int8 layers, uint8 pixels in and uint8 probabilities out."""
    tf = importlib.import_module("tensorflow")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    return bytes(converter.convert())
