"""`tledge doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.options import data_option
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say


@click.command("doctor")
@click.argument("run", required=False, type=click.Path(path_type=Path))
@data_option
def command(run: Path | None, data: Path | None) -> int:
    """Look at packages, weights and machine; with RUN, verify that run as a whole.

    Exit 1 if the main job cannot run here, or if something in RUN is damaged.
    """
    from tledge.reporting.doctor import doctor

    findings = doctor(run, data)
    render(Table(("what", "state", "detail"), [(finding.name, finding.state, finding.detail) for finding in findings]))
    wrong = [finding.name for finding in findings if finding.state in ("missing", "damaged")]
    if run is None:
        say(f"Missing: {', '.join(wrong)}" if wrong else "Everything that the main job needs is here.")
    else:
        say(f"Damaged: {', '.join(wrong)}" if wrong else f"{run} is whole.")
    return 1 if wrong else 0
