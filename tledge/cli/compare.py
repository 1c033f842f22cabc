"""`tledge compare`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="OUT", help="Write the tables there too.")
@click.option("--html", type=click.Path(path_type=Path), metavar="PAGE", help="Write a page with figures there.")
@click.option("--json", "out", type=click.Path(path_type=Path), metavar="OUT", help="Write all numbers there.")
def command(runs: tuple[Path, ...], markdown: Path | None, html: Path | None, out: Path | None) -> None:
    """Show what is known of several runs side by side: accuracy, sizes, latency, other machines.

    A single RUN is shown as this machine and those of `check --on` and `bench --on` answered and measured it.
    Nothing is measured: `tledge check` and `tledge bench` do that for each run.
    """
    from tledge.core.files import write_json, write_text
    from tledge.reporting.compare import compare_runs
    from tledge.reporting.compare_output import as_json, as_markdown
    from tledge.reporting.terminal import render

    result = compare_runs(*runs)
    render(*result.tables, *result.notes)
    if markdown is not None:
        write_text(markdown, as_markdown(result))
    if html is not None:
        from tledge.reporting.html.compare_page import compare_page

        write_text(html, compare_page(result))
    if out is not None:
        write_json(out, as_json(result))
