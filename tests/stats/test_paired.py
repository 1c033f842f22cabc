"""Paired statistics against published numbers, brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tledge.stats.metrics import mean_recall
from tledge.stats.paired import (
    PairedCounts,
    error_ratio,
    images_needed,
    mcnemar_p,
    paired_counts,
    paired_drop,
    relative_drop,
    tango_interval,
)

pytest.importorskip("scipy")


def hits(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models' hits with these counts."""
    first = np.r_[np.ones(both + lost, bool), np.zeros(won + neither, bool)]
    second = np.r_[np.ones(both, bool), np.zeros(lost, bool), np.ones(won, bool), np.zeros(neither, bool)]
    return first, second


def test_counts() -> None:
    assert paired_counts(*hits(7, 3, 2, 1)) == PairedCounts(7, 3, 2, 1)
    assert PairedCounts(7, 3, 2, 1).n == 13


def test_mcnemar_is_a_coin_toss_over_changed_images() -> None:
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 0) == pytest.approx(2 * 0.5**5)
    assert mcnemar_p(0, 5) == mcnemar_p(5, 0)


def test_no_change_still_leaves_room() -> None:
    """The closed form for no changed image: z² / (n + z²)."""
    low, high = tango_interval(0, 0, 359)
    assert high == pytest.approx(1.959964**2 / (359 + 1.959964**2), abs=1e-6)
    assert low == pytest.approx(-high)


def test_interval_solves_tangos_equation() -> None:
    """At both ends the score, with the likeliest shares found by brute force, is z standard deviations."""
    lost, won, n = 9, 5, 73
    shares = np.linspace(1e-6, 0.3, 30_001)
    for difference in tango_interval(lost, won, n):
        only_won = shares[shares + difference > 1e-9]
        both_ways = 1 - 2 * only_won - difference
        likelihood = lost * np.log(only_won + difference) + won * np.log(only_won) + (n - 14) * np.log(both_ways)
        best = only_won[np.argmax(likelihood)]
        score = (lost - won - n * difference) / np.sqrt(n * (2 * best + difference * (1 - difference)))
        assert abs(score) == pytest.approx(1.959964, abs=2e-3)


def test_interval_covers_the_true_drop() -> None:
    """Where most images do not change: 3 % lost, 1 % won, 300 images."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(300, [0.03, 0.01, 0.96], 2000)
    found = {pair: tango_interval(*pair, 300) for pair in {(int(a), int(b)) for a, b, _ in drawn}}
    inside = np.mean([low <= 0.02 <= high for low, high in (found[int(a), int(b)] for a, b, _ in drawn)])
    assert 0.93 <= inside <= 0.975


def test_extremes() -> None:
    low, high = tango_interval(10, 0, 10)
    assert 0.4 < low < 1
    assert high == 1.0
    assert tango_interval(0, 10, 10) == pytest.approx((-1.0, -low))


def test_drop_is_the_difference_of_accuracies() -> None:
    drop = paired_drop(*hits(90, 4, 1, 5))
    assert drop.value == pytest.approx(0.94 - 0.91)
    assert drop.low < drop.value < drop.high
    assert (drop.lost, drop.won, drop.n) == (4, 1, 100)
    assert drop.p_value == pytest.approx(0.375)


def test_ratios() -> None:
    counts = PairedCounts(900, 20, 10, 70)
    assert relative_drop(counts).value == pytest.approx(10 / 920)
    assert error_ratio(counts).value == pytest.approx(90.5 / 80.5)
    for found in (relative_drop(counts), error_ratio(counts)):
        assert found.low < found.value < found.high
    assert relative_drop(counts) == relative_drop(counts)
    perfect = error_ratio(PairedCounts(1000, 0, 0, 0))
    assert perfect.value == 1.0
    assert perfect.high > 2, "no error in a thousand does not tell the ratio of two rare errors"


def test_images_needed_are_enough_and_not_too_many() -> None:
    drop = paired_drop(*hits(97, 1, 1, 1))
    needed = images_needed(drop, 0.02)
    assert needed is not None
    assert tango_interval(needed / 100, needed / 100, needed)[1] <= 0.02
    assert tango_interval((needed - 2) / 100, (needed - 2) / 100, needed - 2)[1] > 0.02


def test_no_number_of_images_tells_a_drop_from_its_own_limit() -> None:
    assert images_needed(paired_drop(*hits(96, 3, 1, 0)), 0.02) is None


def test_guessing_is_told_from_knowing() -> None:
    """Guesses in any shares, over classes of any size, seem to know more in about one of forty cases."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), (200, 50, 100, 30))
    guesses = [mean_recall(rng.choice(4, len(labels), p=(0.6, 0.2, 0.15, 0.05)), labels) for _ in range(2000)]
    assert 0.015 < np.mean([found.low > 0.25 for found in guesses]) < 0.035
    known = np.where(rng.random(len(labels)) < 0.3, labels, rng.permutation(labels))
    assert mean_recall(known, labels).low > 0.25
    always = mean_recall(np.zeros(len(labels), np.int64), labels)
    assert (always.low, always.value) == (0.25, 0.25)
    assert 0.25 < always.high < 0.3, "none of 180 images of the others"
    more = mean_recall(np.zeros(len(labels), np.int64), labels, times=100)
    assert 0.25 < more.high < 0.251


def test_mean_recall_is_rarely_above_its_upper_end() -> None:
    """A true mean recall of 0.4 lies above it in about one of forty cases, classes of any size."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), (200, 50, 100, 30))
    recalls = np.asarray([0.9, 0.4, 0.2, 0.1])
    highs = []
    for _ in range(2000):
        right = rng.random(len(labels)) < recalls[labels]
        highs.append(mean_recall(np.where(right, labels, (labels + 1) % 4), labels).high)
    assert 0.01 < np.mean([high < 0.4 for high in highs]) < 0.04
