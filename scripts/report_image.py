"""Draw the table that `tledge report RUN` prints, as it looks on a terminal: the picture of the README.

Usage: python scripts/report_image.py RUN docs/images/report.svg
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

import tledge
from tledge.reporting.terminal import as_rich

COLUMNS = 118


def main(run: Path, picture: Path) -> None:
    """Write the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(as_rich(tledge.report(run).table, on_terminal=True))
    picture.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(picture), title=f"tledge report {run.name}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
