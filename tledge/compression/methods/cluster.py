"""Method `cluster`: each layer's weights take only a few distinct values, which are trained.

S. Han, H. Mao and W. J. Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization
and Huffman Coding", 2016. Files become compressible, not faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tledge.compression.activations import Floats
from tledge.compression.distill import TrainingSchedule
from tledge.compression.flat import WEIGHTED, input_size
from tledge.compression.images import RunImages
from tledge.compression.legacy_distill import DistillationData, Evaluator, Tuned, distill_legacy
from tledge.compression.legacy_net import (
    no_legacy_form,
    require_toolkit,
    to_legacy,
    toolkit,
    weights_of,
    with_weights,
)
from tledge.compression.method import Method, Outcome, tuned_outcome
from tledge.compression.methods.prune import Prune
from tledge.core.dependencies import require, require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.progress import Progress
from tledge.core.settings import Settings, option

if TYPE_CHECKING:
    import keras

_EXPERIMENTAL = "tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster"
_KERNEL = "kernel"
_MOST_CLUSTERS = 256
_ROUNDS = 50
_FEWEST_WITH_ZERO = 3


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """How few: at most `clusters` distinct values in each layer's kernel, 2 to 256, zero among them if it has zeros.

    After `prune` 3 or more: zero, and something on either side of it.
    0 `epochs` train nothing. `learning_rate` is Adam's.

    Raises:
        SettingsError: a value out of range.
    """

    clusters: int = option(16, help="most distinct weights in each layer.")
    epochs: int = option(3, help="Most epochs of training; 0 for none.")
    learning_rate: float = option(1e-5, help="Adam's highest.")
    seed: int = option(0, help="Of everything random.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.clusters <= _MOST_CLUSTERS:
            raise SettingsError(f"expected 2 to {_MOST_CLUSTERS} clusters, but got {self.clusters}; change it")
        TrainingSchedule(self.epochs, self.learning_rate, self.seed)


class Cluster(Method[ClusterSettings]):
    """Few distinct weights: files become compressible."""

    name = "cluster"
    settings = ClusterSettings
    place = 40
    undoes_itself = True

    def require_installed(self) -> None:
        """As `Method.require_installed`."""
        require_toolkit()

    def supports(self, model: keras.Model) -> str | None:
        """As `Method.supports`: flat nets that Keras 2 can train."""
        return no_legacy_form(model)

    def conflict(self, settings: ClusterSettings, history: Sequence[str]) -> str | None:
        """Clusters of a pruned model need room for zero and both sides of it."""
        if Prune.name not in history or settings.clusters >= _FEWEST_WITH_ZERO:
            return None
        return (
            f"expected at least {_FEWEST_WITH_ZERO} clusters after {Prune.name}, one for zero and one on either side "
            f"of it, but got {settings.clusters}; raise --clusters"
        )

    def apply(
        self,
        model: keras.Model,
        settings: ClusterSettings,
        history: Sequence[str],
        images: RunImages,
        progress: Progress,
        work: Path,
    ) -> Outcome:
        """As `Method.apply`."""
        data = images.distillation_data(input_size(model), settings.seed, progress)
        tuned = cluster(model, data, settings, progress, keep_zeros=Prune.name in history, file=work / "clustering.npz")
        return tuned_outcome(self.name, settings, tuned)


def distinct(kernel: Floats) -> int:
    """Number of distinct values."""
    return len(np.unique(kernel))


def cluster(
    model: keras.Model,
    data: DistillationData,
    settings: ClusterSettings,
    progress: Progress,
    *,
    keep_zeros: bool,
    file: Path | None = None,
) -> Tuned:
    """Cluster the kernels of all layers but depthwise convolutions, which have few weights.

    The start is one-dimensional k-means, and training never makes it worse.

    Args:
        model: a net that the method supports; left as it is.
        data: images and the original's answers.
        settings: how few.
        progress: called with (what is going on, epochs done, epochs in all).
        keep_zeros: the model was pruned: weights that are zero stay zero.
        file: where the training keeps how far it is; None: nowhere.

    Raises:
        SettingsError: a layer that Keras 2 does not train.
        MissingDependencyError: TFMOT or Keras 2 is not installed.
    """
    tf_keras, toolkit_module = toolkit()
    legacy = to_legacy(model)
    before = Evaluator(model, legacy, data.val)()

    def wrap(layer: Any) -> Any:
        if type(layer).__name__ not in WEIGHTED:
            return layer
        sparse = keep_zeros and bool(np.any(layer.get_weights()[0] == 0))
        return _wrapped(toolkit_module, layer, settings.clusters, sparse)

    student = tf_keras.models.clone_model(legacy, clone_function=wrap)
    for layer in student.layers:
        if hasattr(layer, "cluster_centroids"):
            _start_with_means(layer)
    schedule = TrainingSchedule(settings.epochs, settings.learning_rate, settings.seed)
    evaluator = Evaluator(model, student, data.val)
    distillation = distill_legacy(evaluator, data.train, schedule, progress, "clustering", file=file)
    after = evaluator()
    weights = weights_of(toolkit_module.clustering.keras.strip_clustering(student))
    names = [layer.name for layer in legacy.layers if type(layer).__name__ in WEIGHTED]
    details = {"distinct": {name: distinct(weights[name][0]) for name in names}}
    return Tuned(with_weights(model, weights), before.accuracy, after.accuracy, distillation, details)


def _wrapped(toolkit_module: Any, layer: Any, clusters: int, sparse: bool) -> Any:
    clustering = toolkit_module.clustering.keras
    start = clustering.CentroidInitialization.LINEAR
    if sparse:
        # The same wrapper, with the option that TFMOT still calls experimental.
        return require(_EXPERIMENTAL).cluster_weights(layer, clusters, start, preserve_sparsity=True)
    return clustering.cluster_weights(layer, number_of_clusters=clusters, cluster_centroids_init=start)


def _start_with_means(wrapper: Any) -> None:
    """Replace the wrapper's first centroids, which are far from optimal, by k-means."""
    tf, _ = require_tensorflow()
    kernel = np.asarray(wrapper.original_clusterable_weights[_KERNEL])
    values, centroids = kernel.reshape(-1), wrapper.cluster_centroids[_KERNEL]
    if not wrapper.preserve_sparsity:
        centroids.assign(_means(values, int(centroids.shape[0])))
        return
    # Zero keeps its place among the centroids; those below and above it divide the rest, as the wrapper divided them.
    zero = int(wrapper.zero_idx[_KERNEL])
    low = _means(values[values < 0], zero)
    high = _means(values[values > 0], int(centroids.shape[0]) - zero - 1)
    centroids.assign(np.concatenate([low, np.zeros(1, np.float32), high]))
    wrapper.sparsity_masks[_KERNEL] = tf.constant(kernel != 0, tf.float32)


def _means(values: Floats, count: int) -> Floats:
    """Lloyd's k-means in one dimension, ascending; starts between equal shares and equal steps."""
    if not count:
        return np.zeros(0, np.float32)
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered, dtype=np.float64)])
    shares = np.quantile(ordered, (np.arange(count) + 0.5) / count)
    centroids = (shares + np.linspace(ordered[0], ordered[-1], count)) / 2
    for _ in range(_ROUNDS):
        inner = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        bounds = np.concatenate([[0], inner, [len(ordered)]])
        members = np.diff(bounds)
        centroids = np.where(members > 0, np.diff(sums[bounds]) / np.maximum(members, 1), centroids)
    return np.asarray(centroids, np.float32)


METHOD = Cluster()
