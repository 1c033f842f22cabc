"""Leave out the last layers of the trunk: with few classes, features of block 4 tell them apart as well as block 5's.

Later layers are the more specific to the original task (Yosinski et al., "How transferable are features in deep neural
networks?", 2014), and block 5 holds half of VGG16's weights. A net that ends earlier needs less narrowing for the same
size, and fewer layers hand on the errors of those before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.flat import CORE, INTO, PREDICTION, bridges, not_flat
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.types import Images, Probabilities
from tledge.model.forward import outputs_of

if TYPE_CHECKING:
    import keras

AUTO = "auto"
NONE = "none"
AUTO_LAYERS = ("block4_pool",)
_POOLED = "gap"
_HEADS = (_POOLED, "flatten")
_MOST_NAMED = 12
_REGULARIZATION = 0.1
_MOST_ITERATIONS = 3000
_WORTH_MENTIONING = 0.01


def features_layer(model: keras.Model) -> str:
    """Name of the layer whose map the head takes: `block5_pool`, or where a truncated net ends.

    A net without a head of tledge's own ends before its last layer.
    """
    names = [layer.name for layer in model.layers if not layer.name.endswith(INTO)]
    return str(names[next((i for i, name in enumerate(names) if name in _HEADS), len(names) - 1) - 1])


def ends(model: keras.Model) -> tuple[str, ...]:
    """Names of layers behind which a flat net may end earlier, in its order: what follows reads their map alone.

    Raises:
        SettingsError: the model is no flat net.
    """
    if reason := not_flat(model):
        raise SettingsError(reason)
    through, last = bridges(model), features_layer(model)
    layers = [layer for layer in model.layers[2:] if id(layer.output) in through and len(layer.output.shape) == 4]
    return tuple(layer.name for layer in layers if layer.name != last and not layer.name.endswith((INTO, CORE)))


def require_end(model: keras.Model, name: str) -> None:
    """Check a choice before slow work.

    Raises:
        SettingsError: no flat net, or neither where it ends anyway nor one of its `ends`.
    """
    possible = (*ends(model), features_layer(model))
    if name not in possible:
        raise SettingsError(
            f"expected {AUTO}, {NONE} or a layer whose map is all that later ones read to end the net at, but got "
            f"{name!r}; choose one of them, such as {', '.join(possible[-_MOST_NAMED:])}"
        )


def cut(model: keras.Model, last_layer: str) -> keras.Model:
    """End a flat net at one of its `ends`, with the mean over its map and a new softmax layer, not yet fitted.

    Layers are shared with the result.
    """
    _, keras = require_tensorflow()
    pooled = keras.layers.GlobalAveragePooling2D(name=_POOLED)(model.get_layer(last_layer).output)
    prediction = keras.layers.Dense(model.output_shape[-1], activation="softmax", name=PREDICTION)
    return keras.Model(model.input, prediction(pooled), name=model.name)


def truncated(model: keras.Model, last_layer: str, images: Images, answers: Probabilities) -> keras.Model:
    """End a net at a layer and have the new softmax layer answer as the model does.

    That layer is a logistic regression to the model's probabilities (`soft_regression`).

    Args:
        model: a flat net; its layers are shared with the result.
        last_layer: one of its `ends`.
        images: (N, S, S, 3) uint8, training images, plain and augmented.
        answers: the model's probabilities (N, C) for them.
    """
    _, keras = require_tensorflow()
    result = cut(model, last_layer)
    pooled = outputs_of(keras.Model(result.input, result.get_layer(_POOLED).output), images)
    result.get_layer(PREDICTION).set_weights(list(soft_regression(pooled, answers)))
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
