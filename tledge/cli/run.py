"""`tledge run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.options import data_argument, options_of, out_option, recipe_option, threads_option
from tledge.cli.progress import print_notes, progress
from tledge.cli.report import print_report
from tledge.evaluation.settings import TOLERANT
from tledge.runs.unfinished import ResumeSettings
from tledge.training.settings import TrainSettings

if TYPE_CHECKING:
    from tledge.evaluation.settings import CheckSettings


@click.command("run")
@data_argument
@out_option
@options_of(settings=TrainSettings, resuming=ResumeSettings)
@recipe_option
@options_of(checking=TOLERANT, without=("baseline", "unlabelled", "resize_robustness", "provider"))
@threads_option
def command(
    data: Path,
    out: Path,
    settings: TrainSettings,
    resuming: ResumeSettings,
    recipes: tuple[str, ...],
    checking: CheckSettings,
    threads: int | None,
) -> int:
    """Train on DATA, export, check, bench and report; exit 1 if a file fails the check."""
    from tledge.pipeline import run_pipeline

    with progress() as show:
        result = run_pipeline(
            data,
            settings,
            out,
            recipes=recipes,
            checking=checking,
            threads=threads,
            resuming=resuming,
            progress=show,
        )
    print_notes(result.trained.notes)
    print_report(result.report)
    return 0 if result.checked.passed else 1
