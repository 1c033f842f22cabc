"""`tledge verify`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from tledge.cli.options import signed_argument
from tledge.reporting.tables import VERDICTS, Table
from tledge.reporting.terminal import render, say


@click.command("verify")
@signed_argument
@click.option(
    "--public-key",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Public key that `minisign -G` wrote.",
)
def command(paths: tuple[Path, ...], public_key: Path) -> int:
    """Tell whether every file of a RUN, or any FILE, is signed by a key and unchanged since.

    The signature is FILE.minisig beside it. Exit 1 if one is missing or does not fit. Needs the extra `sign`.
    """
    from tledge.deployment.signing import verify

    verified = verify(paths, public_key)
    rows = [
        (str(one.path), VERDICTS.get(one.verdict, one.verdict), one.reason or _short(one.comment)) for one in verified
    ]
    render(Table(("file", "verdict", "signed comment, or why not"), rows))
    refused = [str(one.path) for one in verified if one.verdict != "pass"]
    say(f"{len(verified) - len(refused)} of {len(verified)} signed by this key.")
    if refused:
        say(f"Refused: {', '.join(refused)}")
    return 1 if refused else 0


def _short(comment: str) -> str:
    """A comment for a table: digests are in the signature, and in `sha256sum`."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", comment).replace("\t", " ")
