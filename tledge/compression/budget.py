"""How small: the input size first, then how many filters each layer keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tledge.compression.chain import LayerCost
from tledge.compression.importance import Ranking
from tledge.errors import SettingsError
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


@dataclass(frozen=True)
class Limits:
    """What the result may cost: multiply-adds for one image, and weights and biases; None for no limit."""

    multiply_adds: float
    parameters: float | None = None


def allocate(costs: Sequence[LayerCost], rankings: Mapping[str, Ranking], limits: Limits) -> dict[str, int]:
    """Choose how many filters each convolution keeps, in multiples of 8 and at least 8.

    Greedy: time and again the eight filters go that lose the smallest share of their next layer's variation
    (`Ranking.error`) per multiply-add that is saved, until the limits hold. A limit that holds no longer counts as
    saving. What a filter saves depends on how many filters its neighbours still have, so it is counted anew each time.

    Args:
        costs: of the unpruned model, from `layer_costs`.
        rankings: by convolution.
        limits: to be met.

    Raises:
        SettingsError: even 8 filters a layer are too many.
    """
    net = _Widths(costs, {name: len(ranking.order) for name, ranking in rankings.items()})
    counts = dict(net.full)
    while excess := net.excess(counts, limits):
        choices = []
        for name, count in counts.items():
            step = (count - 1) % FILTER_STEP + 1
            if count - step < FILTER_STEP:
                continue
            error = rankings[name].error
            gone = net.full[name] - count
            harm = float(error[gone + step] - error[gone]) + 1e-9
            saved = net.saved(counts, counts | {name: count - step}, excess)
            choices.append((harm / saved, name, count - step))
        if not choices:
            raise SettingsError(
                f"expected a target that {FILTER_STEP} filters a layer can meet, but {limits} is less; "
                "ask for a smaller ratio or a smaller image size"
            )
        _, name, count = min(choices)
        counts[name] = count
    return counts


class _Widths:
    """Cost of a chain as a function of its widths: a layer's cost goes with its own and its predecessor's width."""

    def __init__(self, costs: Sequence[LayerCost], full: Mapping[str, int]) -> None:
        self.full = full
        self._costs = costs
        self._whole = (sum(c.multiply_adds for c in costs), sum(c.parameters for c in costs))

    def cost(self, counts: Mapping[str, int]) -> tuple[float, float]:
        """Multiply-adds and parameters."""
        before, work, size = 1.0, 0.0, 0.0
        for layer in self._costs:
            own = counts[layer.name] / self.full[layer.name] if layer.name in counts else 1.0
            work += layer.multiply_adds * before * own
            size += layer.parameters * before * own
            before = own
        return work, size

    def excess(self, counts: Mapping[str, int], limits: Limits) -> tuple[bool, bool] | None:
        """Which limits are broken, None when both hold."""
        work, size = self.cost(counts)
        broken = (work > limits.multiply_adds, limits.parameters is not None and size > limits.parameters)
        return broken if any(broken) else None

    def saved(self, now: Mapping[str, int], then: Mapping[str, int], counted: tuple[bool, bool]) -> float:
        """Share of the whole that is saved, summed over the limits that count."""
        pairs = zip(self.cost(now), self.cost(then), self._whole, counted, strict=True)
        return sum((a - b) / whole for a, b, whole, counts in pairs if counts)
