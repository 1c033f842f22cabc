"""What `tledge bench` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tledge.cli.display import table

if TYPE_CHECKING:
    from tledge.benchmark.bench import BenchResult
    from tledge.benchmark.bench_files import FilesBenchResult
    from tledge.benchmark.measure import Measured
    from tledge.benchmark.settings import BenchSettings
    from tledge.benchmark.sweep import OptionsResult
    from tledge.deployment.kit_bench import HostBenchResult
    from tledge.runs.bench_json import Environment, Measurement
    from tledge.stats.intervals import Interval

_COLUMNS = ("model", "p50 ms", "p50 95 %", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB")


def print_here(result: BenchResult) -> None:
    """A table for each setting, then the notes."""
    for one in (result.first, *result.others):
        _print_measured(one, result.environment)
    _print_notes(result.notes)


def print_files(result: FilesBenchResult) -> None:
    """A table for each setting, ratios against its first file, then the notes."""
    for bench in result.benches:
        energy = any(file.measurement.energy_j is not None for file in bench.files)
        rows = [
            (*_cells(file.measurement), *_energy(file.measurement, energy), _ratio(file.speedup))
            for file in bench.files
        ]
        title = _title(result.environment, bench.settings)
        table((*_COLUMNS, *_ENERGY[:energy], "speed-up over the first (95 %)"), rows, title=title)
    _print_notes(result.notes)


def print_options(result: OptionsResult) -> None:
    """A table for each file, and what suits it best."""
    header = ("setting", "p50 ms", "p50 95 %", "load ms", "peak MB", "speed-up over default (95 %)")
    for file in result.files:
        rows = [
            (
                variant.name,
                f"{variant.measurement.latency_ms['p50']:.2f}",
                "{:.2f}–{:.2f}".format(*variant.measurement.p50_interval_95),
                f"{variant.measurement.load_ms:.0f}",
                f"{variant.measurement.peak_rss_mb:.0f}",
                _ratio(variant.speedup),
            )
            for variant in file.variants
        ]
        settings = result.settings
        table(header, rows, title=f"{file.name}, {settings.threads} threads, batch {settings.batch}")
        if file.confirmed is None:
            click.echo(f"Best for {file.name}: the default")
        else:
            verdict = file.best.name if file.better else f"the default; {file.best.name} is not faster for sure"
            again = f"{_ratio(file.confirmed)}, measured again, n = {file.confirmed_n}"
            click.echo(f"Best for {file.name}: {verdict} ({again})")
    _print_notes(result.notes)


def print_there(result: HostBenchResult) -> None:
    """A table for each other machine."""
    header = ("model", "threads", "p50 ms", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB")
    for measured in result.hosts:
        entry = measured.entry
        rows = [
            (
                item.name,
                str(item.threads),
                *(_number(item.latency_ms[key], 2) for key in ("p50", "p90", "p99")),
                _number(item.load_ms, 0),
                _number(item.first_ms, 0),
                _number(item.peak_rss_mb, 0),
            )
            for item in entry.results
        ]
        facts = entry.environment.machine
        table(header, rows, title=f"{measured.host.name}: {facts.cpu or facts.architecture}")
        sent = f"{measured.sent_bytes / 1e6:.1f} MB sent" if measured.sent_bytes else "nothing had to be sent"
        click.echo(f"{measured.host.name}: {sent}")
        for item in entry.skipped:
            click.echo(f"Note: {measured.host.name}: {item.name} was not measured, {item.reason}")
        for note in entry.notes:
            click.echo(f"Note: {measured.host.name}: {note}")
    for line in result.over_limits:
        click.echo(f"FAIL {line}")


_ENERGY = ("J per inference (95 %)",)


def _print_measured(one: Measured, environment: Environment) -> None:
    energy = any(item.energy_j is not None for item in one.measurements)
    rows = []
    for item in one.measurements:
        speedup = "–"
        if item.speedup_vs_keras is not None and item.speedup_interval_95 is not None:
            speedup = "{:.2f}x ({:.2f}–{:.2f})".format(item.speedup_vs_keras, *item.speedup_interval_95)
        rows.append((*_cells(item), *_energy(item, energy), speedup))
    table((*_COLUMNS, *_ENERGY[:energy], "speed-up (95 %)"), rows, title=_title(environment, one.settings))


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
        "{:.2f}–{:.2f}".format(*item.p50_interval_95),
        *(f"{item.latency_ms[key]:.2f}" for key in ("p90", "p99")),
        f"{item.load_ms:.0f}",
        f"{item.first_ms:.0f}",
        f"{item.peak_rss_mb:.0f}",
    )


def _energy(item: Measurement, shown: bool) -> tuple[str, ...]:
    if not shown:
        return ()
    if item.energy_j is None or item.energy_interval_95 is None:
        return ("–",)
    return ("{:.3f} ({:.3f}–{:.3f})".format(item.energy_j, *item.energy_interval_95),)


def _ratio(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.value:.2f}x ({interval.low:.2f}–{interval.high:.2f})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"Note: {note}")
