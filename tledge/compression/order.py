"""Which methods there are, and in which order they may follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from tledge.compression.methods.cluster import ClusterSettings
from tledge.compression.methods.prune import PruneSettings
from tledge.compression.methods.qat import QatSettings
from tledge.compression.shrink_settings import LowRankSettings, ShrinkSettings
from tledge.core.errors import SettingsError

Settings: TypeAlias = ShrinkSettings | LowRankSettings | PruneSettings | ClusterSettings | QatSettings

FILTERS, LOW_RANK, PRUNE, CLUSTER, QAT = "filters", "low-rank", "prune", "cluster", "qat"
METHODS = (FILTERS, LOW_RANK, PRUNE, CLUSTER, QAT)
"""In the order in which they may follow each other: each keeps what those before it made."""

_FEWEST_WITH_ZERO = 3

_NAMES: dict[type[Settings], str] = {
    ShrinkSettings: FILTERS,
    LowRankSettings: LOW_RANK,
    PruneSettings: PRUNE,
    ClusterSettings: CLUSTER,
    QatSettings: QAT,
}


def method_of(settings: Settings) -> str:
    """Name of the method that settings belong to."""
    return _NAMES[type(settings)]


def require_order(history: Sequence[str], wanted: Sequence[str]) -> None:
    """Check, before slow work, that no method would destroy what an earlier one made.

    Args:
        history: methods that made the run, oldest first.
        wanted: methods to follow.

    Raises:
        SettingsError: none is wanted, something after `qat`, an earlier kind of method after a later one, or `prune`
            or `cluster` twice.
    """
    if not wanted:
        raise SettingsError(f"expected at least one method ({', '.join(METHODS)}), but got none; name one")
    done = list(history)
    for method in wanted:
        if QAT in done:
            raise SettingsError(
                f"expected {QAT} to be the last method, but got {method} after {' → '.join(done)}; "
                f"take the run before {QAT} instead"
            )
        if method in (PRUNE, CLUSTER) and method in done:
            raise SettingsError(
                f"expected {method} once, since it would begin anew and give up what the first one made, but got it "
                f"after {' → '.join(done)}; take the run before {method} with the values you want"
            )
        later = [other for other in done if METHODS.index(other) > METHODS.index(method)]
        if later:
            raise SettingsError(
                f"expected methods in the order {' → '.join(METHODS)}, but got {method} after {later[-1]}, whose work "
                f"it would destroy; take the run before {later[-1]} instead"
            )
        done.append(method)


def require_clusters(history: Sequence[str], wanted: Sequence[Settings]) -> None:
    """Check, before slow work, that clusters of a pruned model have room for zero and both sides of it.

    Args:
        history: methods that made the run, oldest first.
        wanted: settings of the methods to follow.

    Raises:
        SettingsError: fewer than three clusters after `prune`.
    """
    pruned = PRUNE in history
    for step in wanted:
        pruned = pruned or isinstance(step, PruneSettings)
        if pruned and isinstance(step, ClusterSettings) and step.clusters < _FEWEST_WITH_ZERO:
            raise SettingsError(
                f"expected at least {_FEWEST_WITH_ZERO} clusters after {PRUNE}, one for zero and one on either side "
                f"of it, but got {step.clusters}; raise --clusters"
            )
