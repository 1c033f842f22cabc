"""An artefact's layers against the float model's, image by image: only sums are kept, to need little memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.conversion.calibration import PIXELS, Range
from tledge.core.dependencies import require_tensorflow
from tledge.core.errors import ArtefactError
from tledge.core.progress import Steps
from tledge.core.types import Images
from tledge.diagnosis.answers import INPUT_TRANSFORMS
from tledge.formats.activation_probe import ActivationProbe, Floats, ProbePoint
from tledge.model.graph import Call
from tledge.model.inference import PIXEL_OFFSET, load_graph

SQNR_LIMITS_DB = (-100.0, 200.0)
# What differs beyond this is the last digits of float32, whose ups and downs say nothing about a layer.
_EXACT_DB = 60.0
# A channel that never leaves two steps of its file's scale may rightly be constant there.
_ALIVE_STEPS = 2.0
_ALIVE_SHARE = 1e-3
_WRONG_SHARE = 1 / 30


@dataclass(frozen=True)
class LayerError:
    """How one layer's output, after its ReLU and before the softmax, differs from the float model's.

    `position` counts the layers from 0, the input of the first convolution. SQNR is 10 log10 of signal over error
    energy, within -100..200 dB. `sqnr_db` and `cosine` compare with the model on the same pixels, so they include what
    earlier layers lost; `fall_db` is the SQNR of the layer before minus this one's, where 60 dB and more count as
    exact. `own_sqnr_db` compares with what the float layer makes of the artefact's own input to it: what this layer
    alone loses. `weights_sqnr_db` is the same after that float output is rounded and clipped to the file's integers,
    so calibration no longer counts.

    `file_range` is what the file's integers can stand for, None where it holds floats; `expected_range` what they
    should: the range seen on the calibration images or learned in training. `range_ratio` is the width of the first
    over that of the second. `clipped` is the share, 0..1, of the values other than 0 that the file's range cuts off.
    `dead_channels` are constant in the artefact and alive in the model; the `wrong_channels` are those whose own error,
    calibration aside, is more than 1/30 of the layer's mean energy per channel.
    """

    name: str
    position: int
    sqnr_db: float
    own_sqnr_db: float
    weights_sqnr_db: float
    fall_db: float
    cosine: float
    file_range: tuple[float, float] | None
    expected_range: tuple[float, float]
    range_ratio: float | None
    clipped: float | None
    dead_channels: int
    wrong_channels: int
    channels: int


class ReferenceLayers:
    """A run's model in the form that is exported, so that its layers are those of the artefacts.

    `names` are the pixels that the first convolution reads, without zeros put around them, then the convolutions and
    dense layers.

    Args:
        path: the `.keras` file that artefacts are exported from.

    Raises:
        ArtefactError: no model that can be exported.
    """

    def __init__(self, path: Path) -> None:
        self._tf, _ = require_tensorflow()
        self.graph = load_graph(path)
        self._activated = {call.name: name for name, call in self.graph.activated.items()}
        offset = [call.name for call in self.graph.calls if call.name == PIXEL_OFFSET]
        self.names = (*(offset or [PIXELS]), *self.graph.matrix_layers)
        makers = {value: call for call in self.graph.calls for value in call.outputs}
        self._read = self.graph.call(self.names[1]).inputs[0]
        self._padding: tuple[tuple[int, int], ...] = ((0, 0), (0, 0))
        before = makers.get(self._read)
        if before is not None and before.kind == "ZeroPadding2D":
            self._read, self._padding = before.inputs[0], before.layer.padding
        self._on_pixels = self._tf.function(lambda pixels: self._walk(pixels, {}))
        self._on_given = self._tf.function(self._walk)
        self._on_first = self._tf.function(lambda pixels: self._walk(pixels, {})[self.names[1]])

    def of(self, pixels: Floats) -> dict[str, Floats]:
        """Outputs of the layers in `names` for pixels (1, H, W, C), logits last: (1, H, W, C) or (1, C)."""
        found = self._on_pixels(self._tf.constant(pixels, self._tf.float32))
        return {name: np.asarray(found[name]) for name in self.names}

    def without_padding(self, outputs: Mapping[str, Floats]) -> dict[str, Floats]:
        """An artefact's layers, the first without the zeros that some files put around it in an operator of its own."""
        (top, bottom), (left, right) = self._padding
        first = outputs[self.names[0]]
        height, width = first.shape[1:3]
        if height == self.graph.input_shape[0] + top + bottom:
            first = first[:, top : height - bottom, left : width - right]
        return {**outputs, self.names[0]: first}

    def first_layer(self, pixels: Floats) -> Floats:
        """Output of the first convolution alone."""
        return np.asarray(self._on_first(self._tf.constant(pixels, self._tf.float32)))

    def given(self, pixels: Floats, outputs: Mapping[str, Floats]) -> dict[str, Floats]:
        """The same where each layer reads what an artefact's layers before it put out, (1, H, W, C) or (1, C)."""
        tensors = {name: self._tf.constant(output) for name, output in outputs.items()}
        found = self._on_given(self._tf.constant(pixels), tensors)
        return {name: np.asarray(found[name]) for name in self.names}

    def _walk(self, pixels: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        recorded: dict[str, Any] = {}

        def note(name: str, value: Any) -> Any:
            recorded[name] = value
            return self._tf.reshape(given[name], self._tf.shape(value)) if name in given else value

        def visit(call: Call, value: Any) -> Any:
            name = self.names[0] if self._read in call.outputs else self._activated.get(call.name)
            return value if name is None else note(name, value)

        if self._read == self.graph.input:
            pixels = note(self.names[0], pixels)
        self.graph.run(pixels, visit)
        return recorded


def sqnr_db(signal: float, error: float) -> float:
    """10 log10 of the ratio of two energies, within `SQNR_LIMITS_DB`; the lowest if either is not finite."""
    low, high = SQNR_LIMITS_DB
    if not np.isfinite(signal) or not np.isfinite(error):
        return low
    if error == 0:
        return high
    return float(np.clip(10 * np.log10(max(signal, 1e-30) / error), low, high))


class _Energies:
    """Sums of squares of a signal and of an error, over images."""

    def __init__(self) -> None:
        self._signal = self._error = 0.0

    def add(self, found: Floats, expected: Floats) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            difference = (found - expected).ravel()
            self._signal += float(np.vdot(expected.ravel(), expected.ravel()))
            self._error += float(np.vdot(difference, difference))

    @property
    def sqnr_db(self) -> float:
        return sqnr_db(self._signal, self._error)


class _Layer:
    """Sums over images of one layer."""

    def __init__(self, name: str, point: ProbePoint) -> None:
        self.name = name
        self._point = point
        self._all, self._own, self._weights = _Energies(), _Energies(), _Energies()
        self._channels: NDArray[np.float64] | None = None
        self._products: NDArray[np.float64] = np.zeros(3)
        self._beyond = self._values = 0
        self._extremes: tuple[Floats, Floats, Floats, Floats] | None = None

    def add(self, found: Floats, expected: Floats, own: Floats) -> None:
        if found.shape != expected.shape:
            raise ArtefactError(
                f"expected {self.name} to put out {expected.shape}, but the file's puts out {found.shape}; "
                "diagnose a file that was exported from this run"
            )
        self._all.add(found, expected)
        self._own.add(found, own)
        rounded = self._point.rounded(own)
        self._weights.add(found, rounded)
        with np.errstate(over="ignore", invalid="ignore"):
            a, b = found.ravel(), expected.ravel()
            energies = np.stack(
                [np.square(part.reshape(-1, part.shape[-1])).sum(0) for part in (rounded, found - rounded)]
            )
            self._channels = energies.astype(np.float64) + (0.0 if self._channels is None else self._channels)
            self._products += [np.vdot(a, b), np.vdot(a, a), np.vdot(b, b)]
        if self._point.range is not None and self._point.scale is not None:
            (low, high), half = self._point.range, self._point.scale / 2
            self._beyond += int(np.count_nonzero((own > high + half) | (own < low - half)))
            self._values += int(np.count_nonzero(own))
        self._note_extremes(found, expected)

    def _note_extremes(self, found: Floats, expected: Floats) -> None:
        axes = tuple(range(found.ndim - 1))
        now = found.min(axes), found.max(axes), expected.min(axes), expected.max(axes)
        if self._extremes is not None:
            before = self._extremes
            now = (
                np.minimum(now[0], before[0]),
                np.maximum(now[1], before[1]),
                np.minimum(now[2], before[2]),
                np.maximum(now[3], before[3]),
            )
        self._extremes = now

    def total(self, position: int, before_db: float | None, expected_range: Range | None) -> LayerError:
        assert self._extremes is not None
        assert self._channels is not None
        low, high, expected_low, expected_high = self._extremes
        span = expected_high - expected_low
        alive = span > max(_ALIVE_STEPS * (self._point.scale or 0.0), _ALIVE_SHARE * float(span.max()))
        seen = (min(0.0, float(expected_low.min())), max(0.0, float(expected_high.max())))
        wanted, found = self._point.widened(expected_range or seen), self._point.range
        sqnr = self._all.sqnr_db
        dot, *squares = self._products
        norms = float(np.sqrt(np.prod(squares)))
        return LayerError(
            name=self.name,
            position=position,
            sqnr_db=sqnr,
            own_sqnr_db=self._own.sqnr_db,
            weights_sqnr_db=self._weights.sqnr_db,
            fall_db=0.0 if before_db is None else min(before_db, _EXACT_DB) - min(sqnr, _EXACT_DB),
            cosine=float(dot / norms) if np.isfinite(dot) and np.isfinite(norms) and norms > 0 else 0.0,
            file_range=found,
            expected_range=wanted,
            range_ratio=None if found is None else (found[1] - found[0]) / max(wanted[1] - wanted[0], 1e-12),
            clipped=None if found is None else self._beyond / max(1, self._values),
            dead_channels=int(np.count_nonzero((high == low) & alive)),
            wrong_channels=int(np.count_nonzero(self._channels[1] > _WRONG_SHARE * self._channels[0].mean())),
            channels=len(low),
        )


def compare_layers(
    probe: ActivationProbe,
    reference: ReferenceLayers,
    images: Images,
    expected_ranges: Mapping[str, Range],
    progress: Steps,
) -> tuple[LayerError, ...]:
    """Compare every layer on the same pixels.

    Args:
        probe: the artefact.
        reference: the model it was exported from.
        images: (N, S, S, 3) uint8.
        expected_ranges: by layer what the file's range should be; without one, what `images` show.
        progress: called with (images done, images in all).

    Returns:
        The first convolution's input and then every convolution and dense layer, in the order of the model.

    Raises:
        ArtefactError: the file has other layers than the model.
    """
    if missing := [name for name in reference.names if name not in probe.points]:
        raise ArtefactError(
            f"expected the {len(reference.names) - 1} convolutions and dense layers of the run's model, but the file "
            f"lacks {len(missing)}, the first {missing[0]}; diagnose a file that was exported from this run"
        )
    layers = [_Layer(name, probe.points[name]) for name in reference.names]
    for done, image in enumerate(images):
        progress(done, len(images))
        pixels = image[None].astype(np.float32)
        found = reference.without_padding(probe.of(image))
        expected, own = reference.of(pixels), reference.given(pixels, found)
        for layer in layers:
            layer.add(found[layer.name].reshape(expected[layer.name].shape), expected[layer.name], own[layer.name])
    progress(len(images), len(images))
    totals: list[LayerError] = []
    for position, layer in enumerate(layers):
        before = totals[-1].sqnr_db if totals else None
        totals.append(layer.total(position, before, expected_ranges.get(layer.name)))
    return tuple(totals)


def first_layer_sqnr(probe: ActivationProbe, reference: ReferenceLayers, images: Images) -> tuple[float, list[float]]:
    """How well the first convolution's output is predicted.

    Returns:
        SQNR in dB against the model on the same pixels, and against the model on those of every input transform.
    """
    count = 1 + len(INPUT_TRANSFORMS)
    signal: NDArray[np.float64] = np.zeros(count)
    error: NDArray[np.float64] = np.zeros(count)
    for image in images:
        pixels = image[None].astype(np.float32)
        found = probe.of(image)[reference.names[1]]
        for index, seen in enumerate((pixels, *(transform.apply(pixels) for transform in INPUT_TRANSFORMS))):
            expected = reference.first_layer(np.ascontiguousarray(seen, np.float32))
            signal[index] += float(np.vdot(expected, expected))
            error[index] += float(np.square(found - expected).sum())
    same, *others = (sqnr_db(float(s), float(e)) for s, e in zip(signal, error, strict=True))
    return same, others
