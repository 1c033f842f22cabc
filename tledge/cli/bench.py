"""`tledge bench`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.display import progress, table
from tledge.cli.options import artefact_option, run_argument, threads_option


@click.command("bench")
@run_argument
@artefact_option
@threads_option
@click.option("--batch", default=1, show_default=True, help="Images per inference.")
@click.option("--rounds", default=10, show_default=True, help="How often to go through all models in turn.")
@click.option("--samples", default=5, show_default=True, help="Measured inferences per model and round.")
@click.option("--warmup", default=2, show_default=True, help="Inferences before them that do not count.")
def command(
    run: Path,
    artefacts: tuple[Path, ...],
    threads: int | None,
    batch: int,
    rounds: int,
    samples: int,
    warmup: int,
) -> None:
    """Measure RUN's reference and artefacts side by side, each in a process of its own."""
    from tledge.environment import available_cores
    from tledge.stages.bench import BenchSettings, bench

    settings = BenchSettings(available_cores() if threads is None else threads, batch, rounds, samples, warmup)
    with progress() as show:
        result = bench(run, settings, artefacts=artefacts, progress=show)
    rows = []
    for item in result.measurements:
        speedup = "–"
        if item.speedup_vs_keras is not None and item.speedup_interval_95 is not None:
            speedup = "{:.2f}x ({:.2f}–{:.2f})".format(item.speedup_vs_keras, *item.speedup_interval_95)
        rows.append(
            (
                item.name,
                *(f"{item.latency_ms[key]:.2f}" for key in ("p50", "p90", "p99")),
                f"{item.load_ms:.0f}",
                f"{item.first_ms:.0f}",
                f"{item.peak_rss_mb:.0f}",
                speedup,
            )
        )
    facts = result.environment["machine"]
    n = rounds * samples
    title = f"{facts['cpu']}, {settings.threads} threads, batch {batch}, n = {n}, warm-up {warmup} per round"
    header = ("model", "p50 ms", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB", "speed-up (95 %)")
    table(header, rows, title=title)
    for note in result.notes:
        click.echo(f"Note: {note}")
