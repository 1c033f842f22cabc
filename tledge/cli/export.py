"""`tledge export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.options import data_option, recipe_option, run_argument, target_option
from tledge.cli.progress import progress
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say

if TYPE_CHECKING:
    from tledge.conversion.sidecar import MixedPrecisionFacts


@click.command("export")
@run_argument
@recipe_option
@target_option
@click.option("--force", is_flag=True, help="Export again even what is there and made the same way.")
@click.option(
    "--max-drop",
    help="int8 recipes only: return layers to float until accuracy on validation images drops by no more; 0..1.",
)
@data_option
def command(
    run: Path, recipes: tuple[str, ...], target: str | None, force: bool, max_drop: str | None, data: Path | None
) -> int:
    """Write RUN's artefacts, reload each one and compare it with the reference.


    With --target, exit 1 if a file breaks one of the target's limits.
    """
    from tledge.conversion.export import export
    from tledge.deployment.export import export_for_target
    from tledge.evaluation.gates import parse_drop

    breaches: tuple[str, ...] = ()
    if target is not None and (recipes or max_drop is not None):
        raise click.UsageError("expected --target alone, but got --recipe or --max-drop too; name its recipes instead.")
    largest_drop = None if max_drop is None else parse_drop(max_drop)
    with progress() as show:
        if target is None:
            result = export(run, recipes, force=force, max_drop=largest_drop, data=data, progress=show)
        else:
            made = export_for_target(run, target, force=force, data=data, progress=show)
            result, breaches = made.exported, made.breaches
    rows = [
        (
            artefact.name,
            "kept" if artefact.kept else "written",
            f"{artefact.sidecar.size_bytes / 1e6:.1f}",
            "–" if artefact.sidecar.gzip_bytes is None else f"{artefact.sidecar.gzip_bytes / 1e6:.1f}",
            f"{artefact.sidecar.input.dtype} → {artefact.sidecar.output.dtype}",
            f"{artefact.sidecar.int8_op_share:.2f}",
            f"{artefact.sidecar.verification.max_probability_difference:.2g}",
            str(artefact.path),
        )
        for artefact in result.artefacts
    ]
    render(Table(("artefact", "", "size MB", "gzip MB", "input → output", "int8 ops", "max difference", "file"), rows))
    for artefact in result.artefacts:
        if artefact.sidecar.accuracy_aware is not None and max_drop is not None:
            _show_search(artefact.name, artefact.sidecar.accuracy_aware, artefact.sidecar.float_layers)
    for breach in breaches:
        say(f"FAIL: {breach}")
    if not breaches:
        say(f"Next: tledge check {shlex.quote(str(run))}")
    return 1 if breaches else 0


def _show_search(name: str, found: MixedPrecisionFacts, layers: tuple[str, ...]) -> None:
    """The files that a search for `--max-drop` made, and what the one that was kept cost."""
    rows = [
        (
            ", ".join(step.float_layers) or "none",
            f"{step.drop:+.3f} ({step.interval[0]:+.3f} to {step.interval[1]:+.3f})",
            f"{step.lost} / {step.won}",
            "pass" if step.holds else "FAIL",
            f"{step.size_bytes / 1e6:.2f}",
            f"{step.p50_ms:.2f}",
        )
        for step in found.steps
    ]
    title = f"{name}: drop of at most {found.max_drop:g} on validation images (n = {found.n})"
    render(Table(("layers in float", "drop (95 %)", "lost / won", "", "size MB", "quick p50 ms"), rows, title))
    if not layers:
        say(f"{name}: every layer stayed in int8.")
        return
    cost, quick = found.cost, found.latency
    say(
        f"{name}: {', '.join(layers)} in float cost {cost.size_bytes / 1e6:+.2f} MB and {cost.p50_ms:+.2f} ms "
        f"(p50 of {quick.n} runs {quick.measured}; `tledge bench` measures properly)."
    )
    quoted = ", ".join(f'"{layer}"' for layer in layers)
    say(f"The same file without a search: `float_layers = [{quoted}]` under [quantization] of a recipe.")
