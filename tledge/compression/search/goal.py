"""What a search looks for: conditions on latency, size, accuracy, speed-up, and memories of a microcontroller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tledge.compression.budget import SIZE
from tledge.core.errors import SettingsError
from tledge.core.limits import KILOBYTES, MILLISECONDS, RATIOS, Condition, Metric, parse

_METRICS = (
    Metric("p50", "median latency of one image", MILLISECONDS, highest=math.inf),
    Metric("p90", "latency that nine of ten inferences stay below", MILLISECONDS, highest=math.inf),
    SIZE,
    Metric("flash", "size of the file as a microcontroller's constant data", KILOBYTES, highest=math.inf),
    Metric("arena", "memory that LiteRT Micro needs for the file", KILOBYTES, highest=math.inf),
    Metric("drop", "accuracy of the original minus that of the file"),
    Metric("accuracy", "share of images with the right class", lower_is_better=False),
    Metric(
        "speedup",
        "p50 of the original Keras model over that of the file",
        RATIOS,
        lower_is_better=False,
        highest=math.inf,
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}
"""What a goal can ask for. Limits on size are in bytes, those on flash and arena in 10^3 bytes."""
RECIPES = ("tflite-int8", "onnx-int8")
MICRO_RECIPES = ("micro-int8",)


@dataclass(frozen=True)
class Goal:
    """Conditions that all must hold, each metric at most once.

    Raises:
        SettingsError: no condition, or two on one metric.
    """

    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        metrics = [condition.metric for condition in self.conditions]
        if not metrics:
            raise SettingsError('expected a goal such as "p50 < 10 ms, drop < 0.01", but got none; write a condition')
        if twice := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
            raise SettingsError(f"expected each metric once in a goal, but got {', '.join(twice)} again; keep one")

    def __str__(self) -> str:
        """The goal in the form that `parse_goal` reads."""
        return ", ".join(map(str, self.conditions))

    def on(self, metric: str) -> Condition | None:
        """The condition on a metric, None if there is none."""
        return next((condition for condition in self.conditions if condition.metric == metric), None)

    @property
    def recipes(self) -> tuple[str, ...]:
        """The files that are looked at: those for microcontrollers where flash or arena is asked for."""
        return MICRO_RECIPES if self.on("arena") or self.on("flash") else RECIPES

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether values by metric, in the units of `METRICS`, meet every condition."""
        return not self.missed(values)

    def missed(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Metrics whose condition the values do not meet."""
        return tuple(c.metric for c in self.conditions if not c.holds(values[c.metric]))


def parse_goal(text: str) -> Goal:
    """Read a goal such as `p50 < 10 ms, drop <= 1 %`; see `tledge.core.limits`.

    Raises:
        SettingsError: what cannot be read, an unknown metric or unit, a missing unit, or an impossible limit.
    """
    return Goal(parse(text, METRICS.values(), "a goal"))
