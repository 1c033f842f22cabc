"""The float model layer by layer: on pixels, and each layer on what an artefact hands to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tledge.core.dependencies import require_tensorflow
from tledge.formats.activation_probe import Floats
from tledge.model.inference import inference_model

# The first is what the first convolution reads.
_RECORDED = ("Rescaling", "Conv2D", "Dense")


class ReferenceLayers:
    """A run's model in the form that is exported, so that its layers are those of the artefacts.

    Args:
        path: the `.keras` file that artefacts are exported from.

    Raises:
        ArtefactError: not the chain that tledge trains.
    """

    def __init__(self, path: Path) -> None:
        self._tf, keras = require_tensorflow()
        model = inference_model(keras.models.load_model(path, compile=False, safe_mode=True))
        self._chain = model.layers[1:]
        # Probabilities hide errors of the logits, which is where files can be looked into.
        self._chain[-1].activation = keras.activations.linear
        self.names = tuple(layer.name for layer in self._chain if type(layer).__name__ in _RECORDED)
        self._on_pixels = self._tf.function(self._walk)
        self._on_given = self._tf.function(self._walk_given)
        self._on_first = self._tf.function(self._walk_first)

    def of(self, pixels: Floats) -> list[Floats]:
        """Outputs of the layers in `names` for pixels (1, S, S, 3), logits last: (1, H, W, C) or (1, C)."""
        return [np.asarray(value) for value in self._on_pixels(self._tf.constant(pixels, self._tf.float32))]

    def first_layer(self, pixels: Floats) -> Floats:
        """Output of the first convolution alone."""
        return np.asarray(self._on_first(self._tf.constant(pixels, self._tf.float32)))

    def given(self, pixels: Floats, outputs: Sequence[Floats]) -> list[Floats]:
        """The same where each layer reads what an artefact's layer before it put out, (1, H, W, C) or (1, C)."""
        constant = self._tf.constant
        return [np.asarray(v) for v in self._on_given(constant(pixels), [constant(output) for output in outputs])]

    def _walk(self, x: Any) -> list[Any]:
        recorded = []
        for layer in self._chain:
            x = layer(x)
            if type(layer).__name__ in _RECORDED:
                recorded.append(x)
        return recorded

    def _walk_first(self, x: Any) -> Any:
        return self._chain[1](self._chain[0](x))

    def _walk_given(self, x: Any, outputs: Sequence[Any]) -> list[Any]:
        recorded: list[Any] = []
        for layer in self._chain:
            x = layer(x)
            if type(layer).__name__ in _RECORDED:
                recorded.append(x)
                x = outputs[len(recorded) - 1]
        return recorded
