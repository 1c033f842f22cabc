"""`tledge inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tledge.reporting.tables import Table
from tledge.reporting.terminal import render


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(file: Path, as_json: bool) -> None:
    """Say what FILE (.tflite, .onnx, .keras, or a run) is: inputs, operators, labels, origin."""
    from tledge.reporting.inspection import inspect

    facts = inspect(file).facts
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    render(Table(("what", "value"), [(name, _text(value)) for name, value in facts.items()]))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_text(inner) for inner in value)
    return str(value)
