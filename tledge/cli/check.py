"""`tledge check`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.options import artefact_option, given_options, names_of, options_of
from tledge.cli.progress import progress
from tledge.core.cluster import ClusterSettings
from tledge.core.errors import SettingsError
from tledge.data.label_source import DataSettings
from tledge.deployment.check_settings import HERE, HostCheckSettings
from tledge.deployment.hosts.host import DEFAULT_ACCESS, Access
from tledge.evaluation.settings import CheckSettings
from tledge.runtimes.declared import UNDECLARED, Declarations

if TYPE_CHECKING:
    from tledge.evaluation.results import CheckResult


@click.command("check")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@artefact_option
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where RUN's images are now, or other labelled images.",
)
@options_of(reading=DataSettings)
@options_of(settings=CheckSettings)
@options_of(where=HostCheckSettings, access=Access, only_with="on")
@options_of(cluster=ClusterSettings)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write JUnit XML.")
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write Markdown.")
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Instead of RUN: the original model, a .keras, .h5, .onnx or .tflite file or a SavedModel directory. Needs "
    "--artefact, --data and --labels.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --reference: class names, one per line, in the order of the models' outputs.",
)
@options_of(declared=Declarations, only_with="reference")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --reference: where check.json goes; a run has it.",
)
@click.option("--verbose", is_flag=True, help="Show every gate of every file.")
def command(
    run: Path | None,
    artefacts: tuple[Path, ...],
    data: Path | None,
    reading: DataSettings,
    settings: CheckSettings,
    on: tuple[str, ...],
    where: HostCheckSettings | None,
    access: Access | None,
    cluster: ClusterSettings,
    junit: Path | None,
    markdown: Path | None,
    reference: Path | None,
    labels: Path | None,
    declared: Declarations | None,
    out: Path | None,
    verbose: bool,
) -> int:
    """Compare every artefact of RUN with the reference on the same images; exit 1 if a gate fails.

    With --on, files answer on other machines (ssh, adb), in a browser or in LiteRT Micro, and these answers are judged.
    With --reference instead of RUN, compare any models. In GitHub Actions, failed gates become annotations and the job
    summary gets the tables.
    """
    if not on and (alone := given_options(names_of(HostCheckSettings, Access))):
        raise SettingsError(f"expected {alone[0]} together with --on, but got no --on; name a host or leave it")
    if reference is None:
        if alone := given_options(("labels", "inputs", "outputs")):
            raise SettingsError(
                f"expected --reference MODEL with {alone[0]}, but got none; a run's models need no description"
            )
        if run is None or out is not None:
            raise SettingsError(
                "expected RUN without --out, or --reference MODEL, but got "
                f"{'neither' if run is None else 'RUN and --out'}; a run keeps its check itself"
            )
        from tledge.deployment.host_check import check_run

        with progress() as show:
            result = check_run(
                run,
                settings,
                artefacts=artefacts,
                data=data,
                reading=reading,
                where=where or HERE,
                access=access or DEFAULT_ACCESS,
                cluster=cluster,
                progress=show,
            )
    else:
        if on:
            raise SettingsError("expected --on with RUN, but got --reference; adopt the model to check it elsewhere")
        if labels is None:
            raise SettingsError("expected --labels FILE with --reference, but got none; write one class name per line")
        if run is not None or data is None:
            raise SettingsError(
                "expected --data DIR and no RUN with --reference, but got "
                f"{f'RUN {run}' if run is not None else 'no --data'}; see `tledge check --help`"
            )
        from tledge.evaluation.models import check_models

        with progress() as show:
            result = check_models(
                reference,
                artefacts,
                data,
                labels,
                declared or UNDECLARED,
                settings,
                reading=reading,
                out=out,
                cluster=cluster,
                progress=show,
            )
    from tledge.reporting.check import on_screen
    from tledge.reporting.terminal import render, say

    render(*on_screen(result, verbose=verbose))
    if data is not None and reference is None:
        which = "the run's test subset, moved" if result.images.of_run else "all labelled ones, not the run's own"
        say(f"Images in {data}: {which}")
    _write_outputs(result, junit, markdown)
    return 0 if result.passed else 1


def _write_outputs(result: CheckResult, junit: Path | None, markdown: Path | None) -> None:
    from tledge.core.files import write_text
    from tledge.evaluation.outputs import as_annotations, as_junit
    from tledge.reporting.check import as_markdown

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
