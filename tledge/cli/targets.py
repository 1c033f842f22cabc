"""`tledge targets`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tledge.reporting.tables import Table
from tledge.reporting.terminal import render, say

if TYPE_CHECKING:
    from tledge.deployment.targets import DeviceTarget


@click.command("targets")
@click.argument("name", required=False, metavar="[NAME|FILE]")
def command(name: str | None) -> None:
    """List the kinds of device tledge knows, or show one: its files, its limits, and who says so."""
    from tledge.deployment.targets import built_in_targets, load_target

    if name is None:
        rows = [_row(load_target(target)) for target in built_in_targets()]
        render(Table(("target", "recipes", "threads", "file MB", "memory", "hardware"), rows))
        say("Next: tledge export RUN --target NAME, tledge kit RUN --target NAME -o kit.zip")
        return
    target = load_target(name)
    say(f"{target.name}: {target.title}")
    say(f"hardware: {target.hardware}")
    say(f"quantization: {target.quantization}")
    say(f"threads to measure: {', '.join(map(str, target.threads))}")
    if target.architectures:
        say(f"architecture for `tledge bench --on`: {', '.join(target.architectures)}")
    limits = target.limits
    say(f"limits: file {limits.size_mb:g} MB, {_memory(target)} ({limits.why})")
    rows = [(d.recipe.name, f"{d.input} → {d.output}", d.why) for d in target.artefacts]
    render(Table(("recipe", "input → output", "why"), rows))
    if target.operators is not None:
        covered = (f"{op} ({'; '.join(rules)})" if rules else op for op, rules in target.operators.items())
        say(f"operators covered: {', '.join(covered)}")
    for source in target.sources:
        say(f"source: {source.title}, {source.url}")


def _row(target: DeviceTarget) -> tuple[str, ...]:
    return (
        target.name,
        ", ".join(delivery.recipe.name for delivery in target.artefacts),
        ", ".join(map(str, target.threads)),
        f"{target.limits.size_mb:g}",
        _memory(target),
        target.hardware,
    )


def _memory(target: DeviceTarget) -> str:
    limits = target.limits
    return f"memory {limits.memory_mb:g} MB" if limits.arena_kb is None else f"arena {limits.arena_kb:g} kB"
