"""How to measure, and when enough is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tledge.core.environment import available_cores
from tledge.core.errors import SettingsError
from tledge.core.types import Json

STABLE_PERCENT = 2.0
WARMUP_MS = 100
"""A warm-up lasts at least this long: the threads of a process that slept start on one core, and the system needs tens
of milliseconds to spread them; a model of 3 ms measured sooner looks half as fast as it is."""
MAX_ROUNDS = 100
FEWEST_ROUNDS = 5  # a bootstrap over fewer says little


@dataclass(frozen=True)
class BenchSettings:
    """How to measure: inferences per model are `rounds * samples`, `warmup` more per round are run and not counted.

    A warm-up lasts at least `WARMUP_MS`, unless `warmup` is 0, which leaves it out.

    With `until_stable`, in percent, `rounds` is the fewest: rounds go on until the 95 % interval of every model's p50
    (bootstrap over rounds) lies within that share of the p50 on either side, or `max_rounds` are done.
    """

    threads: int
    batch: int = 1
    rounds: int = 10
    samples: int = 5
    warmup: int = 2
    until_stable: float | None = None
    max_rounds: int = MAX_ROUNDS

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "rounds", "samples", "warmup"):
            value = getattr(self, name)
            if value < (0 if name == "warmup" else 1):
                raise SettingsError(f"expected --{name} above 0, but got {value}; choose a larger value")
        if self.threads > available_cores():
            raise SettingsError(
                f"expected --threads of at most {available_cores()}, the cores available here, but got {self.threads}"
            )
        if self.until_stable is None:
            return
        if not 0.1 <= self.until_stable <= 50:
            raise SettingsError(
                f"expected --until-stable between 0.1 and 50 percent, but got {self.until_stable:g}; change it"
            )
        if self.rounds < FEWEST_ROUNDS or self.max_rounds < self.rounds:
            raise SettingsError(
                f"expected --rounds of at least {FEWEST_ROUNDS} and --max-rounds not below it with --until-stable, "
                f"but got {self.rounds} and {self.max_rounds}; change them"
            )

    @property
    def warmup_ms(self) -> int:
        """The shortest warm-up."""
        return WARMUP_MS if self.warmup else 0

    def as_json(self) -> Json:
        """As files keep it."""
        return {**asdict(self), "warmup_ms": self.warmup_ms}

    def enough(self, rounds: int, widest_percent: float) -> bool:
        """Whether to stop after so many rounds, the widest interval reaching so far from its p50."""
        if self.until_stable is None:
            return rounds >= self.rounds
        return rounds >= self.max_rounds or (rounds >= self.rounds and widest_percent <= self.until_stable)


def settings_grid(
    threads: Sequence[int],
    batches: Sequence[int],
    rounds: int,
    samples: int,
    warmup: int,
    until_stable: float | None = None,
    max_rounds: int = MAX_ROUNDS,
) -> tuple[BenchSettings, ...]:
    """Every number of threads with every batch size, in the order given; none means all cores here and batch 1.

    Raises:
        SettingsError: one of them makes no sense, or stands there twice.
    """
    for name, values in (("threads", threads), ("batch", batches)):
        if len(set(values)) != len(values):
            raise SettingsError(f"expected each --{name} once, but got {', '.join(map(str, values))}; drop one")
    return tuple(
        BenchSettings(count, batch, rounds, samples, warmup, until_stable, max_rounds)
        for batch in batches or (1,)
        for count in threads or (available_cores(),)
    )
