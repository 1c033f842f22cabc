"""From a folder of images to a run with a trained reference model, and the techniques for scripts of one's own.

`freeze`, `feature_extraction` and `fine_tune` work on any classifier of Keras and any `tf.data.Dataset`;
`vgg16_classifier` makes the one that tledge trains. Importing this package loads no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tledge.training.datasets import feature_extraction, fine_tune, vgg16_classifier
    from tledge.training.layers import freeze

__all__ = ["feature_extraction", "fine_tune", "freeze", "vgg16_classifier"]

_MODULES = {"freeze": "tledge.training.layers"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tledge.training' has no attribute {name!r}")
    from tledge.core.settings import public_call

    # As for the functions of `tledge`: the user's own settings of Keras are given back after the call.
    call = public_call(getattr(importlib.import_module(_MODULES.get(name, "tledge.training.datasets")), name))
    globals()[name] = call
    return call


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
