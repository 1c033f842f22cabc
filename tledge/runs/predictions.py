"""predictions.csv: which class each model of a check named for each image, and how probable it said that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import RunError
from tledge.core.files import write_csv
from tledge.core.records import read_rows

REFERENCE_COLUMN = "reference"
_PATH, _LABEL = "path", "class"
_REMEDY = "run `tledge check` again"


@dataclass(frozen=True)
class Answered:
    """What one model said, image by image: the class it named and that class's probability, 0..1.

    `probabilities` is empty where the file is from before they were kept.
    """

    named: Sequence[str]
    probabilities: Sequence[float]


@dataclass(frozen=True)
class Predictions:
    """Images by their paths below the check's `data_root`, their true classes, and what each model said of them."""

    paths: Sequence[str]
    labels: Sequence[str]
    answers: Mapping[str, Answered]


def write_predictions(path: Path, content: Predictions) -> None:
    """Write the file: path, class, a column of names for each model, then one of probabilities for each."""
    answers = content.answers
    header = [_PATH, _LABEL, *answers, *map(_probability_column, answers)]
    columns = [one.named for one in answers.values()]
    columns += [[f"{value:.4f}" for value in one.probabilities] for one in answers.values()]
    write_csv(path, header, list(zip(content.paths, content.labels, *columns, strict=True)))


def read_predictions(path: Path) -> Predictions | None:
    """What the last check wrote, None where there is no such file.

    Raises:
        RunError: it is damaged.
    """
    if not path.is_file():
        return None
    columns, rows = read_rows(path, (_PATH, _LABEL, REFERENCE_COLUMN), _REMEDY)
    models = [name for name in columns[2:] if _probability_column(name) in columns]
    models = models or list(columns[2:])  # of a file from before probabilities were kept
    answers = {}
    for name in models:
        probability = _probability_column(name)
        try:
            probabilities = [float(row[probability]) for row in rows if probability in row]
        except ValueError as error:
            raise RunError(f"expected numbers as {probability} in {path}, but {error}; {_REMEDY}") from None
        answers[name] = Answered([row[name] for row in rows], probabilities)
    return Predictions([row[_PATH] for row in rows], [row[_LABEL] for row in rows], answers)


def _probability_column(model: str) -> str:
    return f"p({model})"
