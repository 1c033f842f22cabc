"""How to measure, and when enough is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tledge.core.environment import available_cores
from tledge.core.errors import SettingsError
from tledge.core.settings import Settings, option, option_of
from tledge.runs.bench_json import HowMeasured
from tledge.runtimes.providers import ProviderSettings

STABLE_PERCENT = 2.0
WARMUP_MS = 100
"""A warm-up lasts at least this long: the threads of a process that slept start on one core, and the system needs tens
of milliseconds to spread them; a model of 3 ms measured sooner looks half as fast as it is."""
MAX_ROUNDS = 100
FEWEST_ROUNDS = 5  # a bootstrap over fewer says little


@dataclass(frozen=True)
class BenchSettings(Settings):
    """How to measure: inferences per model are `rounds * samples`, `warmup` more per round are run and not counted.

    A warm-up lasts at least `WARMUP_MS`, unless `warmup` is 0, which leaves it out.

    With `until_stable`, in percent, `rounds` is the fewest: rounds go on until the 95 % interval of every model's p50
    (bootstrap over rounds) lies within that share of the p50 on either side, or `max_rounds` are done.
    """

    threads: int = option(help="Threads of one inference.", above=0)
    batch: int = option(1, help="Images per inference.", above=0)
    rounds: int = option(10, help="How often to go through all models in turn.", above=0)
    samples: int = option(5, help="Measured inferences per model and round.", above=0)
    warmup: int = option(2, help="Uncounted inferences before them, for 0.1 s or more.", low=0)
    until_stable: float | None = option(
        None,
        help="Go on until the 95 % interval of every p50 (bootstrap over rounds) is within ±PERCENT (2) of it; "
        "--rounds is then the fewest.",
        low=0.1,
        high=50,
        unit="percent",
        metavar="[PERCENT]",
        bare=STABLE_PERCENT,
    )
    max_rounds: int = option(MAX_ROUNDS, help="With --until-stable: stop after so many anyway.")
    provider: str | None = option_of(ProviderSettings, "provider")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads > available_cores():
            raise SettingsError(
                f"expected --threads of at most {available_cores()}, the cores available here, but got {self.threads}"
            )
        if self.until_stable is None:
            return
        if self.rounds < FEWEST_ROUNDS or self.max_rounds < self.rounds:
            raise SettingsError(
                f"expected --rounds of at least {FEWEST_ROUNDS} and --max-rounds not below it with --until-stable, "
                f"but got {self.rounds} and {self.max_rounds}; change them"
            )

    @property
    def warmup_ms(self) -> int:
        """The shortest warm-up."""
        return WARMUP_MS if self.warmup else 0

    def as_record(self) -> HowMeasured:
        """As files keep it."""
        return HowMeasured(**asdict(self), warmup_ms=self.warmup_ms)

    def enough(self, rounds: int, widest_percent: float) -> bool:
        """Whether to stop after so many rounds, the widest interval reaching so far from its p50."""
        if self.until_stable is None:
            return rounds >= self.rounds
        return rounds >= self.max_rounds or (rounds >= self.rounds and widest_percent <= self.until_stable)


@dataclass(frozen=True)
class BenchGrid(Settings):
    """The same for several numbers of threads and batch sizes; none means all cores here and batch 1."""

    threads: tuple[int, ...] = option(
        (),
        help="Threads of one inference; several are measured one after the other. Default: all available cores.",
        metavar="N[,N…]",
    )
    batch: tuple[int, ...] = option(
        (), help="Images per inference; several are measured one after the other. Default: 1.", metavar="N[,N…]"
    )
    rounds: int = option_of(BenchSettings, "rounds")
    samples: int = option_of(BenchSettings, "samples")
    warmup: int = option_of(BenchSettings, "warmup")
    until_stable: float | None = option_of(BenchSettings, "until_stable")
    max_rounds: int = option_of(BenchSettings, "max_rounds")
    provider: str | None = option_of(ProviderSettings, "provider")

    def each(self) -> tuple[BenchSettings, ...]:
        """Every number of threads with every batch size, in the order given.

        Raises:
            SettingsError: one of them makes no sense, or stands there twice.
        """
        for name, values in (("threads", self.threads), ("batch", self.batch)):
            if len(set(values)) != len(values):
                raise SettingsError(f"expected each --{name} once, but got {', '.join(map(str, values))}; drop one")
        return tuple(
            BenchSettings(
                *(threads, batch, self.rounds, self.samples, self.warmup),
                *(self.until_stable, self.max_rounds, self.provider),
            )
            for batch in self.batch or (1,)
            for threads in self.threads or (available_cores(),)
        )


ALL_CORES: BenchGrid = BenchGrid()
"""All cores here, one image at a time."""
