"""How thin the parts of each layer may be: where few directions hold the energy, few channels do.

X. Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification and Detection", 2016, section 2.3:
the product over layers of the share of energy that is kept goes with the accuracy of the whole net, so time and again
the channels go that cost the least of it for what they save. Here both sides of a layer have a share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.compression.budget import Limits, UnreachableError
from tledge.compression.chain import multiply_adds, parameters, weighted_layers
from tledge.compression.evidence import Floats, Sampling, at_places
from tledge.compression.factors import Ranks, Splittable, input_map, splittable
from tledge.core.dependencies import require_tensorflow

if TYPE_CHECKING:
    import keras

RANK_STEP = 8


@dataclass(frozen=True)
class Spectra:
    """Energy of a layer by direction, descending: of its inputs as its kernel sees them, and of its outputs."""

    inputs: NDArray[np.float64]
    outputs: NDArray[np.float64]


def spectra(model: keras.Model, targets: Mapping[str, Floats], sampling: Sampling) -> dict[str, Spectra]:
    """Look at the layers that can be split.

    Args:
        model: a chain that tledge trained.
        targets: its `pre_activations`.
        sampling: the same as for `targets`.
    """
    tf, keras = require_tensorflow()
    layers = {layer.name: (number, layer) for number, layer in enumerate(weighted_layers(model))}
    wanted = [layers[name] for name in splittable(model)]
    call = tf.function(keras.Model(model.input, [input_map(model, layer.name) for _, layer in wanted]))
    moments = {layer.name: Moments(input_map(model, layer.name).shape[-1]) for _, layer in wanted}
    for part, images in sampling.batches():
        for (number, layer), values in zip(wanted, call(tf.constant(images, tf.float32)), strict=True):
            moments[layer.name].add(at_places(values.numpy(), number, sampling, part))
    found = {}
    for _, layer in wanted:
        root = metric(layer.get_weights()[0], moments[layer.name].channels)
        inputs = np.linalg.eigvalsh(root @ moments[layer.name].covariance() @ root)
        outputs = np.linalg.eigvalsh(np.cov(targets[layer.name].T, dtype=np.float64))
        found[layer.name] = Spectra(_descending(inputs), _descending(outputs))
    return found


class Moments:
    """First and second moment of rows that come batch by batch."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.count = 0
        self._sum = np.zeros(channels)
        self._squares = np.zeros((channels, channels))

    def add(self, rows: Floats) -> None:
        """Take (rows, channels) into account."""
        self.count += len(rows)
        self._sum += rows.sum(axis=0)
        self._squares += rows.T @ rows

    def mean(self) -> NDArray[np.float64]:
        """Mean row, (channels,)."""
        return self._sum / self.count

    def second(self) -> NDArray[np.float64]:
        """Mean of the rows' outer products, (channels, channels)."""
        return self._squares / self.count

    def covariance(self) -> NDArray[np.float64]:
        """The same after the mean was subtracted."""
        mean = self.mean()
        return self.second() - np.outer(mean, mean)


def metric(kernel: Floats, channels: int) -> NDArray[np.float64]:
    """Square root of what a kernel makes of its input channels, summed over its places, (channels, channels).

    Distances between inputs count in it as the squared distances of what the kernel makes of them, as far as
    neighbouring places do not depend on each other.
    """
    by_place = kernel.reshape(-1, channels, kernel.shape[-1]).astype(np.float64)
    values, vectors = np.linalg.eigh(np.einsum("pio,pjo->ij", by_place, by_place))
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def choose(model: keras.Model, energies: Mapping[str, Spectra], limits: Limits) -> dict[str, Ranks]:
    """Choose which layers to split and how thin, in multiples of 8.

    Args:
        model: the chain before it is split.
        energies: from `spectra`.
        limits: to be met by the whole chain.

    Returns:
        By layer; those that are cheaper as they are are left out.

    Raises:
        UnreachableError: even 8 channels everywhere are too many.
    """
    layers = splittable(model)
    fixed = _Cost(multiply_adds(model), parameters(model)) - _sum(layers, {})
    ranks = {name: layer.whole for name, layer in layers.items()}
    while _excess(over := fixed + _sum(layers, ranks), limits) > 0:
        choices = [
            (harm / max(_saved(layers[name], ranks[name], thinner, over, limits), 1e-12), name, thinner)
            for name in layers
            for harm, thinner in _thinner(ranks[name], energies[name])
        ]
        if not choices:
            raise UnreachableError(
                f"expected a target that {RANK_STEP} channels a part can meet, but {limits} is less; "
                "ask for a smaller ratio or a smaller image size"
            )
        _, name, thinner = min(choices, key=lambda choice: choice[:2])
        ranks[name] = thinner
    return {name: found for name, found in ranks.items() if layers[name].pays(found)}


@dataclass(frozen=True)
class _Cost:
    multiply_adds: float
    parameters: float

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.multiply_adds + other.multiply_adds, self.parameters + other.parameters)

    def __sub__(self, other: _Cost) -> _Cost:
        return _Cost(self.multiply_adds - other.multiply_adds, self.parameters - other.parameters)


def _sum(layers: Mapping[str, Splittable], ranks: Mapping[str, Ranks]) -> _Cost:
    """Of every layer split, or whole where that costs less or no ranks are given."""
    total = _Cost(0, 0)
    for name, layer in layers.items():
        whole = layer.taps * layer.inputs * layer.outputs
        if name in ranks and layer.pays(ranks[name]):
            # The parts have a bias each; only the last one's needs to be there, but a layer without is another layer.
            biases = ranks[name].into + (ranks[name].out or 0)
            total += _Cost(layer.multiply_adds(ranks[name]), layer.parameters(ranks[name]) + biases)
        else:
            total += _Cost(layer.places * whole, whole)
    return total


def _excess(cost: _Cost, limits: Limits) -> float:
    most = np.inf if limits.parameters is None else limits.parameters
    return max(cost.multiply_adds / limits.multiply_adds, cost.parameters / most) - 1.0


def _saved(layer: Splittable, now: Ranks, thinner: Ranks, over: _Cost, limits: Limits) -> float:
    """What thinner parts save of the limits that do not hold yet, as shares of these."""
    saved = 0.0
    if over.multiply_adds > limits.multiply_adds:
        saved += (layer.multiply_adds(now) - layer.multiply_adds(thinner)) / limits.multiply_adds
    if limits.parameters is not None and over.parameters > limits.parameters:
        saved += (layer.parameters(now) - layer.parameters(thinner)) / limits.parameters
    return saved


def _thinner(ranks: Ranks, energies: Spectra) -> list[tuple[float, Ranks]]:
    """What the next step on either side costs of the logarithm of the energy kept, and what is left."""
    found = []
    if (less := _less(ranks.into)) is not None:
        found.append((_harm(energies.inputs, ranks.into, less), Ranks(less, ranks.out)))
    if ranks.out is not None and (less := _less(ranks.out)) is not None:
        found.append((_harm(energies.outputs, ranks.out, less), Ranks(ranks.into, less)))
    return found


def _less(rank: int) -> int | None:
    less = (rank - 1) // RANK_STEP * RANK_STEP
    return less if less >= RANK_STEP else None


def _harm(energy: NDArray[np.float64], now: int, less: int) -> float:
    tiny = np.finfo(float).tiny
    return float(np.log((energy[:now].sum() + tiny) / (energy[:less].sum() + tiny))) + 1e-12


def _descending(eigenvalues: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(eigenvalues[::-1], 0.0), np.float64)
