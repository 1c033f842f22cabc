"""`tledge export`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.display import progress, table
from tledge.cli.options import recipe_option, run_argument


@click.command("export")
@run_argument
@recipe_option
@click.option("--force", is_flag=True, help="Export again even what is there and made the same way.")
def command(run: Path, recipes: tuple[str, ...], force: bool) -> None:
    """Write RUN's artefacts, reload each one and compare it with the reference."""
    from tledge.stages.export import export

    with progress() as show:
        result = export(run, recipes, force=force, progress=show)
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
    click.echo(f"Next: tledge check {run}")
