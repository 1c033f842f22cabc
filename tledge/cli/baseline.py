"""`tledge baseline`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from tledge.cli.options import run_argument
from tledge.reporting.terminal import say


@click.group("baseline")
def command() -> None:
    """Keep a check as the accepted release that later checks are compared with."""


@command.command("save")
@run_argument
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
def save(run: Path, out: Path) -> None:
    """Write the last check of RUN, image by image, to FILE; RUN may also be a folder that `check --out` wrote."""
    from tledge.evaluation.baseline import save_baseline

    accepted = save_baseline(run, out)
    if accepted.verdict != "pass":
        say(
            f"Warning: the verdict of this check is {accepted.verdict} ({', '.join(accepted.not_passed)}), and it is "
            "kept as the accepted release",
            err=True,
        )
    say(f"{len(accepted.artefacts)} files, {len(accepted.images)} images: {out}")
    say(f"Next: tledge check RUN --baseline {shlex.quote(str(out))}")
