"""history.csv: the numbers of every epoch of a training, or of the trainings of an optimization."""

from __future__ import annotations

import math
from pathlib import Path

from tledge.core.errors import RunError
from tledge.core.records import read_rows

_REMEDY = "remove it, and reports show no curves"
_COLUMNS = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")


def read_history(path: Path) -> list[tuple[str, dict[str, float]]]:
    """Each epoch with its numbers, and the method that it belongs to, empty in a trained run.

    Numbers that are not finite are left out: a training that diverged has such losses. A run without the file, an
    adopted one say, has no epochs.

    Raises:
        RunError: the file is damaged.
    """
    if not path.is_file():
        return []
    _, rows = read_rows(path, ("epoch",), _REMEDY)
    try:
        epochs = [
            (row.get("method", ""), {name: float(row[name]) for name in _COLUMNS if row.get(name)}) for row in rows
        ]
    except ValueError as error:
        raise RunError(f"expected numbers in {path}, but {error}; {_REMEDY}") from None
    return [
        (method, {name: value for name, value in epoch.items() if math.isfinite(value)}) for method, epoch in epochs
    ]
