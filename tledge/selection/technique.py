"""Which technique suits: how many images there are, and how near they are to what the trunk learned from."""

from __future__ import annotations

from dataclasses import dataclass

from tledge.selection.evidence import TrunkEvidence
from tledge.types import TechniqueName

FEW_PER_CLASS = 200
MANY_PER_CLASS = 1_000
DEFAULT_CUT = "block4_pool"
_CASES = "the four cases of Stanford's CS231n notes on transfer learning (size of the data, nearness to the source)"
_YOSINSKI = "Yosinski et al. 2014, How transferable are features in deep neural networks?"
_DONAHUE = "Donahue et al. 2014, DeCAF"


@dataclass(frozen=True)
class TechniqueAdvice:
    """A technique, the last frozen layer if it is `freeze`, the rule that decided, its source, and what it saw."""

    technique: TechniqueName
    freeze_until: str | None
    near: bool
    rule: str
    source: str
    reason: str


def advise(trunk: TrunkEvidence, random: TrunkEvidence | None, images_per_class: int) -> TechniqueAdvice:
    """Choose a technique for a trunk.

    The domain counts as near when the trunk's deepest features, which are the most special to what it learned from,
    explain the classes best, and better than a random trunk's.

    Args:
        trunk: the recommended trunk.
        random: the trunk with random weights, None if it was not looked at.
        images_per_class: median number of images per class, without those of a test folder.
    """
    beats_random = random is None or (trunk is not random and trunk.deepest.logme > random.best.logme)
    near = trunk.best is trunk.deepest and beats_random
    amount = f"{images_per_class} images per class"
    reason = f"{amount}; {trunk.best.depth} explains the classes best (LogME {trunk.best.logme:.3f}"
    reason += ")" if trunk.best is trunk.deepest else f", block5_pool {trunk.deepest.logme:.3f})"
    if images_per_class >= MANY_PER_CLASS and not near:
        rule = f"far domain and much data ({MANY_PER_CLASS} images per class or more): train every layer"
        return TechniqueAdvice("architecture", None, near, rule, _CASES, reason)
    if images_per_class >= FEW_PER_CLASS:
        cut = _cut(trunk)
        rule = f"{FEW_PER_CLASS} images per class or more: freeze the layers up to {cut}, train the rest"
        return TechniqueAdvice("freeze", cut, near, rule, _YOSINSKI, reason)
    if trunk.deepest.linear.high < trunk.best.linear.low:
        rule = (
            f"few images, and features of {trunk.best.depth} clearly serve better than those of block 5: freeze there"
        )
        return TechniqueAdvice("freeze", _cut(trunk), near, rule, _YOSINSKI, reason)
    rule = f"few images (fewer than {FEW_PER_CLASS} per class): train a small head on fixed features"
    return TechniqueAdvice("feature-extraction", None, near, rule, f"{_DONAHUE}; {_CASES}", reason)


def _cut(trunk: TrunkEvidence) -> str:
    """The last layer to freeze: the depth that serves best, but block 5 always trains."""
    return DEFAULT_CUT if trunk.best is trunk.deepest else trunk.best.depth
