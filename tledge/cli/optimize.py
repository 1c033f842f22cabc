"""`tledge optimize`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.display import progress, share, table
from tledge.cli.options import data_option, run_argument
from tledge.cli.search_display import goal_options, search_and_show

if TYPE_CHECKING:
    from tledge.compression import Shrunk
    from tledge.compression.apply import Outcome

_METHODS = ("filters", "low-rank", "prune", "cluster", "qat")


@click.command("optimize")
@run_argument
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(_METHODS),
    default=("low-rank",),
    show_default=True,
    help="What to do; repeat for several, one after the other.",
)
@click.option("--speedup", type=float, help="Target ratio of multiply-adds, original to result, above 1.")
@click.option("--max-drop", type=float, help="Instead: the smallest model that loses at most this on validation.")
@click.option("--size-ratio", type=float, help="Target ratio of weights, above 1; alone or with the others.")
@click.option("--image-size", type=int, help="Input in pixels. Default: one that suits the speed-up.")
@click.option(
    "--last-layer",
    metavar="LAYER|auto|none",
    help="End the net at this layer, such as block4_pool. Default: auto, where validation does not suffer.",
)
@click.option("--pictures", type=int, help="Training images and random views of them to learn from.  [default: 800]")
@click.option("--sparsity", type=float, help="prune: share of zeros in each layer, 0..1.  [default: 0.5]")
@click.option("--clusters", type=int, help="cluster: most distinct weights in each layer.  [default: 16]")
@click.option(
    "--epochs",
    type=int,
    help="Most epochs of training; 0 for none. [default: low-rank, filters 10, prune 6, cluster 3, qat 5]",
)
@click.option("--learning-rate", type=float, help="Adam's highest. [default: low-rank 1e-4, filters 5e-5, others 1e-5]")
@click.option("--seed", default=0, show_default=True)
@data_option
@goal_options
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN2", help="Where the new run goes.")
def command(
    run: Path,
    methods: tuple[str, ...],
    speedup: float | None,
    max_drop: float | None,
    size_ratio: float | None,
    image_size: int | None,
    last_layer: str | None,
    pictures: int | None,
    sparsity: float | None,
    clusters: int | None,
    epochs: int | None,
    learning_rate: float | None,
    seed: int,
    data: Path | None,
    goal: str | None,
    time_budget: float,
    threads: int | None,
    on: str | None,
    remote_python: str,
    ssh_config: Path | None,
    out: Path,
) -> int:
    """Make RUN's model cheaper and write it as RUN2; every method takes any run and keeps what earlier ones made.

    low-rank: a smaller input, fewer and thinner layers, smaller and faster everywhere. filters: fewer filters instead
    of thinner layers. prune: zeros, cluster: few distinct weights; both only make files compressible. qat: train with
    8-bit rounding, for better int8 files; always the last.
    """
    if goal is not None:
        return search_and_show(
            run,
            goal,
            time_budget_min=time_budget,
            threads=threads,
            on=on,
            remote_python=remote_python,
            ssh_config=ssh_config,
            epochs=epochs,
            seed=seed,
            data=data,
            out=out,
        )
    from tledge.compression.optimize import optimize
    from tledge.compression.options import Options, settings_of

    options = Options(
        speedup=speedup,
        max_drop=max_drop,
        size_ratio=size_ratio,
        image_size=image_size,
        last_layer=last_layer,
        pictures=pictures,
        sparsity=sparsity,
        clusters=clusters,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    settings = settings_of(methods, options)
    with progress() as show:
        result = optimize(run, settings, out, show, data=data)
    for outcome in result.outcomes:
        if outcome.shrunk is not None:
            _show_steps(outcome.method, outcome.shrunk)
        else:
            _show_training(outcome)
    quoted = shlex.quote(str(out))
    click.echo(f"Next: tledge export {quoted} && tledge check {quoted} && tledge bench {quoted}")
    return 0


def _show_steps(method: str, shrunk: Shrunk) -> None:
    rows = [
        (
            step.what,
            f"{step.speedup:g}x",
            str(step.image_size_px),
            f"{step.multiply_adds / 1e6:.1f}",
            f"{step.parameters / 1e6:.3f}",
            share(step.val_accuracy.value, step.val_accuracy.low, step.val_accuracy.high),
            f"{step.seconds:.1f}",
        )
        for step in shrunk.steps
    ]
    header = ("step", "target", "px", "10^6 multiply-adds", "10^6 parameters", "validation accuracy (95 %)", "seconds")
    table(header, rows, title=f"{method}, n = {shrunk.steps[0].val_accuracy.n} validation images")


def _show_training(outcome: Outcome) -> None:
    accuracy = outcome.record["val_accuracy"]
    rows = [
        (when, share(accuracy[when]["value"], accuracy[when]["low"], accuracy[when]["high"]))
        for when in ("before", "after")
    ]
    kept = (
        f"epoch {outcome.best} of {len(outcome.losses) - 1} kept"
        if outcome.best
        else "no epoch was better than the start"
    )
    title = f"{outcome.method}, {kept}, n = {outcome.val_accuracy.n} validation images"
    table(("", "validation accuracy (95 %)"), rows, title=title)
