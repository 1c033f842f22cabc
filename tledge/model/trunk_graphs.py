"""The chain of a VGG16 in the graph of a whole model: what stands between its convolutions is folded in or refused.

A file of a whole model says where each layer stands. So normalization behind a convolution becomes a part of it, and
nothing else that holds weights is lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.core.errors import WeightsError
from tledge.model.normalization import normalization_as_affine
from tledge.model.preprocessing import MEAN_BGR, PREPROCESSING, is_for_vgg16

Tensor = NDArray[Any]
_KERNEL_PX = (3, 3)
# What leaves values as they are when a network is asked, and what only moves them: nothing for a note.
_PASSING = frozenset(("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "Identity", "Cast"))
_NORMALIZATIONS = ("BatchNormalization", "SyncBatchNormalization")
_MOVING = frozenset(("InputLayer", "ZeroPadding2D", "Pad", "Transpose", "Permute"))
_ONNX_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


@dataclass(frozen=True)
class Step:
    """One layer on the way from the pixels to the last convolution.

    `kernel` (3, 3, in, out) and `bias` (out,) belong to a convolution, `scale` and `shift` (one number or one for each
    channel) to what multiplies and adds. `is_weighted` says whether others hold weights.
    """

    name: str
    kind: str
    role: Literal["convolution", "affine", "passing", "other"]
    kernel: Tensor = field(default_factory=lambda: np.zeros(0))
    bias: Tensor = field(default_factory=lambda: np.zeros(0))
    scale: Tensor = field(default_factory=lambda: np.ones(1))
    shift: Tensor = field(default_factory=lambda: np.zeros(1))
    is_weighted: bool = False


@dataclass(frozen=True)
class FoldedTrunk:
    """Kernels (3, 3, in, out) and biases (out,) in the order of the network, float64.

    `folded` names what became a part of a convolution, `before` what changes the pixels before the first one.
    """

    convolutions: list[tuple[Tensor, Tensor]]
    folded: tuple[str, ...] = ()
    before: tuple[str, ...] = ()


def fold(path: Path, steps: Sequence[Step]) -> FoldedTrunk:
    """Fold what follows a convolution at once into it: k·(w∗x + b) + s = (k·w)∗x + (k·b + s), at borders as well.

    Raises:
        WeightsError: something with weights stands elsewhere.
    """
    found: list[tuple[Tensor, Tensor]] = []
    folded, before, is_open = [], [], False
    for step in steps:
        if step.role == "convolution":
            found.append((step.kernel.astype(np.float64), step.bias.astype(np.float64)))
            is_open = True
        elif step.role == "affine" and is_open:
            kernel, bias = found[-1]
            found[-1] = (kernel * step.scale, bias * step.scale + step.shift)
            folded.append(step.name)
        elif step.is_weighted or (step.role == "affine" and found):
            where = "does not follow a convolution at once" if step.role == "affine" else "has no place in a VGG16"
            raise WeightsError(
                f"expected only VGG16's convolutions, or normalization right behind them, in {path}, but {step.name} "
                f"({step.kind}) {where} and would be left out; pass a file of VGG16 weights"
            )
        elif step.role != "passing":
            is_open = False
            if not found and step.kind not in _MOVING:
                before.append(step.kind)
    return FoldedTrunk(found, tuple(folded), tuple(before))


@dataclass(frozen=True)
class _Node:
    """A layer of a graph: keys of the layers whose output it takes, and what it is as a step, made when asked for."""

    inputs: tuple[str, ...]
    is_convolution: bool
    step: Callable[[], Step]


def _steps(path: Path, nodes: Mapping[str, _Node], count: int) -> list[Step] | int:
    """The steps from the pixels to the last convolution and what follows it at once; their number if it is another."""
    convolutions = [key for key, node in nodes.items() if node.is_convolution]
    if len(convolutions) != count:
        return len(convolutions)
    chain: list[str] = []
    key = convolutions[-1]
    while key in nodes and key not in chain:
        chain.append(key)
        # What an operator takes besides, such as a constant, is no node.
        inputs = [name for name in dict.fromkeys(nodes[key].inputs) if name in nodes]
        if len(inputs) > 1:
            raise WeightsError(
                f"expected VGG16's chain of convolutions in {path}, but {key} joins {len(inputs)} branches; pass a "
                "file of VGG16 weights"
            )
        key = inputs[0] if inputs else ""
    steps = [nodes[key].step() for key in reversed(chain)]
    return [*steps, *takewhile(lambda step: step.role in ("affine", "passing"), _behind(nodes, chain[0]))]


def _behind(nodes: Mapping[str, _Node], key: str) -> Iterator[Step]:
    """What follows a layer, as long as it is one chain."""
    while len(after := [name for name, node in nodes.items() if key in node.inputs]) == 1:
        (key,) = after
        yield nodes[key].step()


def of_keras(path: Path, config: Mapping[str, Any], weights: Any, count: int) -> FoldedTrunk | int | None:
    """Read the chain of a Keras model, of Keras 2 or 3, without building the model.

    Args:
        path: of its file, for messages.
        config: of the model, as its file has it.
        weights: its HDF5 file: of an archive, or that of the older format.
        count: of convolutions.

    Returns:
        The convolutions; how many there are, if not `count`; or None for a model whose graph its file does not hold.

    Raises:
        WeightsError: something with weights would be left out.
        KeyError, ValueError: damaged.
    """
    if config.get("class_name") not in ("Functional", "Sequential", "Model") or "layers" not in config["config"]:
        return None
    legacy = weights.get("model_weights")
    nodes: dict[str, _Node] = {}
    _expand(config, (), "", (), nodes, lambda names, place: _tensors(weights, legacy, names, place))
    steps = _steps(path, nodes, count)
    return steps if isinstance(steps, int) else fold(path, steps)


_Read = Callable[[tuple[str, ...], str], list[tuple[str, Tensor]]]


def _expand(
    model: Mapping[str, Any],
    names: tuple[str, ...],
    place: str,
    given: tuple[str, ...],
    nodes: dict[str, _Node],
    read: _Read,
) -> tuple[str, ...]:
    """Add the layers of a model, and of models in it, to `nodes`; returns the keys of its outputs.

    `names` are those of the models around, `place` is where an archive has their weights.
    """
    config, used = model["config"], dict[str, int]()
    is_chain = model["class_name"] == "Sequential"
    outputs: dict[str, tuple[str, ...]] = {}
    last = given
    for layer in config["layers"]:
        kind, inner = str(layer["class_name"]), layer["config"]
        name = str(layer.get("name") or inner["name"])
        own = _snake_case(kind)
        used[own] = used.get(own, -1) + 1
        below = f"{place}layers/{own}_{used[own]}/" if used[own] else f"{place}layers/{own}/"
        before = [key for source in _sources(layer.get("inbound_nodes", [])) for key in outputs.get(source, ())]
        inputs = last if is_chain else given if kind == "InputLayer" else tuple(before)
        if "layers" in inner and kind in ("Functional", "Sequential", "Model"):
            last = outputs[name] = _expand(layer, (*names, name), below, inputs, nodes, read)
            continue
        key = "/".join((*names, name))
        is_convolution = kind == "Conv2D" and tuple(inner["kernel_size"]) == _KERNEL_PX
        nodes[key] = _Node(inputs, is_convolution, _step(kind, (*names, name), below, inner, read))
        last = outputs[name] = (key,)
        if kind == "Conv2D" and inner.get("activation", "linear") not in ("linear", None):
            # What stands behind the activation is not behind the convolution.
            nodes[f"{key} "] = _Node((key,), False, partial(Step, key, "Activation", "other"))
            last = outputs[name] = (f"{key} ",)
    if is_chain:
        return last
    return tuple(key for name in _sources(config["output_layers"]) for key in outputs[name])


def _step(kind: str, names: tuple[str, ...], place: str, config: Mapping[str, Any], read: _Read) -> Callable[[], Step]:
    def made() -> Step:
        name, tensors = "/".join(names), read(names, place)
        if kind in ("Conv2D", *_NORMALIZATIONS) and not tensors:
            raise ValueError(f"{name} has no tensors")
        floats = [tensor for _, tensor in tensors if tensor.dtype.kind == "f"]
        if kind == "Conv2D" and tuple(config["kernel_size"]) == _KERNEL_PX:
            kernel, *bias = floats if tensors[0][0] == "0" else _named(tensors, ("kernel", "bias"))
            return Step(name, kind, "convolution", kernel, bias[0] if bias else np.zeros(kernel.shape[-1]))
        if kind in _NORMALIZATIONS:
            return _batch_normalization(name, kind, tensors, config)
        if kind in _PASSING or kind.startswith("Random"):
            return Step(name, kind, "passing")
        if kind == "EinsumDense" and _is_preprocessing(names[-1], floats):
            return Step(name, kind, "passing")
        return Step(name, kind, "other", is_weighted=bool(floats))

    return made


def _batch_normalization(name: str, kind: str, tensors: list[tuple[str, Tensor]], config: Mapping[str, Any]) -> Step:
    asked = {"gamma": config.get("scale", True), "beta": config.get("center", True)}
    order = [*(part for part, is_there in asked.items() if is_there), "moving_mean", "moving_variance"]
    in_order = [tensor for _, tensor in tensors] if tensors[0][0] == "0" else _named(tensors, order)
    if len(in_order) != len(order):
        raise ValueError(f"{name} has {len(in_order)} tensors instead of {len(order)}")
    values = {part: tensor.astype(np.float64) for part, tensor in zip(order, in_order, strict=True)}
    return _normalization(
        name,
        kind,
        values.get("gamma", np.ones(1)),
        values.get("beta", np.zeros(1)),
        values["moving_mean"],
        values["moving_variance"],
        float(config["epsilon"]),
    )


def _normalization(
    name: str, kind: str, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> Step:
    scale, shift = normalization_as_affine(gamma, beta, mean, variance, epsilon)
    return Step(name, kind, "affine", scale=scale, shift=shift, is_weighted=True)


def _is_preprocessing(name: str, tensors: Sequence[Tensor]) -> bool:
    """Whether this is tledge's own layer: what a trunk takes is then what it will be fed again."""
    return (name, len(tensors)) == (PREPROCESSING, 2) and is_for_vgg16(*tensors)


def _named(tensors: Sequence[tuple[str, Tensor]], names: Sequence[str]) -> list[Tensor]:
    found = dict(tensors)
    return [found[name] for name in names if name in found]


def _tensors(weights: Any, legacy: Any, names: tuple[str, ...], place: str) -> list[tuple[str, Tensor]]:
    """Name and values of each tensor of a layer: in an archive its number, in the older format its own name."""
    found: dict[tuple[str, ...], Tensor] = {}
    # Keras 2.12 called the folder of layers otherwise.
    places = (place, place.replace("layers/", "_layer_checkpoint_dependencies/"))
    groups = [legacy.get(names[0])] if legacy is not None else [weights.get(one) for one in places]
    for group in groups:
        if group is not None:
            group.visititems(lambda name, item: found.update({tuple(name.split("/")): item}))
    h5py = require("h5py")
    chosen = [
        (parts[-1].partition(":")[0], np.asarray(item))
        for parts, item in found.items()
        # In the older format all tensors of a model inside a model stand together.
        if isinstance(item, h5py.Dataset) and (legacy is None or names[-1] in (names[0], *parts[:-1]))
    ]
    if legacy is None:
        return sorted(chosen, key=lambda pair: int(pair[0]) if pair[0].isdigit() else 0)
    if len({name for name, _ in chosen}) != len(chosen):
        raise ValueError(f"several tensors of {names[-1]} have the same name")
    return chosen


def _snake_case(name: str) -> str:
    """As Keras calls the classes of layers in its archives."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _sources(value: Any) -> Iterator[str]:
    """Names of layers in what Keras 2 or 3 writes about the inputs of a layer or the outputs of a model."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _sources(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) >= 3 and isinstance(value[0], str) and all(type(n) is int for n in value[1:3]):
            yield value[0]
            value = value[3:]
        for inner in value:
            yield from _sources(inner)


def of_onnx(path: Path, graph: Any, count: int) -> FoldedTrunk | int:
    """Read the chain of an ONNX graph that holds its weights.

    Returns:
        The convolutions, or how many there are, if not `count`.

    Raises:
        WeightsError: something with weights would be left out.
    """
    to_array = require("onnx").numpy_helper.to_array
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    nodes = {
        node.output[0]: _Node(
            tuple(name for name in node.input if name and name not in tensors),
            _is_onnx_convolution(node, tensors),
            partial(_onnx_step, node, tensors, to_array),
        )
        for node in graph.node
        if node.output and node.output[0] not in tensors
    }
    steps = _steps(path, nodes, count)
    if isinstance(steps, int):
        return steps
    found = fold(path, steps)
    return FoldedTrunk(found.convolutions, found.folded, () if _subtracts_means(steps) else found.before)


def _is_onnx_convolution(node: Any, tensors: Mapping[str, Any]) -> bool:
    if node.op_type != "Conv" or not tensors.keys() >= {*node.input[1:]} - {""}:
        return False
    return len(tensors[node.input[1]].dims) == 4 and tuple(tensors[node.input[1]].dims[2:]) == _KERNEL_PX


def _onnx_step(node: Any, tensors: Mapping[str, Any], to_array: Callable[[Any], Tensor]) -> Step:
    name, kind = node.name or node.output[0], str(node.op_type)
    held = [to_array(tensors[one]) for one in node.input if one in tensors]
    if _is_onnx_convolution(node, tensors):
        kernel = held[0].transpose(2, 3, 1, 0)
        return Step(name, kind, "convolution", kernel, held[1] if len(held) > 1 else np.zeros(kernel.shape[-1]))
    if kind == "BatchNormalization" and len(held) == 4:
        epsilon = next((one.f for one in node.attribute if one.name == "epsilon"), 1e-5)
        gamma, beta, mean, variance = (one.astype(np.float64) for one in held)
        return _normalization(name, kind, gamma, beta, mean, variance, epsilon)
    if kind in _ONNX_ARITHMETIC and len(held) == 1 and (factor := _per_channel(held[0])) is not None:
        constant_first = node.input[0] in tensors
        return _arithmetic(name, kind, factor, constant_first)
    if kind in _PASSING:
        return Step(name, kind, "passing")
    return Step(name, kind, "other", is_weighted=any(one.dtype.kind == "f" and one.size > 1 for one in held))


def _arithmetic(name: str, kind: str, constant: Tensor, constant_first: bool) -> Step:
    if kind == "Div" and constant_first:
        return Step(name, kind, "other", is_weighted=constant.size > 1)
    sign = -1.0 if kind == "Sub" else 1.0
    if kind in ("Add", "Sub"):
        scale = np.full(1, sign if constant_first else 1.0)
        return Step(name, kind, "affine", scale=scale, shift=constant if constant_first else sign * constant)
    return Step(name, kind, "affine", scale=constant if kind == "Mul" else 1 / constant)


def _per_channel(constant: Tensor) -> Tensor | None:
    """The numbers of a constant that has one, or one for each channel of (N, C, H, W); None for other shapes."""
    if constant.dtype.kind != "f":
        return None
    if constant.size == 1:
        return constant.reshape(1).astype(np.float64)
    of_channels = constant.ndim in (3, 4) and constant.shape[-2:] == (1, 1) and constant.size == constant.shape[-3]
    return constant.reshape(-1).astype(np.float64) if of_channels else None


def _subtracts_means(steps: Sequence[Step]) -> bool:
    """Whether the pixels lose ImageNet's means before the first convolution, as tledge's do, and nothing else."""
    before = list(takewhile(lambda step: step.role != "convolution", steps))
    changing = [step for step in before if step.role != "passing" and step.kind not in _MOVING]
    return len(changing) == 1 and np.allclose(-changing[0].shift, MEAN_BGR, atol=0.01) and changing[0].role == "affine"
