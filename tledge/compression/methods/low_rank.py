"""Method `low-rank`: split layers into thin ones that lose as little as possible of what the original computes.

What a layer takes and what it answers vary in few directions. The first part of a split layer keeps the directions of
its inputs that its kernel makes most of, the last part those in which its outputs vary most, found by reduced-rank
regression on what the net split so far computes (X. Zhang et al., "Accelerating Very Deep Convolutional Networks for
Classification and Detection", 2016), so every layer also corrects the errors of those before it. Directions mix all
channels, so less is lost than by leaving out some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.chain import PREDICTION, weighted_layers
from tledge.compression.evidence import BATCH, Floats, Sampling, at_places, gather
from tledge.compression.factors import CORE, INTO, Ranks
from tledge.compression.ranks import Moments, metric
from tledge.compression.reconstruct import refit
from tledge.compression.truncation import outputs_of, soft_regression
from tledge.core.dependencies import require_tensorflow
from tledge.core.progress import Progress
from tledge.core.types import Probabilities

if TYPE_CHECKING:
    import keras

Matrix = NDArray[np.float64]

_RIDGE = 1e-2
_KEPT_FROM = ("block2_pool", "block3_pool", "block4_pool", "block5_pool")


def fit_parts(
    student: keras.Model,
    teacher: keras.Model,
    ranks: Mapping[str, Ranks],
    targets: Mapping[str, Floats],
    sampling: Sampling,
    progress: Progress,
) -> None:
    """Find the weights of every layer of a split chain in place, from the first layer to the last but one.

    Layers that were not split are refitted too, once something before them was.

    Args:
        student: from `split` with these ranks.
        teacher: the chain before it was split.
        ranks: of the split layers.
        targets: `pre_activations` of the teacher.
        sampling: the same as for `targets`.
        progress: called with (what is going on, done, in all).
    """
    inputs = _Inputs(student, sampling)
    layers = weighted_layers(teacher)[:-1]
    names = [layer.name for layer in layers]
    changed = False
    for number, layer in enumerate(layers):
        progress("splitting layers", number, len(layers))
        inputs.keep_before(layer.name)
        kernel = layer.get_weights()[0]
        generator = np.random.default_rng((sampling.seed, number))
        if layer.name in ranks:
            kernel = _fit_into(inputs, layer, number, ranks[layer.name], generator)
        changed = changed or layer.name in ranks
        if not changed:
            continue
        if type(layer).__name__ == "Dense":
            student.get_layer(layer.name).set_weights([kernel.reshape(-1, kernel.shape[-1]), layer.get_weights()[1]])
            position = [other.name for other in weighted_layers(student)].index(layer.name)
            refit(student, position, targets[layer.name], sampling)
        else:
            _fit_kernel(inputs, layer.name, number, kernel, targets[layer.name], ranks.get(layer.name), generator)
    progress("splitting layers", len(names), len(names))


def fit_head(student: keras.Model, sampling: Sampling, answers: Probabilities) -> None:
    """Fit the last layer in place to answers (N, classes) for the images of `sampling`."""
    _, keras = require_tensorflow()
    prediction = student.get_layer(PREDICTION)
    features = outputs_of(keras.Model(student.input, prediction.input), sampling.images)
    prediction.set_weights(list(soft_regression(features, answers)))


class _Inputs:
    """What layers of the student see on the images; from the last pooling on that has all its layers fitted."""

    def __init__(self, student: keras.Model, sampling: Sampling) -> None:
        self.student = student
        self.sampling = sampling
        self._start: Any = student.input
        self._values: NDArray[Any] = sampling.images

    def keep_before(self, name: str) -> None:
        """Compute up to a pooling once if the layer with that name is the first one after it."""
        names = [layer.name for layer in self.student.layers]
        first = names.index(name + INTO if name + INTO in names else name)
        pooling = self.student.layers[first - 1]
        if pooling.name in _KEPT_FROM:
            self._values = np.concatenate([values for _, values in self.batches(pooling.output)])
            self._start = pooling.output

    def batches(self, tensor: Any) -> Iterator[tuple[slice, Floats]]:
        """Values of a tensor of the student, batch by batch, each with its position."""
        tf, keras = require_tensorflow()
        call = None if tensor is self._start else tf.function(keras.Model(self._start, tensor), reduce_retracing=True)
        for start in range(0, len(self._values), BATCH):
            part = slice(start, start + BATCH)
            values = self._values[part].astype(np.float32)
            yield part, values if call is None else call(tf.constant(values)).numpy()


def _fit_into(inputs: _Inputs, layer: Any, number: int, ranks: Ranks, generator: np.random.Generator) -> Floats:
    """Set the first part; returns the layer's kernel (places, into, outputs) for what the first part hands on."""
    part = inputs.student.get_layer(layer.name + INTO)
    channels = part.get_weights()[0].shape[2]
    moments = Moments(channels)
    for position, values in inputs.batches(part.input):
        moments.add(at_places(values, number, inputs.sampling, position))
    kernel = layer.get_weights()[0]
    root = metric(kernel, channels)
    directions = _rotated(_strongest(root @ moments.second() @ root, ranks.into), generator)
    back = directions.T @ np.linalg.pinv(root, rcond=1e-4, hermitian=True)
    part.set_weights([(root @ directions).astype(np.float32)[None, None], np.zeros(ranks.into, np.float32)])
    by_place = kernel.reshape(-1, channels, kernel.shape[-1])
    return np.asarray(np.einsum("rc,pco->pro", back, by_place), np.float32)


def _fit_kernel(
    inputs: _Inputs,
    name: str,
    number: int,
    kernel: Floats,
    target: Floats,
    ranks: Ranks | None,
    generator: np.random.Generator,
) -> None:
    """Regress a convolution's responses on what its kernel sees; with ranks, through `ranks.out` channels."""
    layer = inputs.student.get_layer(name + CORE if ranks else name)
    shape = layer.get_weights()[0].shape
    start = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
    sums = _Regression(start)
    for position, values in inputs.batches(layer.input):
        rows = gather(layer, number, values, inputs.sampling, position)
        done = position.start * (len(target) // len(inputs.sampling.images))
        sums.add(rows, target[done : done + len(rows)])
    weights, bias = sums.solve()
    if ranks is None:
        layer.set_weights([weights.astype(np.float32).reshape(shape), bias.astype(np.float32)])
        return
    assert ranks.out is not None
    directions = _rotated(_strongest(weights.T @ sums.covariance() @ weights, ranks.out), generator)
    core = (weights @ directions).astype(np.float32).reshape(shape)
    layer.set_weights([core, np.zeros(ranks.out, np.float32)])
    # The mean is not a direction: what projecting takes of it goes into the last bias.
    bias = sums.mean_target() - sums.mean_row() @ weights @ directions @ directions.T
    inputs.student.get_layer(name).set_weights(
        [directions.T.astype(np.float32)[None, None], np.asarray(bias, np.float32)]
    )


class _Regression:
    """Ridge regression towards given weights, summed batch by batch: memory is that of one batch and one matrix."""

    def __init__(self, start: Matrix) -> None:
        self._start = start
        self._moments = Moments(len(start))
        self._products = np.zeros_like(start)
        self._targets = np.zeros(start.shape[1])

    def add(self, rows: Floats, targets: Floats) -> None:
        """Take rows (rows, inputs) and their targets (rows, outputs) into account."""
        self._moments.add(rows)
        self._products += rows.T @ targets
        self._targets += targets.sum(axis=0)

    def mean_row(self) -> Matrix:
        return self._moments.mean()

    def mean_target(self) -> Matrix:
        return self._targets / self._moments.count

    def covariance(self) -> Matrix:
        return self._moments.covariance()

    def solve(self) -> tuple[Matrix, Matrix]:
        """Weights (inputs, outputs) and bias (outputs,)."""
        from scipy.linalg import solve

        gram = self.covariance()
        products = self._products / self._moments.count - np.outer(self.mean_row(), self.mean_target())
        damping = max(_RIDGE * float(np.trace(gram)) / len(gram), 1e-12)
        correction = solve(gram + damping * np.eye(len(gram)), products - gram @ self._start, assume_a="pos")
        weights = self._start + correction
        return weights, self.mean_target() - self.mean_row() @ weights


def _strongest(moments: Matrix, count: int) -> Matrix:
    """The `count` eigenvectors with the largest eigenvalues, (n, count)."""
    return np.asarray(np.linalg.eigh(moments)[1][:, ::-1][:, :count])


def _rotated(directions: Matrix, generator: np.random.Generator) -> Matrix:
    """The same space in directions that each hold about the same energy, so that one 8-bit scale suits all of them."""
    count = directions.shape[1]
    rotation, _ = np.linalg.qr(generator.standard_normal((count, count)))
    return np.asarray(directions @ rotation)
