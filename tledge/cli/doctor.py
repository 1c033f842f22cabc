"""`tledge doctor`."""

from __future__ import annotations

import click

from tledge.reporting.tables import Table
from tledge.reporting.terminal import render


@click.command("doctor")
def command() -> int:
    """Look at packages, weights and machine; exit 1 if the main job cannot run here."""
    from tledge.reporting.doctor import doctor

    findings = doctor()
    render(Table(("what", "state", "detail"), [(finding.name, finding.state, finding.detail) for finding in findings]))
    missing = [finding.name for finding in findings if finding.state == "missing"]
    click.echo(f"Missing: {', '.join(missing)}" if missing else "Everything that the main job needs is here.")
    return 1 if missing else 0
