"""What changed answers tell of a drop in accuracy where nobody knows the right answers.

An image can be lost or won only if the two models name different classes for it. So the drop D, the share of lost
images less that of won ones, is at most the share A of images whose answer changes, whatever the classes are; an upper
confidence limit for A is one for D, and A can be counted on images without labels.
"""

from __future__ import annotations

from dataclasses import dataclass

from tledge.stats.intervals import CONFIDENCE

_OTHER_KIND = 0.05


@dataclass(frozen=True)
class Changes:
    """`changed` of `n` images on which two models name different classes; fractions are allowed, to plan ahead."""

    changed: float
    n: float

    def with_others(self, others: Changes) -> Changes:
        """These images and others, of which none is among them."""
        return Changes(self.changed + others.changed, self.n + others.n)

    def scaled_to(self, n: float) -> Changes:
        """The same share of `n` images."""
        return Changes(self.changed / self.n * n, n)


def largest_drop(changes: Changes) -> float:
    """The upper end of the exact 95 % interval for the share of changed answers, and so a bound for the drop.

    C. Clopper and E. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", 1934:
    it lies below the true share in at most 2.5 % of all samples, however small these and the share are, which Wilson's
    interval only nearly keeps.

    Returns:
        In 0..1.
    """
    from scipy.stats import beta

    if changes.changed >= changes.n:
        return 1.0
    return float(beta.ppf(0.5 + CONFIDENCE / 2, changes.changed + 1, changes.n - changes.changed))


def change_more_often(first: Changes, second: Changes) -> bool:
    """Whether answers change more often on the first images than on the second, by more than chance explains.

    R. Fisher's exact test, one-sided, at 5 %: given how many of all changed, how many of these would fall among the
    first by chance.
    """
    from scipy.stats import hypergeom

    both = first.with_others(second)
    return bool(hypergeom.sf(first.changed - 1, both.n, both.changed, first.n) <= _OTHER_KIND)
