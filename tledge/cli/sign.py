"""`tledge sign`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tledge.cli.options import signed_argument
from tledge.reporting.terminal import say


@click.command("sign")
@signed_argument
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Secret key that `minisign -G` wrote."
)
def command(paths: tuple[Path, ...], key: Path) -> None:
    """Sign every file of a RUN, or any FILE: a signature FILE.minisig beside it, in minisign's format.

    A key with a password asks for it, or reads it from stdin where that is no terminal. Needs the extra `sign`.
    """
    from tledge.deployment.signing import needs_password, sign

    for one in sign(paths, key, password=_password(key) if needs_password(key) else None):
        say(str(one.signature))
    say(f"Next: tledge verify {paths[0]} --public-key FILE")


def _password(key: Path) -> str:
    if sys.stdin is not None and not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    from getpass import getpass

    return getpass(f"Password of {key}: ")
