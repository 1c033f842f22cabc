"""What no working classifier does, and no working comparison: gates that need no limit."""

from __future__ import annotations

import numpy as np

from tledge.evaluation.gates.evidence import Evidence, RangeFit
from tledge.evaluation.gates.gate import Gate, Verdict, exact
from tledge.stats import metrics
from tledge.stats.intervals import Interval, fewest
from tledge.stats.metrics import mean_recall

# What a float file's probabilities may differ by: in float32 ten times what its export is held to, since these images
# are others; in float16 some more than rounding does.
_FLOAT_TOLERANCE = {"float32": 0.01, "float16": 0.05}
# A file that keeps at least half of what the reference gets right in a class misses all of five images in 3 % of the
# cases at most (0.5^5): who misses them all has lost the class. Fewer images tell nothing.
_ENOUGH_TO_MISS = 5
# A reference that is worth comparing with has come a tenth of the way from guessing to being always right.
_USEFUL = 0.1


def invariants(evidence: Evidence) -> tuple[Gate, ...]:
    """What no working classifier does, whatever its accuracy: these need no limit and cannot be turned off."""
    finite = bool(np.isfinite(evidence.answers).all())
    unsummed, tolerance = metrics.sums_off(evidence.answers, evidence.reference, evidence.output_step)
    # Only images that the reference gets right: what it names wrongly, a file may rightly not name.
    right = np.bincount(evidence.labels[evidence.reference_hits], minlength=len(evidence.classes))
    named = np.bincount(evidence.answers.argmax(axis=1), minlength=len(evidence.classes))
    told_apart = np.flatnonzero(right >= _ENOUGH_TO_MISS)
    collapsed = np.count_nonzero(named) == 1 and len(told_apart) > 1
    dead = [
        f"{evidence.classes[i]} ({right[i]} images that the reference gets right)" for i in told_apart if not named[i]
    ]
    gates = (
        *_reference_guesses(evidence),
        exact("non_finite_probabilities", float(not finite), 0.0, evidence.n),
        exact("probabilities_off_one", unsummed, tolerance, evidence.n),
        exact("collapsed_to_one_class", float(collapsed), 0.0, evidence.n),
        exact("dead_classes", float(len(dead)), 0.0, evidence.n, f"never named: {', '.join(dead)}" if dead else ""),
    )
    ranges = () if evidence.ranges is None else (_ranges_off(evidence.ranges),)
    return (*gates, *_float_differs(evidence), *ranges)


def _float_differs(evidence: Evidence) -> tuple[Gate, ...]:
    """A model may bear a fault, such as wrong preprocessing, on the images at hand; a float file still shows it."""
    tolerance = _FLOAT_TOLERANCE.get(evidence.precision or "")
    if tolerance is None:
        return ()
    largest = float(evidence.difference.max())
    note = "" if largest <= tolerance else f"{evidence.precision} computes what the reference does: export it again"
    return (exact("float_differs", largest, tolerance, evidence.n, note),)


def _reference_guesses(evidence: Evidence) -> tuple[Gate, ...]:
    """A reference that is fed the wrong values, or the wrong labels, guesses, and whoever guesses alike agrees with it.

    Nothing where all images show one class: always naming it would be right.
    """
    present = len(np.unique(evidence.labels))
    if present == 1:
        return ()
    limit = 1 / present
    useful = limit + _USEFUL * (1 - limit)

    def outcome(n: int) -> tuple[Interval, Verdict]:
        found = mean_recall(evidence.reference.argmax(axis=1), evidence.labels, n / evidence.n)
        return found, "pass" if found.low > limit else "fail" if found.high < useful else "undecided"

    found, verdict = outcome(evidence.n)
    note = ""
    if verdict == "fail":
        note = f"a recall of {useful:.2g} would show: the reference guesses, so check its input, the labels, the images"
    elif verdict == "undecided":
        needed = fewest(lambda n: outcome(n)[1] != "undecided", evidence.n)
        many = f"needs about {needed:,} images" if needed else "no number of images tells"
        note = f"the reference may only guess: check its input, the labels, the images; {many}"
    return (Gate("reference_above_guessing", found.value, limit, found.low, found.high, evidence.n, verdict, note),)


def _ranges_off(fit: RangeFit) -> Gate:
    """Wrong ranges cost accuracy on the images that need them, and those may not be among the ones at hand."""
    if not fit.off:
        return exact("ranges_off", 0.0, 0.0, fit.images)
    source = "the run's calibration images need" if fit.images else "training learned"
    note = f"{fit.off} of {fit.layers} ranges, {fit.worst}'s is {fit.ratio:.2g} times what {source}: export it again"
    return exact("ranges_off", float(fit.off), 0.0, fit.images, note)
