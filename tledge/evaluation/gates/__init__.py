"""What an artefact must keep: limits, and their verdicts against the evidence.

A gate is one function and its `GateKind` in a module of this package, and one line in `GATES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from tledge.core.errors import SettingsError
from tledge.core.limits import find, parse
from tledge.evaluation.gates.accuracy import (
    AGREEMENT,
    BASELINE_DROP,
    CLASS_RECALL_DROP,
    DISAGREEMENT,
    DROP,
    ERROR_RATIO,
    RELATIVE_DROP,
    RESIZE_DROP,
)
from tledge.evaluation.gates.evidence import Evidence
from tledge.evaluation.gates.gate import Gate, GateKind, Limits
from tledge.evaluation.gates.properties import (
    ARENA,
    FLASH,
    INT8_SHARE,
    LATENCY_RATIO,
    MEAN_PROBABILITY_DIFFERENCE,
    PROBABILITY_DIFFERENCE,
    SIZE,
)

_KINDS: tuple[GateKind, ...] = (
    DROP,
    RELATIVE_DROP,
    ERROR_RATIO,
    CLASS_RECALL_DROP,
    AGREEMENT,
    DISAGREEMENT,
    RESIZE_DROP,
    PROBABILITY_DIFFERENCE,
    MEAN_PROBABILITY_DIFFERENCE,
    SIZE,
    FLASH,
    ARENA,
    INT8_SHARE,
    LATENCY_RATIO,
    BASELINE_DROP,
)
GATES: dict[str, GateKind] = {kind.metric.key: kind for kind in _KINDS}
"""Every gate by its name in JSON."""


def parse_limits(given: str | Iterable[str] | Mapping[str, object], where: str = "--gate") -> dict[str, float]:
    """Read limits, before slow work, in any form that they are given in.

    Args:
        given: text such as `drop < 0.02, size < 2 MB`, several of these, or a table of numbers by name, new or old.
        where: how a message calls their source.

    Returns:
        By the gate's name in JSON, in the unit of its metric. A gate knows no difference between `<` and `<=`, see
        `tledge.evaluation.gates.gate.at_most`.

    Raises:
        SettingsError: malformed, unknown, out of range or given twice.
    """
    metrics = [kind.metric for kind in GATES.values()]
    found: list[tuple[str, float]] = []
    if isinstance(given, Mapping):
        for name, limit in given.items():
            metric = find(name, metrics, where)
            found.append((metric.key, metric.require(metric.comparisons[1], limit, where)))
    else:
        for text in [given] if isinstance(given, str) else given:
            conditions = parse(text, metrics, where)
            if not conditions:
                raise SettingsError(f'expected a condition such as "drop < 0.02" in {where}, but got none; write one')
            found += [(condition.kind.key, condition.limit) for condition in conditions]
    names = [name for name, _ in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingsError(
            f"expected each gate once in {where}, but got {GATES[twice[0]].metric.name} again; leave one out"
        )
    return dict(found)


def parse_drop(text: str) -> float:
    """Read what `--max-drop` takes, such as `0.02`, `2 %` or `2 points`.

    Raises:
        SettingsError: as `parse_limits`.
    """
    found = parse_limits(f"{DROP.metric.key}={text}", "--max-drop")
    if len(found) > 1:
        raise SettingsError(f"expected a drop such as 0.02 or 2 % in --max-drop, but got {text!r}; leave the rest out")
    return found[DROP.metric.key]


def evaluate(evidence: Evidence, limits: Limits) -> tuple[Gate, ...]:
    """Every gate with a limit, in the order of the limits."""
    gates = [GATES[name].evaluate(evidence, limit) for name, limit in limits.items()]
    if evidence.alike:
        note = evidence.alike_in_words
        gates = [replace(gate, verdict="pass", note=note) if GATES[gate.name].of_sample else gate for gate in gates]
    return tuple(gates)
