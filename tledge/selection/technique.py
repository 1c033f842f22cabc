"""Which trunk and which technique: how many images there are, and at which depth features tell the classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tledge.selection.evidence import DepthEvidence, TrunkEvidence
from tledge.statistics import paired_drop
from tledge.types import TechniqueName

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


def judged(trunk: TrunkEvidence, advice: TechniqueAdvice) -> DepthEvidence:
    """The depth that counts for a trunk under the advised technique."""
    return trunk.best if advice.any_depth else trunk.deepest


def advise(
    trunks: Sequence[TrunkEvidence], random_name: str, images_per_class: int
) -> tuple[tuple[TrunkEvidence, ...], TechniqueAdvice]:
    """Rank trunks for the technique that suits the amount of data.

    The domain counts as near when the first trunk's deepest features, which are the most special to what it learned
    from, explain the classes best, and better than a random trunk's.

    Args:
        trunks: at least one.
        random_name: name of the trunk with random weights, if it is among them.
        images_per_class: median number of images per class, without those of a test folder.

    Returns:
        The trunks, best first, and the technique.
    """
    by_deepest = sorted(trunks, key=lambda trunk: -trunk.deepest.logme)
    by_best = sorted(trunks, key=lambda trunk: -trunk.best.logme)
    if images_per_class >= FEW_PER_CLASS:
        first = by_best[0]
        near = _is_near(first, trunks, random_name)
        if images_per_class >= MANY_PER_CLASS and not near:
            rule = f"far domain and much data ({MANY_PER_CLASS} images per class or more): train every layer"
            return tuple(by_best), _advice("architecture", None, near, rule, _CASES, images_per_class, first)
        rule = f"{FEW_PER_CLASS} images per class or more: freeze the layers up to {_cut(first)}, train the rest"
        return tuple(by_best), _advice("freeze", _cut(first), near, rule, _YOSINSKI, images_per_class, first)
    first = by_deepest[0]
    earlier = by_best[0]
    if paired_drop(earlier.best.hits, first.deepest.hits).low > 0:
        near = _is_near(earlier, trunks, random_name)
        rule = f"few images, but {earlier.best.depth} of {earlier.name} clearly serves better than block 5 of any trunk"
        return tuple(by_best), _advice("freeze", _cut(earlier), near, rule, _YOSINSKI, images_per_class, earlier)
    near = _is_near(first, trunks, random_name)
    rule = f"few images (fewer than {FEW_PER_CLASS} per class): train a small head on the fixed features of block 5"
    source = f"{_DONAHUE}; {_CASES}"
    return tuple(by_deepest), _advice("feature-extraction", None, near, rule, source, images_per_class, first)


def _advice(
    technique: TechniqueName,
    freeze_until: str | None,
    near: bool,
    rule: str,
    source: str,
    images_per_class: int,
    first: TrunkEvidence,
) -> TechniqueAdvice:
    scores = ", ".join(f"{one.depth.removesuffix('_pool')} {one.logme:.3f}" for one in first.depths)
    reason = f"{images_per_class} images per class; LogME of {first.name}: {scores}"
    return TechniqueAdvice(technique, freeze_until, technique != "feature-extraction", near, rule, source, reason)


def _is_near(trunk: TrunkEvidence, trunks: Sequence[TrunkEvidence], random_name: str) -> bool:
    if trunk.name == random_name or trunk.best is not trunk.deepest:
        return False
    return all(trunk.deepest.logme > other.best.logme for other in trunks if other.name == random_name)


def _cut(trunk: TrunkEvidence) -> str:
    """The last layer to freeze: the depth that serves best, but block 5 always trains."""
    return DEFAULT_CUT if trunk.best is trunk.deepest else trunk.best.depth
