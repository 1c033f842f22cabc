"""`tledge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.display import Progress, progress, table
from tledge.cli.options import artefact_option, run_argument, target_option, threads_option
from tledge.errors import SettingsError

if TYPE_CHECKING:
    from tledge.stages.bench import BenchResult, BenchSettings
    from tledge.stages.remote_bench import RemoteBenchResult


@click.command("bench")
@run_argument
@artefact_option
@threads_option
@click.option("--batch", default=1, show_default=True, help="Images per inference.")
@click.option("--rounds", default=10, show_default=True, help="How often to go through all models in turn.")
@click.option("--samples", default=5, show_default=True, help="Measured inferences per model and round.")
@click.option("--warmup", default=2, show_default=True, help="Inferences before them that do not count.")
@click.option("--on", multiple=True, metavar="URL", help="On ssh://user@host[:port] instead of here; may be repeated.")
@click.option("--also-here", is_flag=True, help="With --on: on this machine too.")
@target_option
@click.option("--time-limit", type=float, metavar="SECONDS", help="With --on: most for one machine. Default: 3600.")
@click.option("--remote-python", metavar="COMMAND", help="With --on: the Python there. Default: python3.")
@click.option("--ssh-config", type=click.Path(path_type=Path), help="With --on: a file instead of ~/.ssh/config.")
@click.option("--no-cache", is_flag=True, help="With --on: leave no copy of the kit there.")
def command(
    run: Path,
    artefacts: tuple[Path, ...],
    threads: int | None,
    batch: int,
    rounds: int,
    samples: int,
    warmup: int,
    on: tuple[str, ...],
    also_here: bool,
    target: str | None,
    time_limit: float | None,
    remote_python: str | None,
    ssh_config: Path | None,
    no_cache: bool,
) -> int:
    """Measure RUN's reference and artefacts side by side, each in a process of its own.

    With --on, a kit of the artefacts goes to other machines through ssh and is measured there; the numbers are kept in
    bench.json beside those of this machine.
    """
    from tledge.environment import available_cores
    from tledge.stages.bench import BenchSettings

    if not on:
        given = {
            "--also-here": also_here,
            "--target": target,
            "--time-limit": time_limit,
            "--remote-python": remote_python,
            "--ssh-config": ssh_config,
            "--no-cache": no_cache,
        }
        if alone := [name for name, value in given.items() if value]:
            raise SettingsError(f"expected {alone[0]} together with --on, but got no --on; name a machine or leave it")
    elif artefacts or batch != 1:
        what = "--artefact" if artefacts else f"--batch {batch}"
        raise SettingsError(f"expected --on with whole kits in batches of 1, but got {what}; leave it, or use --target")
    here = None
    if not on or also_here:
        here = BenchSettings(available_cores() if threads is None else threads, batch, rounds, samples, warmup)
    with progress() as show:
        if not on:
            assert here is not None
            _print_here(_bench_here(run, here, artefacts, show), here)
            return 0
        from tledge.device_targets import load_target
        from tledge.ssh import parse_host
        from tledge.stages.bench_targets import write_targets
        from tledge.stages.remote_bench import DEFAULT_LIMIT_S, RemoteSettings, measure_on

        limit_s = DEFAULT_LIMIT_S if time_limit is None else time_limit
        there = RemoteSettings(threads, rounds, samples, warmup, limit_s, not no_cache)
        hosts = [parse_host(url, config=ssh_config, python=remote_python or "python3") for url in on]
        chosen = None if target is None else load_target(target)
        measured = measure_on(run, hosts, there, target=chosen, progress=show)
        local = None if here is None else _bench_here(run, here, (), show)
        write_targets(measured.run, [item.entry for item in measured.targets])
    if local is not None and here is not None:
        _print_here(local, here)
    _print_there(measured)
    return 1 if measured.over_limits else 0


def _bench_here(run: Path, settings: BenchSettings, artefacts: tuple[Path, ...], show: Progress) -> BenchResult:
    from tledge.stages.bench import bench

    return bench(run, settings, artefacts=artefacts, progress=show)


def _print_here(result: BenchResult, settings: BenchSettings) -> None:
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
    n = settings.rounds * settings.samples
    title = f"{facts['cpu']}, {settings.threads} threads, batch {settings.batch}, n = {n}"
    header = ("model", "p50 ms", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB", "speed-up (95 %)")
    table(header, rows, title=f"{title}, warm-up {settings.warmup} per round")
    for note in result.notes:
        click.echo(f"Note: {note}")


def _print_there(result: RemoteBenchResult) -> None:
    header = ("model", "threads", "p50 ms", "p90 ms", "p99 ms", "load ms", "first ms", "peak MB")
    for measured in result.targets:
        entry = measured.entry
        rows = [
            (
                item["name"],
                str(item["threads"]),
                *(f"{item['latency_ms'][key]:.2f}" for key in ("p50", "p90", "p99")),
                f"{item['load_ms']:.0f}",
                f"{item['first_ms']:.0f}",
                f"{item['peak_rss_mb']:.0f}",
            )
            for item in entry["results"]
        ]
        facts = entry["environment"]["machine"]
        table(header, rows, title=f"{measured.host.name}: {facts['cpu'] or facts['architecture']}")
        sent = f"{measured.sent_bytes / 1e6:.1f} MB sent" if measured.sent_bytes else "nothing had to be sent"
        click.echo(f"{measured.host.name}: {sent}")
        for item in entry["skipped"]:
            click.echo(f"Note: {measured.host.name}: {item['name']} was not measured, {item['reason']}")
    for line in result.over_limits:
        click.echo(f"FAIL {line}")
