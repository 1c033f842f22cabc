"""bench.json: latencies of a run's files, here and on other machines; written by a bench, read by gates and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from tledge.core.environment import Machine, machine
from tledge.core.errors import RunError
from tledge.core.records import Count, Document, Record, read_record, write_record
from tledge.core.types import Json
from tledge.runs.rundir import RunDir


class LatencyMs(TypedDict):
    """Milliseconds of one inference: percentiles, mean and least of all samples."""

    p50: float
    p90: float
    p99: float
    mean: float
    min: float


class Computed(Record, frozen=True, kw_only=True):
    """What a provider took of an opened file: `taken` of `operators`, `integer` of which compute on integers.

    `multiply_adds_integer` is the share, 0..1, of all multiply-adds that multiply integers. It and `integer` are None
    where the runtime does not tell. `reason` says who computes the others, empty where the provider took all.
    """

    provider: str
    operators: Count
    taken: Count
    integer: int | None
    multiply_adds_integer: float | None
    reason: str = ""


class Timing(Record, frozen=True, kw_only=True):
    """Latency of one model over one batch.

    Intervals are 95 % bootstraps over rounds. `stable` says whether the interval of p50 became as narrow as was asked,
    None where nothing was asked. `energy_j` is the mean energy of one inference in joules, warm-up included, None
    without a sensor. `computed` is what the provider took, None where none was asked for.
    """

    name: str
    runtime: str
    precision: str
    size_bytes: Count
    sha256: str
    batch: Count
    threads: Count
    n: Count
    latency_ms: LatencyMs
    p50_interval_95: tuple[float, float]
    stable: bool | None
    load_ms: float
    first_ms: float
    peak_rss_mb: float
    model_rss_mb: float
    energy_j: float | None
    energy_interval_95: tuple[float, float] | None
    computed: Computed | None = None


class Measurement(Timing, frozen=True, kw_only=True):
    """The same beside the reference; `samples_ms[r]` are round r's raw samples.

    `speedup_vs_keras` is the reference's p50 over this one's; None, like its interval, where that was not measured.
    """

    speedup_vs_keras: float | None
    speedup_interval_95: tuple[float, float] | None
    samples_ms: tuple[tuple[float, ...], ...]


def timing_of(measurement: Measurement) -> dict[str, Any]:
    """What a measurement has in common with other kinds of `Timing`, as their arguments."""
    return {name: getattr(measurement, name) for name in Timing.__struct_fields__}


class Condition(Record, frozen=True, kw_only=True):
    """Governor, frequency, temperature and throttling at one moment; None for what a machine does not tell.

    `cooling_state` is the sum over the processor's cooling devices, above 0 where the kernel holds its clock down.
    """

    governor: str | None
    frequency_mhz: tuple[int, ...] | None
    temperature_c: dict[str, float] | None
    throttled_flags: str | None
    throttle_count: int | None
    cooling_state: int | None


class Conditions(Record, frozen=True, kw_only=True):
    """What the machine did while it measured.

    Cores that other work, or other guests of a hypervisor, kept busy in the mean; looks between rounds, and how many of
    them met other work; least and largest clock of the fastest core; p50 of the last third of the rounds over that of
    the first.
    """

    before: Condition
    after: Condition
    looks: Count
    other_cores: float | None
    looks_with_other_work: Count
    stolen_cores: float | None
    clock_mhz: tuple[int, int] | None
    drift: float | None


class Environment(Record, frozen=True, kw_only=True):
    """Where was measured; `energy_source` names the sensor, None without one."""

    machine: Machine
    versions: dict[str, str]
    busy_cores_before: float
    conditions: Conditions | None = None
    energy_source: str | None


class HowMeasured(Record, frozen=True, kw_only=True):
    """The settings of a bench; `rounds` is how many there were, `warmup_ms` the shortest warm-up.

    `provider` is what had to compute inside the runtimes, None for their own choice.
    """

    threads: Count
    batch: Count
    rounds: Count
    samples: Count
    warmup: Count
    until_stable: float | None
    max_rounds: Count
    provider: str | None = None
    warmup_ms: int


class OtherSetting(Record, frozen=True, kw_only=True):
    """What was measured with another number of threads or batch size."""

    settings: HowMeasured
    conditions: Conditions
    results: tuple[Measurement, ...]


class HostLatencyMs(TypedDict):
    """As `LatencyMs`; None for what the program there does not tell."""

    p50: float
    p90: float | None
    p99: float | None
    mean: float
    min: float


class HostTiming(Record, frozen=True, kw_only=True):
    """Latency of one file on another machine; None for what the program there does not tell."""

    name: str
    runtime: str
    precision: str
    size_bytes: Count
    sha256: str
    batch: Count
    threads: Count
    n: Count
    latency_ms: HostLatencyMs
    p50_interval_95: tuple[float, float]
    load_ms: float | None
    first_ms: float | None
    peak_rss_mb: float | None
    model_rss_mb: float | None
    samples_ms: tuple[tuple[float, ...], ...] = ()


class HostMachine(Record, frozen=True, kw_only=True):
    """Another machine; None for what it does not tell."""

    board: str | None
    cpu: str | None
    cpu_flags: tuple[str, ...]
    architecture: str
    cores: int
    memory_gb: float | None
    system: str


def this_machine() -> HostMachine:
    """This machine as a host, for what answers and measures on it in another runtime."""
    return HostMachine(board=None, **asdict(machine()))


class HostEnvironment(Record, frozen=True, kw_only=True):
    """Another machine before and after measuring; `other_cores` as in `Conditions`, absent where nobody looked."""

    machine: HostMachine
    versions: dict[str, str]
    before: Condition
    after: Condition
    other_cores: float | UnsetType | None = UNSET


class HostSettings(Record, frozen=True, kw_only=True):
    """How another machine measured: with which kit, or which benchmark_model."""

    batch: Count
    rounds: Count
    samples: Count
    warmup: Count
    warmup_ms: float | None = None
    threads: tuple[int, ...]
    target: str | None
    kit_sha256: str | None = None
    benchmark_model_sha256: str | None = None


class Verified(Record, frozen=True, kw_only=True):
    """A file whose answers on a kit's images were compared with those expected, and how far one probability is off."""

    name: str
    images: Count
    max_difference: float


class Skipped(Record, frozen=True, kw_only=True):
    """A file that was not measured, and why."""

    name: str
    reason: str


class HostBench(Record, frozen=True, kw_only=True):
    """What one other machine measured; `on` is its address. `verified` is absent where answers were not looked at."""

    on: str
    created: str
    environment: HostEnvironment
    settings: HostSettings
    verified: tuple[Verified, ...] | UnsetType = UNSET
    skipped: tuple[Skipped, ...]
    over_limits: tuple[str, ...]
    notes: tuple[str, ...]
    results: tuple[HostTiming, ...]


class Variant(Timing, frozen=True, kw_only=True):
    """A file run with options of its runtime; `speedup_vs_default` is the default's p50 over its own."""

    speedup_interval_95: tuple[float, float] | None
    samples_ms: tuple[tuple[float, ...], ...]
    options: dict[str, bool | str]
    speedup_vs_default: float | None


class BestVariant(Record, frozen=True, kw_only=True):
    """Which variant suits a file best (`fastest` where it is faster for sure, else the default), measured again."""

    name: str
    fastest: str
    speedup_vs_default: float | None
    speedup_interval_95: tuple[float, float] | None
    n: Count


class OptionsEnvironment(Record, frozen=True, kw_only=True):
    """Where options were tried."""

    machine: Machine
    versions: dict[str, str]


class OptionsBench(Record, frozen=True, kw_only=True):
    """All variants of one file, the default first."""

    name: str
    sha256: str
    created: str
    environment: OptionsEnvironment
    settings: HowMeasured
    notes: tuple[str, ...]
    variants: tuple[Variant, ...]
    best: BestVariant


def _from_version_0(content: Json) -> Json:
    """Hosts were called targets, and parts could be missing."""
    named = {"targets": "hosts"}
    parts: Json = {"other_settings": [], "hosts": [], "runtime_options": []}
    return parts | {named.get(key, key): value for key, value in content.items()}


class BenchFile(Document, frozen=True, kw_only=True):
    """bench.json: the first setting's results, the reference first; further settings; other machines; runtime options.

    `results` is empty, and `environment` and `settings` are None, where only others measured.
    """

    VERSION: ClassVar[int] = 1
    UPGRADES: ClassVar[Mapping[int, Callable[[Json], Json]]] = {0: _from_version_0}
    REMEDY: ClassVar[str] = "run `tledge bench` again"

    created: str
    environment: Environment | None
    settings: HowMeasured | None
    notes: tuple[str, ...]
    results: tuple[Measurement, ...]
    other_settings: tuple[OtherSetting, ...]
    hosts: tuple[HostBench, ...]
    runtime_options: tuple[OptionsBench, ...]


def read_bench(path: Path) -> BenchFile | None:
    """What was measured of a run, None where there is no `bench.json`.

    Raises:
        RunError: there is a `bench.json` that cannot be read.
    """
    return read_record(path, BenchFile) if path.is_file() else None


def replaced_bench(run: RunDir) -> BenchFile:
    """What a new `bench.json` may take over; nothing where the old one is missing or cannot be read."""
    try:
        return read_bench(run.bench) or _nothing_yet()
    except RunError:
        return _nothing_yet()


def write_hosts(run: RunDir, measured: Sequence[HostBench]) -> None:
    """Put measurements of other machines into `bench.json`, each in the place of an older one of the same machine.

    Raises:
        RunError: there is a `bench.json` that cannot be read.
    """
    before = read_bench(run.bench) or _nothing_yet()
    again = {host.on for host in measured}
    kept = (host for host in before.hosts if host.on not in again)
    write_record(run.bench, replace(before, hosts=(*kept, *measured)))


def write_options(run: RunDir, measured: Sequence[OptionsBench]) -> None:
    """Put what runtime options do into `bench.json`, each file in the place of what was known of it.

    Raises:
        RunError: there is a `bench.json` that cannot be read.
    """
    before = read_bench(run.bench) or _nothing_yet()
    again = {file.sha256 for file in measured}
    kept = (file for file in before.runtime_options if file.sha256 not in again)
    write_record(run.bench, replace(before, runtime_options=(*kept, *measured)))


def _nothing_yet() -> BenchFile:
    return BenchFile(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=None,
        settings=None,
        notes=(),
        results=(),
        other_settings=(),
        hosts=(),
        runtime_options=(),
    )
