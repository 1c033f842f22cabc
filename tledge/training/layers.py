"""Which layers of a model train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tledge.core.errors import SettingsError
from tledge.model.preprocessing import PREPROCESSING

if TYPE_CHECKING:
    import keras

DEFAULT_CUT = "block4_pool"
"""The last layer that technique freeze leaves as it is."""


def freeze(model: keras.Model, until: str | None = DEFAULT_CUT) -> None:
    """Freeze the first layers of a model and let the others train.

    A. Yosinski et al., "How transferable are features in deep neural networks?", 2014. Batch normalization in frozen
    layers keeps its statistics too. Compile the model afterwards: Keras looks at what trains when it compiles.

    Args:
        model: any model of Keras; layers count in the order of `model.layers`, as `model.summary()` shows them. A model
            inside it is one of them: to cut inside that one, pass it.
        until: name of the last frozen layer; None freezes none. tledge's own preprocessing never trains.

    Raises:
        SettingsError: the model has no layer of that name.
    """
    names = [layer.name for layer in model.layers]
    if until is not None and until not in names:
        raise SettingsError(
            f"expected a layer of {model.name} ({', '.join(names)}), but got {until!r}; name one of them"
        )
    model.trainable = True  # a frozen model inside another one would stay frozen whatever its layers say
    frozen = 0 if until is None else names.index(until) + 1
    for index, layer in enumerate(model.layers):
        layer.trainable = index >= frozen and layer.name != PREPROCESSING
