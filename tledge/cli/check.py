"""`tledge check`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.display import progress, share, table
from tledge.cli.options import artefact_option, max_drop_option, run_argument


@click.command("check")
@run_argument
@artefact_option
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Other labelled images.")
@max_drop_option
def command(run: Path, artefacts: tuple[Path, ...], data: Path | None, max_drop: float | None) -> int:
    """Compare every artefact of RUN with the reference on the same images; exit 1 if a gate fails."""
    from tledge.stages.check import check

    with progress() as show:
        result = check(run, artefacts=artefacts, data=data, max_drop=max_drop, progress=show)
    reference = result.reference_accuracy
    rows = [("reference (Keras)", "–", share(reference.value, reference.low, reference.high), *"––––")]
    for item in result.artefacts:
        gate = item.gates[0]
        rows.append(
            (
                item.name,
                "pass" if item.passed else "FAIL",
                share(item.accuracy.value, item.accuracy.low, item.accuracy.high),
                f"{item.accuracy_drop:+.3f}",
                f"{gate.limit:.3f}",
                f"{item.agreement.value:.3f}",
                f"{item.max_probability_difference:.2g} / {item.mean_probability_difference:.2g}",
            )
        )
    header = ("artefact", "status", "accuracy (95 % interval)", "drop", "limit", "agreement", "max / mean difference")
    table(header, rows, title=f"n = {result.n} images")
    for item in result.artefacts:
        for gate in item.gates:
            if not gate.passed:
                click.echo(f"FAIL {item.name}: {gate.name} is {gate.value:.4g}, limit {gate.limit:.4g}, n = {gate.n}")
    return 0 if result.passed else 1
