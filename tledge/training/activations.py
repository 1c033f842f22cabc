"""Training on the kept activations of frozen layers."""

from __future__ import annotations

from tledge.core.dependencies import require_tensorflow
from tledge.model.compute import computing_in
from tledge.training.fit import fit_model, summary
from tledge.training.head import fit_head, start_head
from tledge.training.prefix import compute_prefix, kept_features
from tledge.training.task import Training, TrainingTask


def fit_on_activations(task: TrainingTask) -> Training:
    """Compute the frozen layers' output once, then train the layers after them on it."""
    _, keras = require_tensorflow()
    layers = task.model.layers
    first_trained = next(i for i, layer in enumerate(layers) if layer.trainable and layer.weights)
    # The layer right before it, be it pooling or flatten, has the smallest tensor that holds all the rest needs.
    cut = layers[first_trained - 1].output
    # A switch of the layers' dtype inside another one would be undone too early, so this stands outside.
    kept = kept_features(task, task.features) if task.features and layers[first_trained - 1].name == "gap" else None
    with computing_in(task.model, task.compute):
        prefix = kept or compute_prefix(task, keras.Model(task.model.input, cut))
        rest = keras.Model(cut, task.model.output)
        only_head = isinstance(layers[first_trained], keras.layers.Dense)
        if not only_head:
            start_head(task, prefix, cut)
        fit = fit_head if only_head else fit_model
        history, best = fit(rest, task, prefix.values, *prefix.rows(task))
    return summary(task, history, best, prefix)
