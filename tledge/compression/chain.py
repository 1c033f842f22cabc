"""Build a chain, which is a flat net without branches, with fewer filters or for another input size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.flat import WEIGHTED, copied, input_size, not_a_chain, weighted_layers
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.image_size import ImageSize, height_width, short_text
from tledge.model.preprocessing import PREPROCESSING
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX

if TYPE_CHECKING:
    import keras

Keep = Mapping[str, NDArray[np.int64]]
"""By layer: indices of the filters or units that stay, ascending. A layer that is not named keeps all."""


def narrow(model: keras.Model, keep: Keep, image_size_px: ImageSize | None = None) -> keras.Model:
    """Build the same chain with fewer filters, or for another input size, and take over the weights that remain.

    A filter that goes takes with it the next layer's input channel: for `fc1` behind `flatten` its rows at every
    place, for `prediction` behind `gap` its row. If the input size changes the map that `fc1` sees, its kernel is
    resampled bilinearly over the places and scaled to their number, which is a start and wants a refit.

    Args:
        model: a chain that tledge trained.
        keep: filters by layer; `prediction` cannot be cut.
        image_size_px: of its input, None for the model's own.

    Raises:
        SettingsError: no chain, unknown layer, indices out of range, not ascending or none, or an input below 32 px.
    """
    _, keras = require_tensorflow()
    if reason := not_a_chain(model):
        raise SettingsError(reason)
    layers = weighted_layers(model)
    _validate(layers, keep)
    size = image_size_px or input_size(model)
    if min(height_width(size)) < MIN_IMAGE_SIZE_PX:
        raise SettingsError(
            f"expected an image size of at least {MIN_IMAGE_SIZE_PX} px, but got {short_text(size)} px; choose more"
        )
    shape = (*height_width(size), 3)
    pixels = keras.Input(shape, name="input")
    x = copied(model.layers[1], {"output_shape": shape})(pixels)
    for layer in model.layers[2:]:
        width = {"Conv2D": "filters", "Dense": "units"}.get(type(layer).__name__)
        changes = {width: len(keep[layer.name])} if width and layer.name in keep else {}
        x = copied(layer, changes)(x)
    result = keras.Model(pixels, x, name=model.name)
    result.get_layer(PREPROCESSING).set_weights(model.layers[1].get_weights())
    _copy_weights(model, result, keep)
    return result


def _validate(layers: list[Any], keep: Keep) -> None:
    widths = {layer.name: layer.get_weights()[0].shape[-1] for layer in layers[:-1]}
    for name, kept in keep.items():
        if name not in widths:
            raise SettingsError(f"expected layers of {', '.join(widths)} to narrow, but got {name}; leave it out")
        if not len(kept) or np.any(np.diff(kept) <= 0) or kept[0] < 0 or kept[-1] >= widths[name]:
            raise SettingsError(
                f"expected ascending filter indices from 0 to {widths[name] - 1} for {name}, but got {list(kept)[:8]}; "
                "keep at least one, each once"
            )


def _copy_weights(source: keras.Model, target: keras.Model, keep: Keep) -> None:
    incoming: NDArray[np.int64] | None = None
    places: tuple[int, int] | None = None
    new_places: tuple[int, int] | None = None
    for layer in source.layers[2:]:
        copy = target.get_layer(layer.name)
        if type(layer).__name__ == "Flatten":
            places, new_places = layer.input.shape[1:3], copy.input.shape[1:3]
        if type(layer).__name__ not in WEIGHTED:
            continue
        kernel, bias = layer.get_weights()
        if places is not None and new_places is not None:
            kernel = _rows_of_places(kernel, places, new_places, incoming)
            places = None
        elif incoming is not None:
            kernel = np.take(kernel, incoming, axis=-2)
        incoming = keep.get(layer.name)
        if incoming is not None:
            kernel, bias = kernel[..., incoming], bias[incoming]
        copy.set_weights([kernel, bias])


def _rows_of_places(
    kernel: NDArray[np.float32],
    places: tuple[int, int],
    new_places: tuple[int, int],
    incoming: NDArray[np.int64] | None,
) -> NDArray[np.float32]:
    from scipy.ndimage import zoom

    maps = kernel.reshape(*places, -1, kernel.shape[-1])
    if incoming is not None:
        maps = maps[:, :, incoming]
    if places != new_places:
        ratio = (new_places[0] / places[0], new_places[1] / places[1])
        maps = zoom(maps, (*ratio, 1, 1), order=1, grid_mode=True, mode="nearest") / (ratio[0] * ratio[1])
    return np.asarray(maps, np.float32).reshape(-1, kernel.shape[-1])
