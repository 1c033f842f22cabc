"""What layers tell of a calibration."""

from __future__ import annotations

from dataclasses import replace

from tledge.diagnosis.layers import LayerError
from tledge.diagnosis.verdict import badly_calibrated

HEALTHY = LayerError(
    name="prediction",
    position=3,
    sqnr_db=38.0,
    own_sqnr_db=38.0,
    weights_sqnr_db=38.0,
    fall_db=0.0,
    cosine=1.0,
    file_range=(-4.0, 4.0),
    expected_range=(-4.0, 4.0),
    range_ratio=1.0,
    clipped=0.0,
    dead_channels=0,
    wrong_channels=0,
    channels=3,
)


def test_values_beyond_the_right_range_are_no_fault_of_the_calibration() -> None:
    few_values = replace(HEALTHY, clipped=0.05)
    assert badly_calibrated([HEALTHY, few_values]) is None


def test_a_range_that_cuts_off_what_the_right_one_holds_is() -> None:
    shifted = replace(HEALTHY, file_range=(-3.0, 5.0), clipped=0.05)
    narrow = replace(HEALTHY, file_range=(-1.0, 1.0), range_ratio=0.25, clipped=0.3)
    for fault in (shifted, narrow):
        assert badly_calibrated([HEALTHY, fault]) is fault
