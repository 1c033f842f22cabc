"""`tledge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.benchmark.settings import BenchGrid
from tledge.cli.options import artefact_option, given_options, names_of, options_of, target_option
from tledge.cli.progress import progress
from tledge.core.errors import SettingsError
from tledge.deployment.hosts.host import Access
from tledge.deployment.kit_bench import HostBenchSettings
from tledge.reporting.terminal import render

if TYPE_CHECKING:
    from tledge.benchmark.bench import BenchResult

_OF_HOSTS = {"also_here", "target", "data", *names_of(HostBenchSettings, Access)} - {*names_of(BenchGrid)}


@click.command("bench")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN | FILE...")
@artefact_option
@options_of(grid=BenchGrid)
@click.option("--sweep", is_flag=True, help="Try the options of each file's runtime instead, and name the best.")
@click.option(
    "--json", "out", type=click.Path(path_type=Path), metavar="OUT", help="With FILE...: write the numbers there."
)
@click.option(
    "--on",
    multiple=True,
    metavar="URL",
    help="On ssh://user@host[:port], adb[:SERIAL] or browser[+webgpu][:COMMAND] instead of here; may be repeated.",
)
@click.option("--also-here", is_flag=True, help="With --on: on this machine too.")
@target_option
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="With --on: where RUN's images are now.")
@options_of(there=HostBenchSettings, access=Access, besides=BenchGrid, only_with="on")
def command(
    paths: tuple[Path, ...],
    artefacts: tuple[Path, ...],
    grid: BenchGrid,
    sweep: bool,
    out: Path | None,
    on: tuple[str, ...],
    also_here: bool,
    target: str | None,
    data: Path | None,
    there: HostBenchSettings | None,
    access: Access | None,
) -> int:
    """Measure RUN's reference and artefacts side by side, each in a process of its own, or any model files.

    With --on, a kit of the artefacts goes to other machines through ssh or adb, or into a browser of this one, and is
    measured there; the numbers are kept in bench.json beside those of this machine. Model FILEs may come from any tool;
    the first is the base of the ratios.
    """
    if not on and (alone := given_options(_OF_HOSTS)):
        raise SettingsError(f"expected {alone[0]} together with --on, but got no --on; name a machine or leave it")
    if len(paths) > 1 or paths[0].is_file():
        if wrong := given_options(("artefacts", "sweep", "on")):
            raise SettingsError(f"expected {wrong[0]} with one run, but got {len(paths)} files; leave it or pass a run")
        return _files(paths, grid, out)
    if out is not None:
        raise SettingsError("expected --json with model files, but got a run, which has its bench.json; leave it")
    run = paths[0]
    if sweep:
        return _sweep(run, grid, artefacts)
    if there is None or access is None:
        from tledge.reporting.bench import here

        render(*here(_here(run, grid, artefacts)))
        return 0
    from tledge.deployment.hosts import require_no_provider

    require_no_provider(grid.provider)
    what = {"--artefact": artefacts, f"--batch {', '.join(map(str, grid.batch))}": grid.batch not in ((), (1,))}
    what |= {"--until-stable": grid.until_stable is not None}
    if wrong := tuple(name for name, value in what.items() if value):
        raise SettingsError(
            f"expected --on with whole kits in batches of 1 and a fixed number of rounds, but got {wrong[0]}; "
            "leave it, or use --target"
        )
    if also_here:
        grid.each()  # refused before other machines measure
    return _on(run, on, access, there, target, data, grid if also_here else None)


def _here(run: Path, grid: BenchGrid, artefacts: tuple[Path, ...]) -> BenchResult:
    from tledge.benchmark.bench import bench

    with progress() as show:
        return bench(run, grid, artefacts=artefacts, progress=show)


def _files(paths: tuple[Path, ...], grid: BenchGrid, out: Path | None) -> int:
    from tledge.benchmark.bench_files import bench_files
    from tledge.reporting.bench import any_files

    with progress() as show:
        result = bench_files(paths, grid, out=out, progress=show)
    render(*any_files(result))
    return 0


def _sweep(run: Path, grid: BenchGrid, artefacts: tuple[Path, ...]) -> int:
    from tledge.benchmark.sweep import bench_options
    from tledge.reporting.bench import swept

    if given_options(("on",)):
        raise SettingsError("expected --sweep on this machine with one setting to begin with, but got --on; leave it")
    with progress() as show:
        result = bench_options(run, grid, artefacts=artefacts, progress=show)
    render(*swept(result))
    return 0


def _on(
    run: Path,
    on: tuple[str, ...],
    access: Access,
    there: HostBenchSettings,
    target: str | None,
    data: Path | None,
    here: BenchGrid | None,
) -> int:
    from tledge.deployment.host_bench import measure_on_hosts
    from tledge.reporting.bench import here as tables_here
    from tledge.reporting.bench import on_hosts
    from tledge.runs.bench_json import write_hosts

    with progress() as show:
        measured = measure_on_hosts(run, on, access, there, target=target, data=data, progress=show)
    local = None if here is None else _here(run, here, ())
    write_hosts(measured.run, [item.entry for item in measured.hosts])
    if local is not None:
        render(*tables_here(local))
    render(*on_hosts(measured))
    return 1 if measured.over_limits else 0
