"""`tledge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.benchmark.settings import MAX_ROUNDS, STABLE_PERCENT
from tledge.cli.bench_display import print_files, print_here, print_options, print_there
from tledge.cli.display import progress
from tledge.cli.options import artefact_option, whole_numbers
from tledge.cli.remote_options import RemoteChoice, remote_options
from tledge.core.errors import SettingsError
from tledge.core.progress import Progress

if TYPE_CHECKING:
    from tledge.benchmark.bench import BenchResult, BenchSettings
    from tledge.deployment.kit_bench import RemoteSettings


@click.command("bench")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN | FILE...")
@artefact_option
@click.option(
    "--threads",
    multiple=True,
    metavar="N[,N…]",
    callback=whole_numbers,
    help="Threads of one inference; several are measured one after the other. Default: all available cores.",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    metavar="N[,N…]",
    callback=whole_numbers,
    help="Images per inference; several are measured one after the other. Default: 1.",
)
@click.option("--rounds", default=10, show_default=True, help="How often to go through all models in turn.")
@click.option("--samples", default=5, show_default=True, help="Measured inferences per model and round.")
@click.option("--warmup", default=2, show_default=True, help="Uncounted inferences before them, for 0.1 s or more.")
@click.option(
    "--until-stable",
    type=float,
    is_flag=False,
    flag_value=STABLE_PERCENT,
    metavar="[PERCENT]",
    help="Go on until the 95 % interval of every p50 (bootstrap over rounds) is within ±PERCENT (2) of it; --rounds is "
    "then the fewest.",
)
@click.option(
    "--max-rounds", default=MAX_ROUNDS, show_default=True, help="With --until-stable: stop after so many anyway."
)
@click.option("--sweep", is_flag=True, help="Try the options of each file's runtime instead, and name the best.")
@click.option(
    "--json", "out", type=click.Path(path_type=Path), metavar="OUT", help="With FILE...: write the numbers there."
)
@remote_options
def command(
    paths: tuple[Path, ...],
    artefacts: tuple[Path, ...],
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    rounds: int,
    samples: int,
    warmup: int,
    until_stable: float | None,
    max_rounds: int,
    sweep: bool,
    out: Path | None,
    remote: RemoteChoice | None,
) -> int:
    """Measure RUN's reference and artefacts side by side, each in a process of its own, or any model files.

    With --on, a kit of the artefacts goes to other machines through ssh or adb and is measured there; the numbers are
    kept in bench.json beside those of this machine. Model FILEs may come from any tool; the first is the base of the
    ratios.
    """
    from tledge.benchmark.settings import settings_grid

    def grid() -> tuple[BenchSettings, ...]:
        return settings_grid(threads, batches, rounds, samples, warmup, until_stable, max_rounds)

    if len(paths) > 1 or paths[0].is_file():
        refused = {"--artefact": artefacts, "--sweep": sweep, "--on": remote}
        if wrong := [name for name, value in refused.items() if value]:
            raise SettingsError(f"expected {wrong[0]} with one run, but got {len(paths)} files; leave it or pass a run")
        return _files(paths, grid(), out)
    if out is not None:
        raise SettingsError("expected --json with model files, but got a run, which has its bench.json; leave it")
    run = paths[0]
    if sweep:
        return _sweep(run, grid(), artefacts, remote)
    if remote is None:
        settings = grid()
        with progress() as show:
            result = _here(run, settings, artefacts, show)
        print_here(result)
        return 0
    from tledge.deployment.kit_bench import DEFAULT_LIMIT_S, RemoteSettings

    what = {"--artefact": artefacts, f"--batch {', '.join(map(str, batches))}": batches not in ((), (1,))}
    what |= {"--until-stable": until_stable is not None}
    if wrong := [name for name, value in what.items() if value]:
        raise SettingsError(
            f"expected --on with whole kits in batches of 1 and a fixed number of rounds, but got {wrong[0]}; "
            "leave it, or use --target"
        )
    limit_s = DEFAULT_LIMIT_S if remote.time_limit is None else remote.time_limit
    there = RemoteSettings(threads, rounds, samples, warmup, limit_s, not remote.no_cache)
    return _on(run, remote, there, grid() if remote.also_here else ())


def _here(run: Path, settings: tuple[BenchSettings, ...], artefacts: tuple[Path, ...], show: Progress) -> BenchResult:
    from tledge.benchmark.bench import bench

    return bench(run, settings[0], others=settings[1:], artefacts=artefacts, progress=show)


def _files(paths: tuple[Path, ...], settings: tuple[BenchSettings, ...], out: Path | None) -> int:
    from tledge.benchmark.bench_files import bench_files

    with progress() as show:
        result = bench_files(paths, settings, out=out, progress=show)
    print_files(result)
    return 0


def _sweep(
    run: Path, settings: tuple[BenchSettings, ...], artefacts: tuple[Path, ...], remote: RemoteChoice | None
) -> int:
    from tledge.benchmark.options import bench_options

    if remote is not None or len(settings) > 1:
        what = "--on" if remote is not None else "several --threads or --batch"
        raise SettingsError(
            f"expected --sweep on this machine with one setting to begin with, but got {what}; leave it"
        )
    with progress() as show:
        result = bench_options(run, settings[0], artefacts=artefacts, progress=show)
    print_options(result)
    return 0


def _on(run: Path, remote: RemoteChoice, there: RemoteSettings, here: tuple[BenchSettings, ...]) -> int:
    from tledge.deployment.bench_hosts import write_targets
    from tledge.deployment.host_bench import Access, measure_elsewhere
    from tledge.deployment.targets import load_target

    access = Access(remote.ssh_config, remote.remote_python or "python3", remote.benchmark_model)
    target = None if remote.target is None else load_target(remote.target)
    with progress() as show:
        measured = measure_elsewhere(run, remote.on, access, there, target=target, data=remote.data, progress=show)
        local = _here(run, here, (), show) if here else None
        write_targets(measured.run, [item.entry for item in measured.targets])
    if local is not None:
        print_here(local)
    print_there(measured)
    return 1 if measured.over_limits else 0
