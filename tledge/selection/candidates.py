"""Which trunks a selection compares: what is at hand, how each is loaded, and why others are left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tledge.model import weights as weight_sources
from tledge.model.weights import KnownTrunk, TrunkWeights, known_trunks, random_trunk

Loader = Callable[[], TrunkWeights]


@dataclass(frozen=True)
class Refusal:
    """A candidate that was not compared, and why."""

    name: str
    reason: str


def candidates_at_hand() -> dict[str, tuple[str | None, Loader]]:
    """Every trunk that can be compared here: by name its digest, if it is known, and how to load it."""
    return {name: (digest, load) for name, digest, load in candidates(())[0]}


def candidates(wanted: tuple[str, ...]) -> tuple[list[tuple[str, str | None, Loader]], list[Refusal]]:
    """What to compare, as (name, digest if it is known, how to load it), and what not."""
    chosen: list[tuple[str, str | None, Loader]] = []
    refused: list[Refusal] = []
    for trunk in known_trunks():
        if (reason := _why_not(trunk, wanted)) is None:
            chosen.append((trunk.name, trunk.digest, _loader(trunk.name)))
        elif reason:
            refused.append(Refusal(trunk.name, reason))
    if not wanted or weight_sources.RANDOM in wanted:
        untrained = random_trunk(0)
        chosen.append((weight_sources.RANDOM, untrained.digest, lambda: untrained))
    return chosen, refused


def _loader(name: str) -> Loader:
    def load() -> TrunkWeights:
        weights = weight_sources.resolve(name)
        assert weights is not None, name  # only `random` has none
        return weights

    return load


def _why_not(trunk: KnownTrunk, wanted: tuple[str, ...]) -> str | None:
    """Why a trunk is not compared; empty if nobody asked for it, None if it is compared."""
    if trunk.modality != "image":
        return f"reads {trunk.modality}, the data are images"
    if wanted and trunk.name not in wanted:
        return ""
    return f"not at hand: {trunk.missing}" if trunk.missing else None
