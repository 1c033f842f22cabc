"""Latencies as people read them: a table for each setting, file or host, then what to know about the numbers."""

from __future__ import annotations

from collections.abc import Iterator

from tledge.benchmark.bench import BenchResult
from tledge.benchmark.bench_files import FilesBenchResult
from tledge.benchmark.measure import Measured
from tledge.benchmark.settings import BenchSettings
from tledge.benchmark.sweep import OptionsResult
from tledge.deployment.kit_bench import HostBenchResult
from tledge.reporting.rows import speedup
from tledge.reporting.tables import NOTHING, Table, number, ratio, span
from tledge.runs.bench_json import Environment, Measurement
from tledge.stats.intervals import Interval

_COLUMNS = ("model", "p50 ms", "p50 95 %", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB")


def here(result: BenchResult) -> Iterator[Table | str]:
    """A table for each setting, then the notes."""
    for one in (result.first, *result.others):
        yield _measured(one, result.environment)
    yield from (f"Note: {note}" for note in result.notes)


def any_files(result: FilesBenchResult) -> Iterator[Table | str]:
    """A table for each setting, ratios against its first file, then the notes."""
    for bench in result.benches:
        energy = any(file.measurement.energy_j is not None for file in bench.files)
        rows = [
            (
                *_cells(file.measurement),
                *_energy(file.measurement, energy),
                *_computed(file.measurement, bench.settings),
                _ratio(file.speedup),
            )
            for file in bench.files
        ]
        title = _title(result.environment, bench.settings)
        header = (*_COLUMNS, *_ENERGY[:energy], *_headers(bench.settings), "speed-up over the first (95 %)")
        yield Table(header, rows, title)
    yield from (f"Note: {note}" for note in result.notes)


def swept(result: OptionsResult) -> Iterator[Table | str]:
    """A table for each file, and what suits it best."""
    header = ("setting", "p50 ms", "p50 95 %", "load ms", "peak MB", "speed-up over default (95 %)")
    for file in result.files:
        rows = [
            (
                variant.name,
                f"{variant.measurement.latency_ms['p50']:.2f}",
                span(*variant.measurement.p50_interval_95),
                f"{variant.measurement.load_ms:.0f}",
                f"{variant.measurement.peak_rss_mb:.0f}",
                _ratio(variant.speedup),
            )
            for variant in file.variants
        ]
        settings = result.settings
        yield Table(header, rows, f"{file.name}, {settings.threads} threads, batch {settings.batch}")
        if file.confirmed is None:
            yield f"Best for {file.name}: the default"
        else:
            verdict = file.best.name if file.better else f"the default; {file.best.name} is not faster for sure"
            again = f"{_ratio(file.confirmed)}, measured again, n = {file.confirmed_n}"
            yield f"Best for {file.name}: {verdict} ({again})"
    yield from (f"Note: {note}" for note in result.notes)


def on_hosts(result: HostBenchResult) -> Iterator[Table | str]:
    """A table for each other machine."""
    header = ("model", "threads", "p50 ms", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB")
    for measured in result.hosts:
        entry = measured.entry
        rows = [
            (
                item.name,
                str(item.threads),
                *(number(item.latency_ms[key], 2) for key in ("p50", "p90", "p99")),
                number(item.load_ms, 0),
                number(item.first_ms, 0),
                number(item.peak_rss_mb, 0),
            )
            for item in entry.results
        ]
        facts = entry.environment.machine
        yield Table(header, rows, f"{measured.host.name}: {facts.cpu or facts.architecture}")
        yield f"{measured.host.name}: {measured.sent_bytes / 1e6:.1f} MB sent"
        for item in entry.skipped:
            yield f"Note: {measured.host.name}: {item.name} was not measured, {item.reason}"
        for note in entry.notes:
            yield f"Note: {measured.host.name}: {note}"
    for line in result.over_limits:
        yield f"FAIL {line}"


_ENERGY = ("J per inference (95 %)",)


def _measured(one: Measured, environment: Environment) -> Table:
    energy = any(item.energy_j is not None for item in one.measurements)
    rows = [
        (*_cells(item), *_energy(item, energy), *_computed(item, one.settings), speedup(item))
        for item in one.measurements
    ]
    header = (*_COLUMNS, *_ENERGY[:energy], *_headers(one.settings), "speed-up (95 %)")
    return Table(header, rows, _title(environment, one.settings))


def _title(environment: Environment, settings: BenchSettings) -> str:
    n = settings.rounds * settings.samples
    return (
        f"{environment.machine.cpu}, {settings.threads} threads, batch {settings.batch}, n = {n} in "
        f"{settings.rounds} rounds, warm-up {settings.warmup} and {settings.warmup_ms} ms or more per round"
    )


def _cells(item: Measurement) -> tuple[str, ...]:
    return (
        item.name,
        f"{item.latency_ms['p50']:.2f}",
        span(*item.p50_interval_95),
        *(f"{item.latency_ms[key]:.2f}" for key in ("p90", "p99")),
        f"{item.load_ms:.0f}",
        f"{item.first_ms:.0f}",
        f"{item.peak_rss_mb:.0f}",
    )


def _energy(item: Measurement, shown: bool) -> tuple[str, ...]:
    if not shown:
        return ()
    if item.energy_j is None or item.energy_interval_95 is None:
        return (NOTHING,)
    return ("{:.3f} ({:.3f}–{:.3f})".format(item.energy_j, *item.energy_interval_95),)


def _headers(settings: BenchSettings) -> tuple[str, ...]:
    return (f"by {settings.provider}", "in integers") if settings.provider else ()


def _computed(item: Measurement, settings: BenchSettings) -> tuple[str, ...]:
    """Shares of the operators; without a provider no cells."""
    found = item.computed
    if not settings.provider or found is None:
        return (NOTHING,) * len(_headers(settings))
    in_integers = NOTHING if found.integer is None else f"{found.integer / found.operators:.0%}"
    if found.multiply_adds_integer is not None:
        in_integers += f" ({found.multiply_adds_integer:.0%} of multiply-adds)"
    return f"{found.taken / found.operators:.0%}", in_integers


def _ratio(interval: Interval | None) -> str:
    return NOTHING if interval is None else ratio(interval.value, interval.low, interval.high)
