"""What `tledge check` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tledge.cli.display import share, table

if TYPE_CHECKING:
    from tledge.evaluation.comparison import ArtefactCheck, CheckResult

_FLIPS_SHOWN = 5
_SHOWN = {"pass": "pass", "fail": "FAIL", "undecided": "undecided"}


def print_check(result: CheckResult) -> None:
    """Every gate with its numbers, then the verdicts, then what to know about those that are not a pass."""
    from tledge.evaluation.outputs import gate_sentence, gate_value, unchecked

    gates = [
        (
            item.name,
            gate.name,
            gate_value(gate),
            f"{gate.limit:.4g}",
            str(gate.n or "–"),
            _SHOWN[gate.verdict],
            gate.note,
        )
        for item in result.artefacts
        for gate in item.gates
    ]
    table(("artefact", "gate", "value (95 % interval)", "limit", "n", "verdict", ""), gates, title="Gates")
    accuracy = result.reference_accuracy
    rows = [("reference", "–", share(accuracy.value, accuracy.low, accuracy.high), *"––––")]
    rows += [_row(item) for item in result.artefacts]
    header = (
        "artefact",
        "verdict",
        "accuracy (95 %)",
        "drop (95 %)",
        "lost / won",
        "agreement",
        "max / mean difference",
    )
    table(header, rows, title=f"n = {result.n} images")
    for item in result.artefacts:
        for gate in item.gates:
            if gate.verdict != "pass":
                click.echo(f"{_SHOWN[gate.verdict]} {gate_sentence(item, gate)}")
        if item.reason:
            click.echo(f"  {item.name}: {item.reason}")
        _print_change(item)
    for sentence in unchecked(result):
        click.echo(f"Note: {sentence}")
    if result.verdict == "undecided":
        click.echo(
            f"Undecided counts as {result.settings.on_undecided} (--on-undecided); each line says what would decide. "
            "More images: --data DIR"
        )


def _row(item: ArtefactCheck) -> tuple[str, ...]:
    return (
        item.name,
        _SHOWN[item.verdict],
        share(item.accuracy.value, item.accuracy.low, item.accuracy.high),
        f"{item.drop.value:+.3f} ({item.drop.low:+.3f} to {item.drop.high:+.3f})",
        f"{item.drop.lost} / {item.drop.won}",
        f"{item.agreement.value:.3f}",
        f"{item.max_probability_difference:.2g} / {item.mean_probability_difference:.2g}",
    )


def _print_change(item: ArtefactCheck) -> None:
    from tledge.evaluation.outputs import flip_sentence

    if item.change is None:
        return
    drop, lost, won = item.change.drop, item.change.lost, item.change.won
    better = ", better by more than chance explains" if item.change.improved else ""
    click.echo(
        f"{item.name} since the baseline: {len(lost)} lost, {len(won)} won, {len(item.change.moved)} moved; "
        f"accuracy {0 - drop.value:+.3f} ({0 - drop.high:+.3f} to {0 - drop.low:+.3f}){better}"
    )
    for what, flips in (("lost", lost), ("won", won)):
        for flip in flips[:_FLIPS_SHOWN]:
            click.echo(f"  {what}: {flip_sentence(flip)}")
        if len(flips) > _FLIPS_SHOWN:
            click.echo(f"  and {len(flips) - _FLIPS_SHOWN} more, all in check.json")
