"""`tledge weights`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tledge.cli.progress import print_notes
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say

if TYPE_CHECKING:
    from tledge.model.weights import KnownTrunk


@click.group("weights")
def command() -> None:
    """List what there is to transfer from, show one, add a trunk of your own."""


@command.command("list")
def list_weights() -> None:
    """List the catalogue and your own trunks."""
    from tledge.model.weights import known_trunks

    rows = [(trunk.name, trunk.modality, _state(trunk), trunk.domain, trunk.licence) for trunk in known_trunks()]
    render(Table(("name", "for", "state", "learned from", "licence"), rows))
    say("Next: tledge select DATA, or tledge train DATA --weights NAME …")


@command.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Say everything about one entry: source, licence, digest, papers."""
    from tledge.model.weights import find_trunk

    trunk = find_trunk(name)
    candidate, own = trunk.candidate, trunk.own
    lines = [("name", trunk.name), ("for", trunk.modality)]
    if candidate is not None:
        lines += [(key, str(getattr(candidate, key))) for key in ("title", "architecture", "source", "domain", "input")]
        lines += [("licence", candidate.licence), ("to get it", candidate.obtain)]
    if own is not None:
        lines += [("your file", f"{own.path}, from {own.origin}, {own.added}")]
        lines += [] if candidate else [("domain", own.domain or "–"), ("licence", own.licence or "–")]
    lines += [("state", _state(trunk)), ("SHA-256 of the 26 tensors", trunk.digest or "–")]
    for key, value in lines:
        say(f"{key}: {value}")
    for paper in candidate.papers if candidate else ():
        say(f"paper: {paper.title}, {paper.url}")


@command.command("add")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--domain", default="", help="What it learned from, in a few words.")
@click.option("--licence", default="", help="Under which terms it may be used.")
@click.option("--replace", is_flag=True, help="Take the place of your trunk of this name.")
def add(name: str, file: Path, domain: str, licence: str, replace: bool) -> None:
    """Keep the VGG16 trunk in FILE (.h5, .weights.h5, .keras, .onnx) under NAME, for --weights NAME and select."""
    from tledge.model.weights import add_trunk

    own = add_trunk(name, file, domain=domain, licence=licence, replace=replace)
    print_notes(own.notes)
    say(f"{own.name}: {own.path}, SHA-256 of the 26 tensors {own.digest}")
    say(f"Next: tledge train DATA --weights {own.name} …")


@command.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Forget one of your own trunks."""
    from tledge.model.weights import remove_trunk

    own = remove_trunk(name)
    say(f"removed {own.name}, which came from {own.origin}")


def _state(trunk: KnownTrunk) -> str:
    if trunk.modality != "image":
        return "not for tledge train"
    return (
        "ready"
        if trunk.missing is None
        else "to be made"
        if trunk.own is None and not trunk.digest
        else "to be installed"
    )
