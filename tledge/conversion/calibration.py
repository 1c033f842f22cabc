"""Activation ranges: measured once on calibration images, used by every quantizer.

The float model runs in TensorFlow over batches, and only the least and largest value of each tensor is kept. A file's
tensors are found again by what they hold: on the same few images, the tensor of a converted graph and the one of the
model that it came from have the same least, largest and mean value, whatever a converter fused, renamed or transposed.
What a converter made of its own is measured in the converted graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.progress import Steps, silent_steps
from tledge.core.types import CalibrationMethod, Images
from tledge.model.graph import MATRIX_LAYERS, Call, Graph, Value, activation_of
from tledge.model.inference import PIXEL_OFFSET
from tledge.model.ranges import LEVELS, ActivationRanges

Range = tuple[float, float]

PIXELS = "image"
"""The tensor of the pixels, whose range is known and not measured."""

_BYTES: Range = (0.0, 255.0)
_BOUNDED: Mapping[str | None, Range] = {"softmax": (0.0, 1.0), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
"""By activation what it can put out, which is not learned."""
_HANDING_ON = ("MaxPooling2D", "Flatten", "Reshape", "ZeroPadding2D")
"""Kinds of layers that put out what they took, and zeros."""
_BATCH = 4
# One image tells tensors apart; more would only be slower.
_SHOWN = 1
_SAMPLES_PER_IMAGE = 4096
_PERCENTILE = 99.99
_CLIP_STEPS = 60
_SMALLEST_CLIP = 0.3
# Float32 kernels add in another order: sums of thousands of products differ in the last digits.
_TOLERANCE = 1e-3
# What should be 0, such as means of values that were centred, is made of last digits, which kernels do not share.
_NOISE = 1e-6


@dataclass(frozen=True)
class Fingerprint:
    """What a tensor holds on the images shown: least, largest, mean and root mean square value, (images, 4)."""

    values: NDArray[np.float64]

    @classmethod
    def of(cls, tensor: NDArray[Any]) -> Fingerprint:
        """That of a tensor (images, …)."""
        flat = np.asarray(tensor, np.float64).reshape(len(tensor), -1)
        columns = (flat.min(1), flat.max(1), flat.mean(1), np.sqrt(np.square(flat).mean(1)))
        return cls(np.stack(columns, axis=1))

    @property
    def magnitude(self) -> float:
        """Of the largest value."""
        return float(np.abs(self.values).max())

    def distance(self, other: Fingerprint) -> float:
        """Largest difference as a share of the larger magnitude, 0 for the same."""
        largest = max(self.magnitude, other.magnitude)
        return float(np.abs(self.values - other.values).max() / largest) if largest else 0.0


@dataclass(frozen=True)
class Calibration:
    """Ranges by tensor of a graph: `name` for a call's output, `name/operation` for a tensor inside an activation.

    `images` (N, H, W, C) uint8 are those that the ranges are from, `fingerprints` of the first of them.
    """

    ranges: Mapping[str, Range]
    fingerprints: Mapping[str, Fingerprint]
    images: Images

    @property
    def shown(self) -> Images:
        """The images that tell tensors apart, (1, H, W, C)."""
        return self.images[:_SHOWN]

    def of(self, tensor: Fingerprint) -> Range | None:
        """The range of a converted graph's tensor, None if the model has no tensor like it."""
        name = min(self.fingerprints, key=lambda name: self.fingerprints[name].distance(tensor))
        same = self.fingerprints[name].distance(tensor) <= _TOLERANCE or tensor.magnitude <= self._noise
        return self.ranges[name] if same else None

    @cached_property
    def _noise(self) -> float:
        """Magnitude up to which a tensor holds nothing but last digits of others."""
        return _NOISE * max(mark.magnitude for mark in self.fingerprints.values())


def calibrate(
    graph: Graph,
    images: Images,
    method: CalibrationMethod = "min-max",
    known: Mapping[str, Range] | None = None,
    progress: Steps = silent_steps,
) -> Calibration:
    """Measure the ranges of a graph's activations.

    Args:
        graph: what `inference_graph` returns.
        images: (N, H, W, C) uint8, N at least 1.
        method: `min-max` takes every value in; `percentile` cuts off 0.01 % of a sample of values at either end;
            `mse` cuts off what makes the mean squared error of rounding that sample to 8 bits least (as in H. Wu et
            al., "Integer Quantization for Deep Learning Inference", 2020).
        known: ranges by tensor that an earlier call measured for the same graph, images and method.
        progress: called with (images done, images in all).
    """
    shown = images[:_SHOWN]
    traced = _Trace(graph)
    fingerprints = {name: Fingerprint.of(tensor) for name, tensor in traced.values(shown).items()}
    ranges = dict(known) if known is not None and set(known) >= {PIXELS, *fingerprints} else None
    if ranges is None:
        ranges = traced.ranges(images, progress) if method == "min-max" else traced.clipped(images, method, progress)
        ranges[PIXELS] = _BYTES
    return Calibration(ranges, fingerprints | {PIXELS: Fingerprint.of(shown)}, images)


def calibration_of(graph: Graph, ranges: Mapping[str, Range], images: Images) -> Calibration:
    """Ranges that are known already, by call, with what finds them again in a file.

    Args:
        graph: what `inference_graph` returns.
        ranges: by name of a call.
        images: (N, H, W, C) uint8, N at least 1.
    """
    shown = images[:_SHOWN]
    marks = {name: Fingerprint.of(tensor) for name, tensor in _Trace(graph).values(shown).items() if name in ranges}
    return Calibration({**ranges, PIXELS: _BYTES}, marks | {PIXELS: Fingerprint.of(shown)}, images)


def learned_by_call(graph: Graph, learned: ActivationRanges) -> dict[str, Range]:
    """Ranges of all calls of a graph from those that quantization-aware training learned for its layers.

    Args:
        graph: what `inference_graph` makes of a flat net.
        learned: by layer of that net.

    Raises:
        RunError: one is missing.
    """
    found: dict[Value, Range] = {graph.input: _BYTES}
    for call in graph.calls:
        found[call.output] = _learned(graph, call, found, learned)
    return {call.name: found[call.output] for call in graph.calls}


def _learned(graph: Graph, call: Call, found: Mapping[Value, Range], learned: ActivationRanges) -> Range:
    activation = activation_of(call)
    if call.name == PIXEL_OFFSET:
        offset = call.layer.offset
        return min(0.0, *offset), max(0.0, _BYTES[1] + max(offset))
    if call.name in learned.limits:
        return learned.of(call.name)
    if activation in _BOUNDED:
        return _BOUNDED[activation]
    if call.kind in _HANDING_ON:
        return found[call.inputs[0]]
    # Training rounds behind the ReLU alone, as runtimes do.
    relu = graph.relu_of(call)
    return learned.of(call.name if relu is None else relu.name)


class _Trace:
    """The tensors of a graph that files may round, in one compiled function each for values and for extremes."""

    def __init__(self, graph: Graph) -> None:
        self._tf, _ = require_tensorflow()
        self._graph = graph
        self._inner: set[str] = {call.name for call in graph.calls if call.kind not in MATRIX_LAYERS}

    def _tensors(self, image: Any) -> dict[str, Any]:
        """Called while TensorFlow traces: outputs of all calls, and tensors inside those that are not one operator."""
        found: dict[str, Any] = {}

        def visit(call: Call, result: Any) -> Any:
            if len(call.outputs) == 1:
                found[call.name] = result
            return result

        self._graph.run(image, visit)
        outputs = {id(tensor) for tensor in found.values()}
        for operation in image.graph.get_operations():
            call, _, rest = operation.name.partition("/")
            for tensor in operation.outputs[:1]:
                varies = tensor.dtype == self._tf.float32 and tensor.shape.rank and tensor.shape[0] is None
                if call in self._inner and varies and id(tensor) not in outputs:
                    found[f"{call}/{rest}"] = tensor
        return found

    def values(self, images: Images) -> dict[str, NDArray[np.float32]]:
        """Every tensor for a few images."""
        return {name: np.asarray(tensor) for name, tensor in self._compiled(lambda tensor: tensor)(images).items()}

    def ranges(self, images: Images, progress: Steps) -> dict[str, Range]:
        """Least and largest value of every tensor."""
        tf = self._tf
        found: dict[str, Range] = {}
        for extremes in self._batches(images, lambda x: tf.stack([tf.reduce_min(x), tf.reduce_max(x)]), progress):
            for name, both in extremes.items():
                found[name] = extended(found.get(name), both)
        return found

    def clipped(self, images: Images, method: CalibrationMethod, progress: Steps) -> dict[str, Range]:
        """Ranges that cut off rare values, from an even sample of every image's values."""
        tf = self._tf

        def sampled(x: Any) -> Any:
            flat = tf.reshape(x, (tf.shape(x)[0], -1))
            return flat[:, :: max(1, int(np.prod(x.shape[1:])) // _SAMPLES_PER_IMAGE)]

        parts: dict[str, list[NDArray[np.float32]]] = {}
        for samples in self._batches(images, sampled, progress):
            for name, sample in samples.items():
                parts.setdefault(name, []).append(np.ravel(sample))
        clip = _percentile if method == "percentile" else _least_error
        return {name: clip(np.concatenate(part)) for name, part in parts.items()}

    def _batches(
        self, images: Images, reduce: Callable[[Any], Any], progress: Steps
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        compiled = self._compiled(reduce)
        for start in range(0, len(images), _BATCH):
            progress(start, len(images))
            yield compiled(images[start : start + _BATCH])
        progress(len(images), len(images))

    def _compiled(self, reduce: Callable[[Any], Any]) -> Callable[[Images], dict[str, NDArray[np.float32]]]:
        tf = self._tf
        signature = [tf.TensorSpec((None, *self._graph.input_shape), tf.float32, name="image")]
        function = tf.function(
            lambda image: {name: reduce(tensor) for name, tensor in self._tensors(image).items()},
            input_signature=signature,
            autograph=False,
        )
        return lambda images: {
            name: np.asarray(tensor) for name, tensor in function(tf.constant(images, tf.float32)).items()
        }


def _percentile(values: NDArray[np.float32]) -> Range:
    low, high = np.percentile(values, [100 - _PERCENTILE, _PERCENTILE])
    return float(low), float(high)


def _least_error(values: NDArray[np.float32]) -> Range:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    candidates = [(low * share, high * share) for share in np.linspace(1.0, _SMALLEST_CLIP, _CLIP_STEPS)]
    return min(candidates, key=lambda limits: _rounding_error(values, limits))


def _rounding_error(values: NDArray[np.float32], limits: Range) -> float:
    scale = (limits[1] - limits[0]) / LEVELS
    if not scale:
        return float(np.square(values).sum())
    rounded = np.clip(np.round(values / scale), np.round(limits[0] / scale), np.round(limits[1] / scale)) * scale
    return float(np.square(rounded - values).sum())


class FloatModel(ABC):
    """A graph that a format converted to float32, whose tensors are the model's under names of their own."""

    def __init__(self) -> None:
        self._found: tuple[Calibration, dict[str, Range]] | None = None

    def ranges(self, calibration: Calibration) -> dict[str, Range]:
        """The range of every float tensor by its name in the converted graph.

        Of tensors that are none of the model's the range is measured: converters split normalizations and activations
        into operators of their own.
        """
        if self._found is None or self._found[0] is not calibration:
            held = self._held(calibration)
            known = {name: limits for name, limits in held.items() if limits is not None}
            if unknown := [name for name in held if name not in known]:
                known |= self._measured(unknown, calibration.images)
            self._found = (calibration, known)
        return self._found[1]

    @abstractmethod
    def _held(self, calibration: Calibration) -> Mapping[str, Range | None]:
        """The same, None for a tensor that is none of the model's."""

    @abstractmethod
    def _measured(self, names: Sequence[str], images: Images) -> dict[str, Range]:
        """Least and largest value of some tensors of the converted graph on `images` (N, H, W, C) uint8."""


def extended(before: Range | None, values: NDArray[Any]) -> Range:
    """A range with further values in it."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if before is None else (min(before[0], low), max(before[1], high))
