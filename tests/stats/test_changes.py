"""What changed answers bound: an exact limit, and the drop below it."""

from __future__ import annotations

import numpy as np
import pytest

from tledge.stats.changes import Changes, change_more_often, largest_drop

stats = pytest.importorskip("scipy.stats")


def test_the_bound_is_the_exact_intervals_end() -> None:
    for changed, n in ((0, 1), (0, 533), (4, 533), (7, 20), (20, 20)):
        expected = stats.binomtest(changed, n).proportion_ci(0.95, method="exact").high
        assert largest_drop(Changes(changed, n)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [30, 184, 533])
def test_it_is_below_the_true_share_in_at_most_one_of_forty_samples(n: int) -> None:
    """Not by simulation: every number of changed images with its probability."""
    bounds = np.asarray([largest_drop(Changes(changed, n)) for changed in range(n + 1)])
    for share in np.linspace(0.001, 0.3, 300):
        assert stats.binom.pmf(np.arange(n + 1), n, share)[bounds < share].sum() <= 0.025


def test_nothing_is_lost_that_does_not_change() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        labels, first, second = rng.integers(0, 4, (3, 50))
        drop = np.mean(first == labels) - np.mean(second == labels)
        assert drop <= np.mean(first != second)


def test_changing_more_often_is_fishers_test() -> None:
    for first, second in (((3, 33), (2, 500)), ((1, 33), (0, 500)), ((0, 33), (40, 500)), ((20, 100), (60, 500))):
        table = [[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]]
        expected = stats.fisher_exact(table, alternative="greater").pvalue <= 0.05
        assert change_more_often(Changes(*first), Changes(*second)) == expected
