"""Wilson's interval against SciPy's, and in fractions."""

from __future__ import annotations

import numpy as np
import pytest

from tledge.stats.intervals import fewest, wilson_interval
from tledge.stats.metrics import proportion


def test_wilson_is_scipys_to_the_last_bit() -> None:
    stats = pytest.importorskip("scipy.stats")
    for n in (1, 2, 7, 33, 99, 1000, 10_000_000):
        for hits in {0, 1, n // 3, n // 2, n - 1, n}:
            expected = stats.binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
            found = proportion(hits, n)
            assert (found.value, found.low, found.high, found.n) == (hits / n, expected.low, expected.high, n)


def test_wilson_of_several_shares_and_of_fractions() -> None:
    low, high = wilson_interval(np.array([0, 3, 10]), np.array([10, 10, 10]))
    assert [tuple(pair) for pair in zip(low, high, strict=True)] == [wilson_interval(hits, 10) for hits in (0, 3, 10)]
    between, _ = wilson_interval(1.5, 5)
    assert wilson_interval(1, 5)[0] < between < wilson_interval(2, 5)[0]
    assert wilson_interval(5, 10, z=2.575829)[0] < wilson_interval(5, 10)[0] < wilson_interval(5, 10, z=1.644854)[0]


def test_the_fewest_images_that_decide() -> None:
    assert fewest(lambda n: n >= 1234, 100) == 1234
    assert fewest(lambda n: False, 100) is None
