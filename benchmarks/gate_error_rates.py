"""How often the drop gate of `tledge check` is wrong, over numbers of images and true drops, by simulation.

    python benchmarks/gate_error_rates.py > benchmarks/results/gate_error_rates.csv

Every line draws the images of many checks: a share `churn` of the images changes without changing the accuracy (half
of them lost, half won), the true drop comes on top as lost images. `plain_*` is the verdict that compares the measured
drop with the limit and nothing else.
"""

from __future__ import annotations

import csv
import sys
from functools import cache

import numpy as np

from tledge.evaluation.gates.gate import Verdict, at_most
from tledge.stats.paired import tango_interval

CHECKS = 20_000
SEED = 0
LIMIT = 0.02
IMAGES = (33, 100, 200, 359, 500, 1000, 2000, 5000, 10_000)
DROPS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.021, 0.025, 0.03, 0.04, 0.06, 0.1)
CHURNS = (0.0, 0.01, 0.04)


@cache
def verdict(lost: int, won: int, n: int) -> Verdict:
    return at_most(*tango_interval(lost, won, n), LIMIT)


def main() -> None:
    """Print one line per number of images, churn and true drop."""
    rng = np.random.default_rng(SEED)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ("n", "churn", "true_drop", "limit", "checks", "pass", "undecided", "fail", "plain_pass", "plain_fail")
    )
    for n in IMAGES:
        for churn in CHURNS:
            for drop in DROPS:
                shares = [churn / 2 + drop, churn / 2, 1 - churn - drop]
                pairs, counts = np.unique(rng.multinomial(n, shares, CHECKS)[:, :2], axis=0, return_counts=True)
                rates = dict.fromkeys(("pass", "undecided", "fail"), 0.0)
                plain = 0.0
                for (lost, won), count in zip(pairs.tolist(), counts.tolist(), strict=True):
                    rates[verdict(lost, won, n)] += count / CHECKS
                    plain += ((lost - won) / n <= LIMIT) * count / CHECKS
                row = (
                    *(f"{rates[name]:.4f}" for name in ("pass", "undecided", "fail")),
                    f"{plain:.4f}",
                    f"{1 - plain:.4f}",
                )
                writer.writerow((n, churn, drop, LIMIT, CHECKS, *row))


if __name__ == "__main__":
    main()
