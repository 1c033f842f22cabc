"""How large the `tflite-int8` file of a net will be, known before it is trained, and budgets for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tledge.compression.flat import parameters
from tledge.core.errors import SettingsError
from tledge.core.limits import BYTES, Metric, parse
from tledge.model.graph import MATRIX_LAYERS

if TYPE_CHECKING:
    import keras

SIZE = Metric("size", "size of the file", BYTES, highest=float("inf"))

BYTES_PER_OUTPUT = 15
"""What an output of a layer takes beside its weights and one byte for its bias: the bias has four, a scale four, a zero
point eight."""
BYTES_PER_LAYER = 350
_BYTES_PER_OTHER_LAYER = 150
_BYTES_PER_FILE = 8000  # lineage and labels
_BYTES_PER_CLASS = 24


def parse_budget(text: str) -> float:
    """Read a budget such as `size < 1 MB`.

    Returns:
        The most bytes that the file may have.

    Raises:
        SettingsError: another metric than `size`, or what `tledge.core.limits.parse` refuses.
    """
    found = parse(text, (SIZE,), "--budget")
    if len(found) != 1:
        raise SettingsError(f'expected one condition such as "size < 1 MB" in --budget, but got {text!r}; rewrite it')
    return found[0].limit


def file_bytes(model: keras.Model) -> int:
    """About how large a flat net's `tflite-int8` will be, rather a percent too much than too little."""
    weighted = [layer for layer in model.layers if type(layer).__name__ in MATRIX_LAYERS]
    outputs = sum(int(layer.output.shape[-1]) for layer in weighted)
    names = BYTES_PER_LAYER * len(weighted) + _BYTES_PER_OTHER_LAYER * (len(model.layers) - len(weighted))
    names += _BYTES_PER_CLASS * int(model.output_shape[-1])
    return parameters(model) + BYTES_PER_OUTPUT * outputs + names + _BYTES_PER_FILE
