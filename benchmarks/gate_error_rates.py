"""How often the drop gate of `tledge check` is wrong, over numbers of images and true drops, by simulation.

    python benchmarks/gate_error_rates.py > benchmarks/results/gate_error_rates.csv

Every line draws the images of many checks: a share `churn` of the images changes without changing the accuracy (half
of them lost, half won), the true drop comes on top as lost images. `plain_*` is the verdict that compares the measured
drop with the limit and nothing else. Lines with images in the column `unlabelled` have so many more without labels, of
the same kind; `alone_*` is the verdict of the labelled images of the same checks.
"""

from __future__ import annotations

import csv
import sys
from functools import cache
from itertools import product

import numpy as np

from tledge.evaluation.gates.gate import Verdict, at_most
from tledge.stats.changes import Changes, change_more_often, largest_drop
from tledge.stats.paired import tango_interval

CHECKS = 20_000
SEED = 0
LIMIT = 0.02
IMAGES = (33, 100, 200, 359, 500, 1000, 2000, 5000, 10_000)
DROPS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.021, 0.025, 0.03, 0.04, 0.06, 0.1)
CHURNS = (0.0, 0.01, 0.04)
LABELLED = (33, 100, 200, 359, 500, 1000)
UNLABELLED = (500, 2000)
CHURNS_WITH_UNLABELLED = (0.0, 0.0025, 0.005, 0.01, 0.04)
COLUMNS = (
    *("n", "unlabelled", "churn", "true_drop", "limit", "checks", "pass", "undecided", "fail", "plain_pass"),
    *("plain_fail", "alone_pass", "alone_undecided", "alone_fail"),
)


@cache
def verdict(lost: int, won: int, n: int) -> Verdict:
    return at_most(*tango_interval(lost, won, n), LIMIT)


@cache
def bounded(changed: int, n: int, others_changed: int, others: int) -> bool:
    """Whether the images without labels show that the drop is within the limit."""
    labelled, unlabelled = Changes(changed, n), Changes(others_changed, others)
    return not change_more_often(labelled, unlabelled) and largest_drop(labelled.with_others(unlabelled)) <= LIMIT


def rates_of(rng: np.random.Generator, n: int, others: int, churn: float, drop: float) -> list[str]:
    """Shares of the checks: three verdicts, two of the plain rule, three of the labelled images alone."""
    shares = [churn / 2 + drop, churn / 2, 1 - churn - drop]
    drawn = rng.multinomial(n, shares, CHECKS)[:, :2]
    changed = rng.binomial(others, churn + drop, (CHECKS, 1)) if others else np.zeros((CHECKS, 1), np.int64)
    found, counts = np.unique(np.hstack([drawn, changed]), axis=0, return_counts=True)
    rates, alone = (dict.fromkeys(("pass", "undecided", "fail"), 0.0) for _ in range(2))
    plain = 0.0
    for (lost, won, among_others), count in zip(found.tolist(), counts.tolist(), strict=True):
        said = verdict(lost, won, n)
        decided = others and said == "undecided" and bounded(lost + won, n, among_others, others)
        alone[said] += count / CHECKS
        rates["pass" if decided else said] += count / CHECKS
        plain += ((lost - won) / n <= LIMIT) * count / CHECKS
    return [f"{rate:.4f}" for rate in (*rates.values(), plain, 1 - plain, *alone.values())]


def main() -> None:
    """Print one line per number of images with and without labels, churn and true drop."""
    rng = np.random.default_rng(SEED)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    cells = [*product(IMAGES, (0,), CHURNS, DROPS), *product(LABELLED, UNLABELLED, CHURNS_WITH_UNLABELLED, DROPS)]
    for n, others, churn, drop in cells:
        writer.writerow((n, others, churn, drop, LIMIT, CHECKS, *rates_of(rng, n, others, churn, drop)))


if __name__ == "__main__":
    main()
