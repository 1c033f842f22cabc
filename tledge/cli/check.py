"""`tledge check`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.check_display import print_check
from tledge.cli.display import progress
from tledge.cli.options import artefact_option, gate_options, run_argument

if TYPE_CHECKING:
    from tledge.stages.check import CheckResult
    from tledge.stages.check_settings import CheckSettings


@click.command("check")
@run_argument
@artefact_option
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Other labelled images.")
@gate_options(on_undecided="fail")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Compare image by image with the release that `tledge baseline save` kept.",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write JUnit XML.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write Markdown.")
def command(
    run: Path,
    artefacts: tuple[Path, ...],
    data: Path | None,
    settings_of_check: CheckSettings,
    baseline: Path | None,
    junit: Path | None,
    markdown: Path | None,
) -> int:
    """Compare every artefact of RUN with the reference on the same images; exit 1 if a gate fails.

    In GitHub Actions, failed gates become annotations and the job summary gets the table.
    """
    from tledge.stages.check import check

    settings = replace(settings_of_check, baseline=baseline)
    with progress() as show:
        result = check(run, settings, artefacts=artefacts, data=data, progress=show)
    print_check(result)
    _write_outputs(result, junit, markdown)
    return 0 if result.passed else 1


def _write_outputs(result: CheckResult, junit: Path | None, markdown: Path | None) -> None:
    from tledge.files import write_text
    from tledge.stages.check_outputs import as_annotations, as_junit, as_markdown

    if junit is not None:
        write_text(junit, as_junit(result))
    if markdown is not None:
        write_text(markdown, as_markdown(result))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in as_annotations(result):
            click.echo(line)
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            # Other steps of the job write there too.
            with Path(summary).open("a", encoding="utf-8") as stream:
                stream.write(as_markdown(result))
