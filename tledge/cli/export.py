"""`tledge export`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.display import progress, table
from tledge.cli.options import recipe_option, run_argument, target_option


@click.command("export")
@run_argument
@recipe_option
@target_option
@click.option("--force", is_flag=True, help="Export again even what is there and made the same way.")
def command(run: Path, recipes: tuple[str, ...], target: str | None, force: bool) -> int:
    """Write RUN's artefacts, reload each one and compare it with the reference.

    With --target, exit 1 if a file breaks one of the target's limits.
    """
    from tledge.device_targets import load_target
    from tledge.stages.export import export
    from tledge.stages.target_export import export_for_target

    breaches: tuple[str, ...] = ()
    if target is not None and recipes:
        raise click.UsageError("expected --recipe or --target, but got both; a target brings its recipes.")
    with progress() as show:
        if target is None:
            result = export(run, recipes, force=force, progress=show)
        else:
            made = export_for_target(run, load_target(target), force=force, progress=show)
            result, breaches = made.exported, made.breaches
    rows = [
        (
            artefact.name,
            "kept" if artefact.kept else "written",
            f"{artefact.sidecar['size_bytes'] / 1e6:.1f}",
            f"{artefact.sidecar['gzip_bytes'] / 1e6:.1f}" if "gzip_bytes" in artefact.sidecar else "–",
            f"{artefact.sidecar['input']['dtype']} → {artefact.sidecar['output']['dtype']}",
            f"{artefact.sidecar['int8_op_share']:.2f}",
            f"{artefact.sidecar['verification']['max_probability_difference']:.2g}",
            str(artefact.path),
        )
        for artefact in result.artefacts
    ]
    table(("artefact", "", "size MB", "gzip MB", "input → output", "int8 ops", "max difference", "file"), rows)
    for breach in breaches:
        click.echo(f"FAIL: {breach}")
    if not breaches:
        click.echo(f"Next: tledge check {run}")
    return 1 if breaches else 0
