"""Which trunk and which technique: how many images there are, and at which depth features tell the classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tledge.core.types import TechniqueName
from tledge.selection.evidence import DepthEvidence, TrunkEvidence
from tledge.stats.paired import paired_drop

FEW_PER_CLASS = 200
MANY_PER_CLASS = 1_000
DEFAULT_CUT = "block4_pool"
_CASES = "the four cases of Stanford's CS231n notes on transfer learning (size of the data, nearness to the source)"
_YOSINSKI = "Yosinski et al. 2014, How transferable are features in deep neural networks?"
_DONAHUE = "Donahue et al. 2014, DeCAF"


@dataclass(frozen=True)
class TechniqueAdvice:
    """A technique, the last frozen layer if it is `freeze`, the rule that decided, its source, and what it saw.

    `any_depth` says what trunks were ranked by: their best depth, since layers after it will train, or block 5, whose
    fixed features a small head gets.
    """

    technique: TechniqueName
    freeze_until: str | None
    any_depth: bool
    near: bool
    rule: str
    source: str
    reason: str


def depth_used(trunk: TrunkEvidence, advice: TechniqueAdvice) -> DepthEvidence:
    """The depth that counts for a trunk under the advised technique."""
    return trunk.best if advice.any_depth else trunk.deepest


def recommended(ranked: Sequence[TrunkEvidence], random_name: str) -> TrunkEvidence:
    """The first trunk that learned something; a random one is there for comparison, unless there is no other."""
    return next((trunk for trunk in ranked if trunk.name != random_name), ranked[0])


def advise(
    trunks: Sequence[TrunkEvidence], random_name: str, images_per_class: int, named: TechniqueName | None = None
) -> tuple[tuple[TrunkEvidence, ...], TechniqueAdvice]:
    """Rank trunks for a technique: the named one, else the one that suits the amount of data.

    The domain counts as near when the recommended trunk's deepest features, which are the most special to what it
    learned from, explain the classes best, and better than a random trunk's.

    Args:
        trunks: at least one.
        random_name: name of the trunk with random weights, if it is among them.
        images_per_class: median number of training images per class.
        named: the technique, if it is not left open.

    Returns:
        The trunks, best first, the random one among them, and the technique.
    """
    technique, rule, source = _decided(trunks, random_name, images_per_class)
    if named is not None:
        technique, rule, source = named, f"technique {named} was named", "the command"
    any_depth = technique != "feature-extraction"
    ranked = sorted(trunks, key=lambda trunk: -(trunk.best if any_depth else trunk.deepest).logme)
    first = recommended(ranked, random_name)
    cut = _cut(first) if technique == "freeze" and named is None else None
    near = _is_near(first, trunks, random_name)
    reason = f"{images_per_class} training images per class; LogME of {first.name}: " + ", ".join(
        f"{one.depth.removesuffix('_pool')} {one.logme:.3f}" for one in first.depths
    )
    if ranked[0] is not first:
        reason += "; no trunk has a higher LogME than random weights"
    return tuple(ranked), TechniqueAdvice(technique, cut, any_depth, near, rule, source, reason)


def _decided(
    trunks: Sequence[TrunkEvidence], random_name: str, images_per_class: int
) -> tuple[TechniqueName, str, str]:
    """The technique, the rule and its source."""
    first = recommended(sorted(trunks, key=lambda trunk: -trunk.best.logme), random_name)
    if first.name == random_name:
        return "architecture", "random weights alone: nothing is learned yet, so train every layer", _CASES
    if images_per_class >= MANY_PER_CLASS and not _is_near(first, trunks, random_name):
        rule = f"far domain and much data ({MANY_PER_CLASS} images per class or more): train every layer"
        return "architecture", rule, _CASES
    if images_per_class >= FEW_PER_CLASS:
        rule = f"{FEW_PER_CLASS} images per class or more: freeze the layers up to {_cut(first)}, train the rest"
        return "freeze", rule, _YOSINSKI
    if all(paired_drop(first.best.hits, other.deepest.hits).low > 0 for other in trunks):
        rule = f"few images, but {first.best.depth} of {first.name} clearly serves better than block 5 of any trunk"
        return "freeze", rule, _YOSINSKI
    rule = f"few images (fewer than {FEW_PER_CLASS} per class): train a small head on the fixed features of block 5"
    return "feature-extraction", rule, f"{_DONAHUE}; {_CASES}"


def _is_near(trunk: TrunkEvidence, trunks: Sequence[TrunkEvidence], random_name: str) -> bool:
    if trunk.name == random_name or trunk.best is not trunk.deepest:
        return False
    return all(trunk.deepest.logme > other.best.logme for other in trunks if other.name == random_name)


def _cut(trunk: TrunkEvidence) -> str:
    """The last layer to freeze: the depth that serves best, but block 5 always trains."""
    return DEFAULT_CUT if trunk.best is trunk.deepest else trunk.best.depth
