"""`tledge inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from tledge.cli.options import options_of
from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say_json
from tledge.runtimes.declared import Declarations


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@options_of(declared=Declarations)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(file: Path, declared: Declarations, as_json: bool) -> None:
    """Say what FILE (.tflite, .onnx, .keras, .h5, a SavedModel directory, or a run) is.

    Inputs, scores, operators, labels, origin.

    Exit code 2 if it cannot be used as it is, for what nobody says about its pixels or scores.
    """
    from tledge.reporting.inspection import inspect

    inspection = inspect(file, declared)
    facts = inspection.facts
    if as_json:
        say_json(facts)
    else:
        render(Table(("what", "value"), [(name, _text(value)) for name, value in facts.items()]))
    if inspection.refusal is not None:
        raise inspection.refusal


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_text(inner) for inner in value)
    return str(value)
