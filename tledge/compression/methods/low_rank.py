"""Method `low-rank`: split layers into thin ones that lose as little as possible of what the original computes.

A large layer becomes a 1x1 convolution into fewer channels, the kernel, and a 1x1 convolution out again. The split on
the side of the outputs is that of X. Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification
and Detection", 2016; on both sides it has the form of Y.-D. Kim et al., "Compression of Deep Convolutional Neural
Networks for Fast and Low Power Mobile Applications", 2016 (Tucker-2).

What a layer takes and what it answers vary in few directions. The first part of a split layer keeps the directions of
its inputs that its kernel makes most of, the last part those in which its outputs vary most, found by reduced-rank
regression on what the net split so far computes (Zhang et al.), so every layer also corrects the errors of those before
it. Directions mix all channels, so less is lost than by leaving out some of them.

How thin the parts may be: where few directions hold the energy, few channels do. The product over layers of the share
of energy that is kept goes with the accuracy of the whole net (Zhang et al., section 2.3), so time and again the
channels go that cost the least of it for what they save. Here both sides of a layer have a share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tledge.compression.activations import BATCH, Floats, Sampling, at_places, gather, values_of
from tledge.compression.budget import BYTES_PER_LAYER, BYTES_PER_OUTPUT, file_bytes, parse_budget
from tledge.compression.flat import CORE, INTO, PREDICTION, bridges, multiply_adds, parameters, weighted_layers
from tledge.compression.images import RunImages
from tledge.compression.least_squares import Matrix, Moments, Regression, refit
from tledge.compression.method import Method, Outcome
from tledge.compression.shrinking import (
    Limits,
    Note,
    ShrinkSettings,
    Student,
    UnreachableError,
    shrink_run,
)
from tledge.compression.splitting import Ranks, Splittable, input_map, split, splittable
from tledge.compression.study import Study, Teacher
from tledge.compression.truncation import soft_regression
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.progress import Progress
from tledge.core.settings import option
from tledge.core.types import Probabilities
from tledge.model.forward import outputs_of

if TYPE_CHECKING:
    import keras

RANK_STEP = 8
_MOST_KEPT_BYTES = 700e6


@dataclass(frozen=True)
class LowRankSettings(ShrinkSettings):
    """As for `filters`, but thin layers bear larger steps than narrow ones.

    `budget` is how many bytes the `tflite-int8` file may have, None for no limit; it may go with the others.
    """

    learning_rate: float = option(1e-4, help="Adam's highest.")
    budget: float | None = option(
        None,
        help='Instead: the best net whose int8 .tflite file is this small, e.g. "size < 1 MB".',
        metavar="TEXT",
        parse=parse_budget,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and not 0 < self.budget < np.inf:
            raise SettingsError(f"expected a budget above 0 bytes, but got {self.budget:g}; change it")

    def limits(self, original: keras.Model, speedup: float) -> Limits:
        """As `ShrinkSettings`."""
        return replace(super().limits(original, speedup), file_bytes=self.budget)

    def is_narrower(self) -> bool:
        """As `ShrinkSettings`."""
        return self.budget is not None or super().is_narrower()


class LowRank(Method[LowRankSettings]):
    """Thin layers, a smaller input and an earlier end, then distillation."""

    name = "low-rank"
    settings = LowRankSettings
    place = 20

    def apply(
        self,
        model: keras.Model,
        settings: LowRankSettings,
        history: Sequence[str],
        images: RunImages,
        progress: Progress,
        work: Path,
    ) -> Outcome:
        """As `Method.apply`."""
        return shrink_run(self.name, model, settings, images, thin_layers, progress, work)


def thin_layers(study: Study, teacher: Teacher, limits: Limits, note: Note, progress: Progress) -> Student:
    """Split layers into thin ones that keep what their responses vary in.

    Raises:
        SettingsError: limits that cannot be met.
    """
    energies = study.once("low-rank", teacher, lambda: _measured(teacher, progress))
    ranks = choose(teacher.model, energies, limits)
    student = split(teacher.model, ranks)
    fit_parts(student, teacher.model, ranks, teacher.targets, teacher.sampling, progress)
    fit_head(student, teacher.sampling, outputs_of(teacher.model, teacher.sampling.images))
    note("split", student)
    return Student(student, {"ranks": {name: [found.into, found.out] for name, found in ranks.items()}}, None)


def _measured(teacher: Teacher, progress: Progress) -> dict[str, Spectra]:
    progress("looking for directions", 0, 1)
    found = spectra(teacher.model, teacher.targets, teacher.sampling)
    progress("looking for directions", 1, 1)
    return found


@dataclass(frozen=True)
class Spectra:
    """Energy of a layer by direction, descending: of its inputs as its kernel sees them, and of its outputs."""

    inputs: NDArray[np.float64]
    outputs: NDArray[np.float64]


def spectra(model: keras.Model, targets: Mapping[str, Floats], sampling: Sampling) -> dict[str, Spectra]:
    """Look at the layers that can be split.

    Args:
        model: a flat net.
        targets: its `pre_activations`.
        sampling: the same as for `targets`.

    Raises:
        SettingsError: there are none.
    """
    layers = {layer.name: (number, layer) for number, layer in enumerate(weighted_layers(model))}
    wanted = [layers[name] for name in splittable(model)]
    if not wanted:
        raise SettingsError(
            "expected a convolution or dense layer between the first and the last one, but there is none to split; use "
            "another method"
        )
    moments = {layer.name: Moments(input_map(model, layer.name).shape[-1]) for _, layer in wanted}
    for part, maps in sampling.values_of(model, [input_map(model, layer.name) for _, layer in wanted]):
        for (number, layer), values in zip(wanted, maps, strict=True):
            moments[layer.name].add(at_places(values, number, sampling, part))
    found = {}
    for _, layer in wanted:
        root = metric(layer.get_weights()[0], moments[layer.name].channels)
        inputs = np.linalg.eigvalsh(root @ moments[layer.name].covariance() @ root)
        outputs = np.linalg.eigvalsh(np.atleast_2d(np.cov(targets[layer.name].T, dtype=np.float64)))
        found[layer.name] = Spectra(_descending(inputs), _descending(outputs))
    return found


def metric(kernel: Floats, channels: int) -> NDArray[np.float64]:
    """Square root of what a kernel makes of its input channels, summed over its places, (channels, channels).

    Distances between inputs count in it as the squared distances of what the kernel makes of them, as far as
    neighbouring places do not depend on each other.
    """
    by_place = kernel.reshape(-1, channels, kernel.shape[-1]).astype(np.float64)
    values, vectors = np.linalg.eigh(np.einsum("pio,pjo->ij", by_place, by_place, optimize=True))
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def choose(model: keras.Model, energies: Mapping[str, Spectra], limits: Limits) -> dict[str, Ranks]:
    """Choose which layers to split and how thin, in multiples of 8.

    Args:
        model: the net before it is split.
        energies: from `spectra`.
        limits: to be met by the whole net.

    Returns:
        By layer; those that are cheaper as they are are left out.

    Raises:
        UnreachableError: even 8 channels everywhere are too many.
    """
    layers = splittable(model)
    fixed = np.array([multiply_adds(model), parameters(model), file_bytes(model)]) - _sum(layers, {})
    most = _most(limits)
    ranks = {name: layer.whole for name, layer in layers.items()}
    while _excess(over := fixed + _sum(layers, ranks), most) > 0:
        choices = [
            (harm / max(_saved(layers[name], ranks[name], thinner, over, most), 1e-12), name, thinner)
            for name in layers
            for harm, thinner in _thinner(ranks[name], energies[name])
        ]
        if not choices:
            raise UnreachableError(
                f"expected a target that {RANK_STEP} channels a part can meet, but the limit is {limits}; "
                "ask for a smaller ratio or a smaller image size"
            )
        _, name, thinner = min(choices, key=lambda choice: choice[:2])
        ranks[name] = thinner
    return {name: found for name, found in ranks.items() if layers[name].pays(found)}


_Costs: TypeAlias = NDArray[np.float64]
"""Multiply-adds, weights and biases, bytes of the int8 file."""


def _most(limits: Limits) -> _Costs:
    asked = (limits.multiply_adds, limits.parameters, limits.file_bytes)
    return np.array([np.inf if limit is None else limit for limit in asked])


def _sum(layers: Mapping[str, Splittable], ranks: Mapping[str, Ranks]) -> _Costs:
    """Of every layer split, or whole where that costs less or no ranks are given."""
    total = np.zeros(3)
    for name, layer in layers.items():
        whole = layer.taps * layer.inputs * layer.outputs
        if name in ranks and layer.pays(ranks[name]):
            # The parts have a bias each; only the last one's needs to be there, but a layer without is another layer.
            total += _costs(layer, ranks[name]) + np.array([0, _outputs(ranks[name]), 0])
        else:
            total += np.array([layer.places * whole, whole, whole])
    return total


def _costs(layer: Splittable, ranks: Ranks) -> _Costs:
    """Of a layer in parts; biases count in the file alone, where each comes with a scale."""
    outputs, further = _outputs(ranks), 1 if ranks.out is None else 2
    weights = layer.parameters(ranks)
    in_file = weights + (1 + BYTES_PER_OUTPUT) * outputs + BYTES_PER_LAYER * further
    return np.array([layer.multiply_adds(ranks), weights, in_file], np.float64)


def _outputs(ranks: Ranks) -> int:
    """Of the parts before the last one."""
    return ranks.into + (ranks.out or 0)


def _excess(cost: _Costs, most: _Costs) -> float:
    return float((cost / most).max()) - 1.0


def _saved(layer: Splittable, now: Ranks, thinner: Ranks, over: _Costs, most: _Costs) -> float:
    """What thinner parts save of the limits that do not hold yet, as shares of these."""
    return float(((_costs(layer, now) - _costs(layer, thinner)) / most)[over > most].sum())


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


def fit_parts(
    student: keras.Model,
    teacher: keras.Model,
    ranks: Mapping[str, Ranks],
    targets: Mapping[str, Floats],
    sampling: Sampling,
    progress: Progress,
) -> None:
    """Find the weights of every layer of a split net in place, from the first layer to the last but one.

    Layers that were not split are refitted too, once something before them was.

    Args:
        student: from `split` with these ranks.
        teacher: the net before it was split.
        ranks: of the split layers.
        targets: `pre_activations` of the teacher.
        sampling: the same as for `targets`.
        progress: called with (what is going on, done, in all).
    """
    inputs = _Inputs(student, sampling, ranks)
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
    """Fit the last layer in place to answers (N, classes) for the images of `sampling`, if it is a dense one."""
    _, keras = require_tensorflow()
    prediction = weighted_layers(student)[-1]
    if prediction.name == PREDICTION:
        features = outputs_of(keras.Model(student.input, prediction.input), sampling.images)
        prediction.set_weights(list(soft_regression(features, answers)))


class _Inputs:
    """What layers of the student see on the images; from the last tensor on that all layers to be fitted hang on."""

    def __init__(self, student: keras.Model, sampling: Sampling, split_layers: Collection[str]) -> None:
        self.student = student
        self._split = split_layers
        self.sampling = sampling
        self._start: Any = student.input
        self._values: NDArray[Any] = sampling.images
        self._bridges = bridges(student)

    def keep_before(self, name: str) -> None:
        """Compute what a layer reads once, if nothing else leads to the layers behind it and there is room for it."""
        tensor = input_map(self.student, name + INTO if name in self._split else name)
        if id(tensor) in self._bridges and 4 * int(np.prod(tensor.shape[1:])) * len(self._values) <= _MOST_KEPT_BYTES:
            values = np.empty((len(self._values), *tensor.shape[1:]), np.float32)
            for part, found in self.batches(tensor):
                values[part] = found
            self._start, self._values = tensor, values

    def batches(self, tensor: Any) -> Iterator[tuple[slice, Floats]]:
        """Values of a tensor of the student, batch by batch, each with its position."""
        if tensor is not self._start:
            yield from values_of(self._start, tensor, self._values)
            return
        for start in range(0, len(self._values), BATCH):
            part = slice(start, start + BATCH)
            yield part, self._values[part].astype(np.float32)


def _fit_into(inputs: _Inputs, layer: Any, number: int, ranks: Ranks, generator: np.random.Generator) -> Floats:
    """Set the first part; returns the layer's kernel (places, into, outputs) for what the first part hands on."""
    part = inputs.student.get_layer(layer.name + INTO)
    channels = part.get_weights()[0].shape[-2]
    moments = Moments(channels)
    for position, values in inputs.batches(part.input):
        moments.add(at_places(values, number, inputs.sampling, position))
    kernel = layer.get_weights()[0]
    root = metric(kernel, channels)
    directions = _rotated(_strongest(root @ moments.second() @ root, ranks.into), generator)
    back = directions.T @ np.linalg.pinv(root, rcond=1e-4, hermitian=True)
    into = (root @ directions).astype(np.float32)
    part.set_weights([into.reshape(part.get_weights()[0].shape), np.zeros(ranks.into, np.float32)])
    by_place = kernel.reshape(-1, channels, kernel.shape[-1])
    return np.asarray(np.einsum("rc,pco->pro", back, by_place, optimize=True), np.float32)


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
    has_core = ranks is not None and ranks.out is not None
    layer = inputs.student.get_layer(name + CORE if has_core else name)
    shape = layer.get_weights()[0].shape
    start = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
    sums = Regression(start)
    # Of a layer in two parts the first takes the strides, and places are those of what it reads.
    first = inputs.student.get_layer(name + INTO) if ranks is not None and not has_core else None
    for position, values in inputs.batches(layer.input if first is None else first.input):
        rows = gather(first or layer, number, values, inputs.sampling, position)
        if first is not None:
            rows = rows @ first.get_weights()[0].reshape(rows.shape[1], -1)
        done = position.start * (len(target) // len(inputs.sampling.images))
        sums.add(rows, target[done : done + len(rows)])
    weights, bias = sums.solve()
    if ranks is None or ranks.out is None:
        layer.set_weights([weights.astype(np.float32).reshape(shape), bias.astype(np.float32)])
        return
    directions = _rotated(_strongest(weights.T @ sums.covariance() @ weights, ranks.out), generator)
    core = (weights @ directions).astype(np.float32).reshape(shape)
    layer.set_weights([core, np.zeros(ranks.out, np.float32)])
    # The mean is not a direction: what projecting takes of it goes into the last bias.
    bias = sums.mean_target() - sums.mean_row() @ weights @ directions @ directions.T
    inputs.student.get_layer(name).set_weights(
        [directions.T.astype(np.float32)[None, None], np.asarray(bias, np.float32)]
    )


def _strongest(moments: Matrix, count: int) -> Matrix:
    """The `count` eigenvectors with the largest eigenvalues, (n, count)."""
    return np.asarray(np.linalg.eigh(moments)[1][:, ::-1][:, :count])


def _rotated(directions: Matrix, generator: np.random.Generator) -> Matrix:
    """The same space in directions that each hold about the same energy, so that one 8-bit scale suits all of them."""
    count = directions.shape[1]
    rotation, _ = np.linalg.qr(generator.standard_normal((count, count)))
    return np.asarray(directions @ rotation)


METHOD = LowRank()
