"""Leave out the last layers of the trunk: with few classes, features of block 4 tell them apart as well as block 5's.

Later layers are the more specific to the original task (Yosinski et al., "How transferable are features in deep neural
networks?", 2014), and block 5 holds half of VGG16's weights. A net that ends earlier needs less narrowing for the same
size, and fewer layers hand on the errors of those before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.flat import INTO, PREDICTION
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.types import Images, Probabilities
from tledge.model.forward import outputs_of
from tledge.model.vgg16 import TRUNK_LAYERS

if TYPE_CHECKING:
    import keras

AUTO = "auto"
NONE = "none"
# Blocks 1 and 2 see edges and colours; nothing is saved by ending there that a smaller input would not save.
LAST_LAYERS = tuple(name for name in TRUNK_LAYERS if name[:6] in ("block3", "block4", "block5"))[:-1]
AUTO_LAYERS = ("block4_pool",)
_HEADS = ("gap", "flatten")
_REGULARIZATION = 0.1
_MOST_ITERATIONS = 3000
_WORTH_MENTIONING = 0.01


def require_last_layer(name: str) -> None:
    """Check a choice before slow work.

    Raises:
        SettingsError: neither `auto` nor `none` nor a layer at which the net may end.
    """
    if name not in (AUTO, NONE, *LAST_LAYERS):
        raise SettingsError(
            f"expected {AUTO}, {NONE} or a layer from {LAST_LAYERS[0]} to {LAST_LAYERS[-1]} to end the net at, "
            f"but got {name!r}; choose one of them"
        )


def features_layer(model: keras.Model) -> str:
    """Name of the layer whose map the head takes: `block5_pool`, or where a truncated net ends.

    A net without a head of tledge's own ends before its last layer.
    """
    names = [layer.name for layer in model.layers if not layer.name.endswith(INTO)]
    return str(names[next((i for i, name in enumerate(names) if name in _HEADS), len(names) - 1) - 1])


def truncated(model: keras.Model, last_layer: str, images: Images, answers: Probabilities) -> keras.Model:
    """End the net at a layer, with the mean over its map and a new softmax layer that answers as the model does.

    The new layer is a logistic regression to the model's probabilities (`soft_regression`).

    Args:
        model: a chain that tledge trained; its layers are shared with the result.
        last_layer: a convolution or pooling layer of it.
        images: (N, S, S, 3) uint8, training images, plain and augmented.
        answers: the model's probabilities (N, C) for them.
    """
    _, keras = require_tensorflow()
    features = model.get_layer(last_layer).output
    pooled = keras.layers.GlobalAveragePooling2D(name="gap")(features)
    kernel, bias = soft_regression(outputs_of(keras.Model(model.input, pooled), images), answers)
    prediction = keras.layers.Dense(answers.shape[1], activation="softmax", name=PREDICTION)
    result = keras.Model(model.input, prediction(pooled), name=model.name)
    prediction.set_weights([kernel, bias])
    return result


def soft_regression(
    features: NDArray[np.float32], answers: Probabilities
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logistic regression (scikit-learn) to probabilities: each row counts for every class as much as its probability.

    Args:
        features: (N, F), of any scale.
        answers: (N, C).

    Returns:
        Kernel (F, C) and bias (C,) of a softmax layer.

    Raises:
        SettingsError: one class has all probability everywhere.
    """
    from sklearn.linear_model import LogisticRegression

    scale = max(float(features.std(axis=0).mean()), 1e-9)
    rows, classes = np.nonzero(answers > _WORTH_MENTIONING)
    if len(np.unique(classes)) < 2:
        raise SettingsError(
            "expected a model that tells classes apart, but it gives the same class to every training image; train it "
            "first"
        )
    regression = LogisticRegression(C=_REGULARIZATION, max_iter=_MOST_ITERATIONS)
    regression.fit(features[rows] / scale, classes, sample_weight=answers[rows, classes])
    kernel, bias = _one_column_per_class(regression, answers.shape[1])
    return kernel / np.float32(scale), bias


def _one_column_per_class(regression: Any, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Kernel (features, classes) and bias; of two classes scikit-learn keeps the second one's column alone.

    A class that the model never thinks of keeps a logit far below the others.
    """
    kernel, bias = regression.coef_.T, regression.intercept_
    if len(regression.classes_) == 2:
        kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
    whole = np.zeros((len(kernel), classes), np.float32)
    whole[:, regression.classes_] = kernel
    offsets = np.full(classes, float(bias.min()) - 10.0, np.float32)
    offsets[regression.classes_] = bias
    return whole, offsets
