"""`tledge demo`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.progress import progress
from tledge.cli.report import print_report


@click.command("demo")
@click.option("--out", default="tledge-demo", show_default=True, type=click.Path(path_type=Path), help="Where it goes.")
def command(out: Path) -> int:
    """Do the whole job on scikit-learn's handwritten digits, offline; takes a few minutes."""
    from tledge.pipeline import demo

    with progress() as show:
        result = demo(out, progress=show)
    print_report(result.report)
    return 0 if result.checked.passed else 1
