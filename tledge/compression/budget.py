"""How small: the input size first, then how many filters each layer keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tledge.compression.chain import LayerCost
from tledge.compression.importance import Ranking
from tledge.core.errors import SettingsError
from tledge.model.vgg16 import MIN_IMAGE_SIZE_PX

FILTER_STEP = 8
_POOLED_BY = 32
_SMALLEST_SHARE = 0.7


def default_image_size(original_px: int, speedup: float) -> int:
    """Input size for a target ratio of multiply-adds, a multiple of 32 (five poolings) unless it stays as it is.

    At equal multiply-adds a smaller input with more filters was more accurate than the full input, and 160 instead of
    224 px cost nothing measurable; below 0.7 of the original size accuracy began to fall.
    """
    wanted = original_px * max(_SMALLEST_SHARE, 1.0 / math.sqrt(speedup))
    side = max(MIN_IMAGE_SIZE_PX, _POOLED_BY * math.ceil(round(wanted / _POOLED_BY, 6)))
    return min(side, original_px)


class UnreachableError(SettingsError):
    """A target that no choice of channels meets."""


@dataclass(frozen=True)
class Limits:
    """What the result may cost: multiply-adds for one image, and weights and biases; None for no limit."""

    multiply_adds: float
    parameters: float | None = None


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
        f"expected a target that {FILTER_STEP} filters a layer can meet, but {limits} is less; "
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
