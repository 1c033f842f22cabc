"""The form of a model that gets exported: the same function, cheaper to convert and to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.model.vgg16 import MEAN_BGR, PREPROCESSING

if TYPE_CHECKING:
    import keras

EXPORTABLE = ("Conv2D", "MaxPooling2D", "Flatten", "GlobalAveragePooling2D", "Dense")
_MATRIX = ("Conv2D", "Dense")


def inference_model(reference: keras.Model) -> keras.Model:
    """Rebuild the reference with batch 1 and with its channel swap folded into the first convolution.

    Swapping red and blue is a permutation of the first kernel's input channels; what remains of the preprocessing is
    one addition per pixel, which every runtime and accelerator offers in float and in int8.

    Args:
        reference: a chain `input → preprocessing → layers in EXPORTABLE`.

    Returns:
        A model from (1, S, S, 3) float32 RGB pixels to (1, C) probabilities; its layers are copies.

    Raises:
        ArtefactError: a layer of another kind, or not a plain chain.
    """
    _, keras = require_tensorflow()
    input_layer, preprocessing, *chain = reference.layers
    if preprocessing.name != PREPROCESSING:
        raise ArtefactError(f"expected the layer {PREPROCESSING} after the input, but found {preprocessing.name}")
    pixels = keras.Input(input_layer.batch_shape[1:], batch_size=1, name="image")
    offset = [-mean for mean in reversed(MEAN_BGR)]
    x = keras.layers.Rescaling(1.0, offset=offset, name="subtract_mean")(pixels)
    for index, layer in enumerate(chain):
        if type(layer).__name__ not in EXPORTABLE:
            raise ArtefactError(
                f"expected only {', '.join(EXPORTABLE)} layers, but {layer.name} is a {type(layer).__name__}; "
                "export a model that tledge trained"
            )
        copy = type(layer).from_config(layer.get_config())
        x = copy(x)
        weights = layer.get_weights()
        if index == 0:
            weights[0] = weights[0][:, :, ::-1, :]
        copy.set_weights(weights)
    return keras.Model(pixels, x, name="vgg16")


def matrix_layers(model: keras.Model) -> tuple[str, ...]:
    """Names of a chain's convolutions and dense layers, from input to output: what int8 makes smaller and faster."""
    return tuple(layer.name for layer in model.layers if type(layer).__name__ in _MATRIX)
