"""Does a bench say the same thing twice? `python benchmarks/bench_repeatability.py RUN > benchmarks/results/NAME.csv`.

Measures a run's reference and artefacts twice, one bench after the other with new processes, on an otherwise idle
machine, and writes a line per artefact: p50 over Keras's p50 in each bench and by how much the two differ. What may
have spoilt the numbers goes to stderr. Exit code 1 if an artefact differs by more than the limit. RUN is not changed.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import click

from tledge.benchmark.bench import run_subjects
from tledge.benchmark.measure import REFERENCE, Measured, measure_watched
from tledge.benchmark.settings import BenchGrid
from tledge.core.environment import machine, versions
from tledge.core.errors import TledgeError
from tledge.runs.rundir import open_run

LIMIT_PERCENT = 5.0
COLUMNS = (
    *("model", "runtime", "threads", "batch", "n_first", "n_second", "p50_ms_first", "p50_ms_second"),
    *("p50_over_keras_first", "p50_over_keras_second", "difference_percent", "within_limit"),
    *("other_cores_first", "other_cores_second", "drift_first", "drift_second"),
    *("cpu", "cpu_flags", "tensorflow", "litert", "onnxruntime"),
)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--threads", type=int, multiple=True, help="Default: all available cores.")
@click.option("--rounds", default=20, show_default=True)
@click.option("--samples", default=5, show_default=True)
@click.option("--until-stable", type=float, help="Percent, as `tledge bench --until-stable`.")
@click.option("--limit", default=LIMIT_PERCENT, show_default=True, help="Most that two ratios may differ, in percent.")
def main(
    run: Path, threads: tuple[int, ...], rounds: int, samples: int, until_stable: float | None, limit: float
) -> None:
    """Measure RUN twice for each number of threads and write the comparison as CSV to stdout."""
    grid = BenchGrid(threads, (), rounds, samples, 2, until_stable).each()
    subjects, notes = run_subjects(open_run(run))
    if subjects[0].name != REFERENCE:
        raise click.ClickException("expected TensorFlow for the Keras reference, but it is not installed")
    for note in notes:
        click.echo(note, err=True)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    worst = 0.0
    for settings in grid:
        first, second = (measure_watched(subjects, settings, lambda *_: None) for _ in range(2))
        for which, measured in (("first", first), ("second", second)):
            for note in measured.notes:
                click.echo(f"{settings.threads} threads, {which} bench: {note}", err=True)
        for row, difference in lines(first, second, limit):
            writer.writerow(row)
            worst = max(worst, difference)
    click.echo(f"largest difference {worst:.2f} %, limit {limit:g} %", err=True)
    sys.exit(1 if worst > limit else 0)


def lines(first: Measured, second: Measured, limit: float) -> list[tuple[list[object], float]]:
    """The CSV line of each artefact, and by how many percent its two ratios differ."""
    facts, installed = machine(), versions()
    keras = [measured.measurements[0].latency_ms["p50"] for measured in (first, second)]
    result: list[tuple[list[object], float]] = []
    for pair in zip(first.measurements[1:], second.measurements[1:], strict=True):
        p50 = [item.latency_ms["p50"] for item in pair]
        ratios = [own / base for own, base in zip(p50, keras, strict=True)]
        difference = 100 * abs(ratios[1] / ratios[0] - 1)
        row: list[object] = [
            *(pair[0].name, pair[0].runtime, pair[0].threads, pair[0].batch, pair[0].n, pair[1].n, *p50),
            *(f"{ratio:.5f}" for ratio in ratios),
            *(f"{difference:.2f}", difference <= limit),
            *(measured.conditions.other_cores for measured in (first, second)),
            *(measured.conditions.drift for measured in (first, second)),
            *(facts.cpu, " ".join(facts.cpu_flags)),
            *(installed.get(name, "") for name in ("tensorflow", "ai-edge-litert", "onnxruntime")),
        ]
        result.append((row, difference))
    return result


if __name__ == "__main__":
    try:
        main()
    except TledgeError as error:
        click.echo(f"bench_repeatability: {error}", err=True)
        sys.exit(2)
