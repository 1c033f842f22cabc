"""A run in TensorBoard: training curves as scalars over epochs, each file's numbers beside them."""

from __future__ import annotations

from pathlib import Path

from tledge.core.dependencies import require
from tledge.reporting.report import Report
from tledge.reporting.trackers import tracked


def to_tensorboard(report: Report, folder: Path) -> None:
    """Write a run as events into FOLDER/<name of the run>, which `tensorboard --logdir FOLDER` shows.

    Files have one value for each number, at step 0. What was written for a run of this name before is replaced.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
        RunError: history.csv is damaged.
    """
    writer_of = require("tensorboard.summary").Writer
    found = tracked(report)
    target = folder / report.run.path.resolve().name
    before = list(target.glob("events.out.tfevents.*"))
    writer = writer_of(str(target))
    for epoch, numbers in found.epochs:
        for name, number in numbers.items():
            writer.add_scalar(f"training/{name}", number, epoch)
    for file, numbers in found.files.items():
        for name, number in numbers.items():
            writer.add_scalar(f"{name}/{file}", number, 0)
    writer.close()
    for path in before:
        path.unlink()
