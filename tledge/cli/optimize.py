"""`tledge optimize`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.display import progress, table
from tledge.cli.options import run_argument
from tledge.cli.search_display import goal_options, search_and_show


@click.command("optimize")
@run_argument
@click.option("--method", type=click.Choice(("filters",)), default="filters", show_default=True, help="What to do.")
@click.option("--speedup", type=float, help="Target ratio of multiply-adds, original to result, above 1.")
@click.option("--max-drop", type=float, help="Instead: the smallest model that loses at most this on validation, 0..1.")
@click.option("--size-ratio", type=float, help="Ask for this ratio of parameters as well.")
@click.option("--image-size", type=int, help="Input of the result in pixels. Default: one that suits the speed-up.")
@click.option("--epochs", default=15, show_default=True, help="Most epochs of distillation; 0 for none.")
@click.option("--seed", default=0, show_default=True)
@goal_options
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN2", help="Where the new run goes.")
def command(
    run: Path,
    method: str,
    speedup: float | None,
    max_drop: float | None,
    size_ratio: float | None,
    image_size: int | None,
    epochs: int,
    seed: int,
    goal: str | None,
    time_budget: float,
    threads: int | None,
    out: Path,
) -> int:
    """Make RUN's model cheaper: a smaller input, fewer filters, reconstruction and distillation; writes RUN2."""
    if goal is not None:
        return search_and_show(
            run, goal, time_budget_min=time_budget, threads=threads, epochs=epochs, seed=seed, out=out
        )
    from tledge.compression import ShrinkSettings
    from tledge.stages.optimize import optimize

    settings = ShrinkSettings(
        speedup=speedup,
        max_drop=max_drop,
        size_ratio=size_ratio,
        image_size_px=image_size,
        epochs=epochs,
        seed=seed,
    )
    with progress() as show:
        result = optimize(run, settings, out, show)
    rows = [
        (
            step.what,
            f"{step.speedup:g}x",
            str(step.image_size_px),
            f"{step.multiply_adds / 1e6:.1f}",
            f"{step.parameters / 1e6:.3f}",
            f"{step.val_accuracy.value:.3f} ({step.val_accuracy.low:.3f}–{step.val_accuracy.high:.3f})",
            f"{step.seconds:.1f}",
        )
        for step in result.shrunk.steps
    ]
    header = ("step", "target", "px", "10^6 multiply-adds", "10^6 parameters", "validation accuracy (95 %)", "seconds")
    table(header, rows, title=f"{method}, n = {result.shrunk.steps[0].val_accuracy.n} validation images")
    click.echo(f"Next: tledge export {out} && tledge check {out} && tledge bench {out}")
    return 0
