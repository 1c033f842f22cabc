"""Method `filters`: leave out the filters that the next layer misses least, and refit those that stay.

The criterion is that of ThiNet (J.-H. Luo et al., "ThiNet: A Filter Level Pruning Method for Deep Neural Network
Compression", 2017): the error that leaving filters out makes in the *next* layer before its activation function.
As in Y. He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, the filters that stay may be
rescaled to make up for those that go; instead of their LASSO the filters are eliminated one by one by the rule of
B. Hassibi and D. Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.activations import Floats, Sampling, gather
from tledge.compression.chain import Keep, narrow
from tledge.compression.flat import LayerCost, layer_costs, not_a_chain, weighted_layers
from tledge.compression.images import RunImages
from tledge.compression.least_squares import refit
from tledge.compression.method import Method, Outcome
from tledge.compression.shrinking import (
    Limits,
    Note,
    ShrinkSettings,
    Student,
    UnreachableError,
    shrink_run,
)
from tledge.compression.study import Study, Teacher
from tledge.core.progress import Progress

if TYPE_CHECKING:
    import keras

FILTER_STEP = 8
_PROJECTIONS = 8
_DAMPING = 1e-4


class Filters(Method[ShrinkSettings]):
    """Fewer filters, a smaller input and an earlier end, then distillation."""

    name = "filters"
    settings = ShrinkSettings
    place = 10

    def supports(self, model: keras.Model) -> str | None:
        """As `Method.supports`: chains alone, where each filter has one layer that reads it."""
        return not_a_chain(model)

    def apply(
        self,
        model: keras.Model,
        settings: ShrinkSettings,
        history: Sequence[str],
        images: RunImages,
        progress: Progress,
        work: Path,
    ) -> Outcome:
        """As `Method.apply`."""
        return shrink_run(self.name, model, settings, images, fewer_filters, progress, work)


def fewer_filters(study: Study, teacher: Teacher, limits: Limits, note: Note, progress: Progress) -> Student:
    """Leave out the filters that the next layer misses least, and refit those that stay.

    Raises:
        SettingsError: limits that cannot be met.
    """
    rankings = study.once("filters", teacher, lambda: _ranked(study, teacher, progress))
    counts = allocate(layer_costs(teacher.model), rankings, limits)
    keep: Keep = {name: rankings[name].keep(count) for name, count in counts.items()}
    small = narrow(teacher.model, keep)
    note("filters", small)
    progress("reconstructing", 0, 1)
    reconstruct(small, keep, teacher.targets, teacher.sampling)
    note("reconstructed", small)
    convolutions = [layer.name for layer in weighted_layers(small) if type(layer).__name__ == "Conv2D"]
    return Student(small, {"filters": counts}, keep.get(convolutions[-1]))


def _ranked(study: Study, teacher: Teacher, progress: Progress) -> dict[str, Ranking]:
    progress("ranking filters", 0, 1)
    rankings = rank(teacher.model, study.calibration(teacher.size))
    progress("ranking filters", 1, 1)
    return rankings


@dataclass(frozen=True)
class Ranking:
    """Filters of one layer.

    `order` lists filters from the first that may go to the last. `error` has one entry more: `error[k]`, in 0..1, is
    the share of the next layer's variation that is lost when the first k of `order` are gone.
    """

    layer: str
    order: NDArray[np.int64]
    error: NDArray[np.float64]

    def keep(self, count: int) -> NDArray[np.int64]:
        """Indices, ascending, of the `count` filters to keep."""
        return np.sort(self.order[len(self.order) - count :])


def rank(model: keras.Model, sampling: Sampling) -> dict[str, Ranking]:
    """Rank the filters of every convolution by what the next layer loses without them.

    Args:
        model: the net before pruning, at the input size of the images.
        sampling: calibration images, disjoint from those that validate the result.
    """
    layers = weighted_layers(model)
    convolutions = [i for i, layer in enumerate(layers) if type(layer).__name__ == "Conv2D"]
    generator = np.random.default_rng(sampling.seed)
    kernels = [_projected(layers[i + 1], generator) for i in convolutions]
    grams = [np.zeros((n, n)) for n in (layers[i].filters for i in convolutions)]
    for part, inputs in sampling.values_of(model, [layers[i + 1].input for i in convolutions]):
        for at, values in zip(convolutions, inputs, strict=True):
            rows = gather(layers[at + 1], at + 1, values, sampling, part)
            parts = _contributions(rows, kernels[at], layers[at].filters)
            grams[at] += parts.T @ parts
    return {layers[i].name: _eliminate(layers[i].name, gram) for i, gram in zip(convolutions, grams, strict=True)}


def _projected(layer: Any, generator: np.random.Generator) -> Floats:
    # Random directions of the output space keep squared errors in expectation (Johnson and Lindenstrauss 1984) and
    # spare a third dimension of 512 outputs.
    kernel = layer.get_weights()[0].reshape(-1, layer.get_weights()[0].shape[-1])
    if type(layer).__name__ == "Dense":
        return np.asarray(kernel)
    directions = generator.standard_normal((kernel.shape[1], _PROJECTIONS)) / np.sqrt(_PROJECTIONS)
    return np.asarray(kernel @ directions, np.float32)


def _contributions(rows: Floats, kernel: Floats, channels: int) -> Floats:
    """What each channel adds to each output at each place, (places * outputs, channels)."""
    by_channel = rows.reshape(len(rows), -1, channels).transpose(2, 0, 1)
    weights = kernel.reshape(-1, channels, kernel.shape[-1]).transpose(1, 0, 2)
    parts = by_channel @ weights
    # The bias makes up for a mean.
    return np.asarray((parts - parts.mean(axis=1, keepdims=True)).reshape(channels, -1).T)


def _eliminate(layer: str, gram: NDArray[np.float64]) -> Ranking:
    """Remove channel after channel, each time the one whose loss the rest can best make up for."""
    total = max(float(gram.sum()), np.finfo(float).tiny)
    damped = gram + _DAMPING * max(float(np.trace(gram)) / len(gram), 1e-12) * np.eye(len(gram))
    inverse = np.linalg.inv(damped)
    scale = np.ones(len(gram))
    left = np.ones(len(gram), bool)
    order, error = [], [0.0]
    for _ in range(len(gram)):
        diagonal = np.where(left, np.diag(inverse), 1.0)
        loss = np.where(left, scale**2 / diagonal, np.inf)
        gone = int(np.argmin(loss))
        order.append(gone)
        error.append(error[-1] + float(loss[gone]) / total)
        column = inverse[:, gone].copy()
        scale -= column * (scale[gone] / column[gone])
        inverse -= np.outer(column, column / column[gone])
        left[gone] = False
        scale[gone] = 0.0
    return Ranking(layer, np.asarray(order, np.int64), np.clip(np.asarray(error), 0.0, 1.0))


def reconstruct(model: keras.Model, keep: Keep, targets: Mapping[str, Floats], sampling: Sampling) -> None:
    """Refit all weights of a narrowed model in place, from the first layer to the last.

    After `narrow` the weights are the original's, which is what the ridge of `refit` pulls towards.

    Args:
        model: from `narrow`.
        keep: the same as for `narrow`.
        targets: `pre_activations` of the original at the same input size.
        sampling: the same as for `targets`.
    """
    layers = weighted_layers(model)
    for number, layer in enumerate(layers):
        target = targets[layer.name]
        if layer.name in keep:
            target = target[:, keep[layer.name]]
        refit(model, number, target, sampling)


def allocate(costs: Sequence[LayerCost], rankings: Mapping[str, Ranking], limits: Limits) -> dict[str, int]:
    """Choose how many filters each convolution keeps, in multiples of 8 and at least 8.

    For parameters, no layer keeps more than a common number of filters, the largest that holds the limit. Ranking
    errors decide badly there: chosen by them, single layers of blocks 4 and 5 shrank to 16 filters, a bottleneck that
    training did not mend. For multiply-adds, time and again the eight filters go that lose the smallest share of their
    next layer's variation (`Ranking.error`) per multiply-add that is saved. What a filter saves depends on how many
    filters its neighbours still have, so it is counted anew each time.

    Args:
        costs: of the unpruned model, from `layer_costs`.
        rankings: by convolution.
        limits: to be met.

    Raises:
        UnreachableError: even 8 filters a layer are too many.
    """
    net = _Widths(costs, {name: len(ranking.order) for name, ranking in rankings.items()})
    widest = -(-max(net.full.values()) // FILTER_STEP)
    counts = _spend(net, rankings, limits, widest * FILTER_STEP)
    if limits.parameters is None or net.parameters(counts) <= limits.parameters:
        return counts
    low, high = 0, widest  # in steps; `low` holds the limit, unless it is still 0, and `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        candidate = _spend(net, rankings, limits, middle * FILTER_STEP)
        if net.parameters(candidate) <= limits.parameters:
            low, counts = middle, candidate
        else:
            high = middle
    if low == 0:
        raise _unreachable(limits)
    return counts


def _spend(net: _Widths, rankings: Mapping[str, Ranking], limits: Limits, cap: int) -> dict[str, int]:
    """From at most `cap` filters a layer, remove greedily until the limit on multiply-adds holds."""
    counts = {name: min(count, cap) for name, count in net.full.items()}
    while (now := net.multiply_adds(counts)) > limits.multiply_adds:
        choices = []
        for name, count in counts.items():
            step = (count - 1) % FILTER_STEP + 1
            if count - step < FILTER_STEP:
                continue
            error = rankings[name].error
            gone = net.full[name] - count
            harm = float(error[gone + step] - error[gone]) + 1e-9
            saved = now - net.multiply_adds(counts | {name: count - step})
            choices.append((harm / saved, name, count - step))
        if not choices:
            raise _unreachable(limits)
        _, name, count = min(choices)
        counts[name] = count
    return counts


def _unreachable(limits: Limits) -> UnreachableError:
    return UnreachableError(
        f"expected a target that {FILTER_STEP} filters a layer can meet, but the limit is {limits}; "
        "ask for a smaller ratio or a smaller image size"
    )


class _Widths:
    """Cost of a chain as a function of its widths: a layer's cost goes with its own and its predecessor's width."""

    def __init__(self, costs: Sequence[LayerCost], full: Mapping[str, int]) -> None:
        self.full = full
        self._costs = costs

    def multiply_adds(self, counts: Mapping[str, int]) -> float:
        return self._sum(counts, [layer.multiply_adds for layer in self._costs])

    def parameters(self, counts: Mapping[str, int]) -> float:
        return self._sum(counts, [layer.parameters for layer in self._costs])

    def _sum(self, counts: Mapping[str, int], whole: Sequence[int]) -> float:
        before, total = 1.0, 0.0
        for layer, cost in zip(self._costs, whole, strict=True):
            own = counts[layer.name] / self.full[layer.name] if layer.name in counts else 1.0
            total += cost * before * own
            before = own
        return total


METHOD = Filters()
