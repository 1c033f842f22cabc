"""Learned activation ranges on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tledge.core.errors import RunError
from tledge.core.types import Json
from tledge.model.ranges import ActivationRanges, read_ranges, write_ranges

GOOD: Json = {
    "schema_version": 1,
    "source": "qat",
    "bits": 8,
    "activations": {"fc1": {"min": 0.0, "max": 2.5}, "prediction": {"min": -1.0, "max": 1.0}},
}


def test_ranges_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "quantization.json"
    ranges = ActivationRanges({"fc1": (0.0, 2.5), "prediction": (-1.0, 1.0)})
    write_ranges(path, ranges)
    assert json.loads(path.read_text()) == GOOD
    assert read_ranges(path) == ranges


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"activations": {"fc1": {"min": 0.0}}}, "expected activations.fc1.max as a number in {}, but it is missing"),
        (
            {"activations": {"fc1": {"min": 0.0, "max": "1"}}},
            "activations.fc1.max as a number in {}, but got '1'; opti",
        ),
        ({"bits": 4}, "expected bits as 8 in {}, but got 4; optimize again"),
        ({"schema_version": 0}, "expected schema version 1 in {}, but it says 0; use the tledge that wrote it, or opt"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, change: Json, says: str) -> None:
    path = tmp_path / "quantization.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(RunError) as caught:
        read_ranges(path)
    assert says.replace("{}", str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)
