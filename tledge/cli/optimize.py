"""`tledge optimize`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.options import data_option, given_options, names_of, options_of, run_argument
from tledge.cli.progress import note, progress, progress_below_a_table
from tledge.compression.options import Options
from tledge.compression.search.search import SearchSettings
from tledge.core.image_size import short_text
from tledge.core.progress import silent
from tledge.deployment.hosts.host import Access
from tledge.reporting.tables import Table, share
from tledge.reporting.terminal import render, say
from tledge.runs.unfinished import ResumeSettings

if TYPE_CHECKING:
    from tledge.compression import Shrunk
    from tledge.compression.method import Outcome
    from tledge.compression.search.numbers import FileNumbers

_OF_METHODS = {*names_of(Options)} - {"epochs", "seed"}
_OF_GOAL = {"verbose", *names_of(SearchSettings, Access)} - {"goal", *names_of(Options)}


@click.command("optimize")
@run_argument
@options_of(options=Options)
@data_option
@click.option(
    "--unlabelled",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Further pictures to learn the original's answers from, in folders of any depth; whatever they show.",
)
@options_of(search=SearchSettings, access=Access, besides=Options, only_with="goal")
@options_of(resuming=ResumeSettings)
@click.option("--verbose", is_flag=True, help="With --goal: show every candidate, and why others were not tried.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="RUN2", help="Where the new run goes.")
def command(
    run: Path,
    options: Options,
    goal: str | None,
    search: SearchSettings | None,
    access: Access | None,
    data: Path | None,
    unlabelled: Path | None,
    resuming: ResumeSettings,
    verbose: bool,
    out: Path,
) -> int:
    """Make RUN's model cheaper and write it as RUN2; every method takes any run and keeps what earlier ones made.

    low-rank: a smaller input, fewer and thinner layers, smaller and faster everywhere. filters: fewer filters instead
    of thinner layers. prune: zeros, cluster: few distinct weights; both only make files compressible. qat: train with
    8-bit rounding, for better int8 files; always the last.
    """
    if goal is None and (found := ", ".join(given_options(_OF_GOAL))):
        raise click.UsageError(f"expected {found} only together with --goal; leave it out.")
    if goal is not None and (found := ", ".join(given_options(_OF_METHODS))):
        raise click.UsageError(f"expected --goal alone, which chooses by itself, but got {found} too; drop one.")
    if search is not None and access is not None:
        if search.on is None and (found := ", ".join(given_options(names_of(Access)))):
            raise click.UsageError(f"expected {found} only together with --on; leave it out.")
        return _search(run, search, out, access, data, unlabelled, resuming, verbose)
    from tledge.compression.optimize import optimize_by_name

    with progress() as show:
        result = optimize_by_name(
            run, options, out=out, data=data, unlabelled=unlabelled, resuming=resuming, progress=show
        )
    for outcome in result.outcomes:
        if outcome.shrunk is not None:
            _show_steps(outcome.method, outcome.shrunk)
        else:
            _show_training(outcome)
    quoted = shlex.quote(str(out))
    say(f"Next: tledge export {quoted} && tledge check {quoted} && tledge bench {quoted}")
    return 0


def _search(
    run: Path,
    settings: SearchSettings,
    out: Path,
    access: Access,
    data: Path | None,
    unlabelled: Path | None,
    resuming: ResumeSettings,
    verbose: bool,
) -> int:
    """Search and show; 1 if nothing holds the goal."""
    from tledge.compression.search.search import search
    from tledge.reporting.html.search_page import write_search_page
    from tledge.reporting.search import front_so_far, on_screen
    from tledge.runs.rundir import search_of

    # Off a terminal a line for each candidate is enough.
    with progress_below_a_table() if sys.stderr.isatty() else nullcontext((silent, lambda table: None)) as shown:
        show, show_table = shown

        def show_front(front: Sequence[FileNumbers]) -> None:
            show_table(front_so_far(settings.goal, front))
            write_search_page(search_of(out))

        result = search(
            run,
            settings,
            out,
            access=access,
            data=data,
            unlabelled=unlabelled,
            resuming=resuming,
            progress=show,
            tell=note,
            show_front=show_front,
        )
    write_search_page(result.folder)
    render(*on_screen(result, out, verbose=verbose), f"Page of the search: {result.folder.page}")
    return 1 if result.chosen is None else 0


def _show_steps(method: str, shrunk: Shrunk) -> None:
    rows = [
        (
            step.what,
            f"{step.speedup:g}x",
            short_text(step.image_size_px),
            f"{step.multiply_adds / 1e6:.1f}",
            f"{step.parameters / 1e6:.3f}",
            share(step.val_accuracy.value, step.val_accuracy.low, step.val_accuracy.high),
            f"{step.seconds:.1f}",
        )
        for step in shrunk.steps
    ]
    header = ("step", "target", "px", "10^6 multiply-adds", "10^6 parameters", "validation accuracy (95 %)", "seconds")
    render(Table(header, rows, f"{method}, n = {shrunk.steps[0].val_accuracy.n} validation images"))


def _show_training(outcome: Outcome) -> None:
    rows = [
        (when, share(found.value, found.low, found.high))
        for when, found in (("before", outcome.before), ("after", outcome.val_accuracy))
    ]
    kept = (
        f"epoch {outcome.best} of {len(outcome.losses) - 1} kept"
        if outcome.best
        else "no epoch was better than the start"
    )
    title = f"{outcome.method}, {kept}, n = {outcome.val_accuracy.n} validation images"
    render(Table(("", "validation accuracy (95 %)"), rows, title))
