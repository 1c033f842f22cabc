"""diagnosis/NAME.json: what was found about one file of a run; read by reports."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from tledge.core.records import UNNUMBERED, Document, Record, read_record
from tledge.diagnosis.answers import Cause, Hypothesis
from tledge.diagnosis.layers import LayerError
from tledge.runs.rundir import RunDir


class MovedImages(Record, frozen=True, kw_only=True):
    """`images` validation images that the model calls `expected` and the file calls `got`."""

    expected: str
    got: str
    images: int


class DiagnosisFile(Document, frozen=True, kw_only=True):
    """One file against the model it was exported from; fields as those of `tledge.diagnosis.diagnose.Diagnosis`."""

    UPGRADES = UNNUMBERED
    REMEDY: ClassVar[str] = "run `tledge diagnose` again"

    artefact: str
    cause: Cause
    sentence: str
    layers: tuple[LayerError, ...]
    hypotheses: tuple[Hypothesis, ...]
    moves: tuple[MovedImages, ...]
    distance: float
    agreement: float
    row_sum: float
    images: int
    validation_images: int
    sha256: str
    versions: dict[str, str]


def read_diagnoses(run: RunDir) -> tuple[DiagnosisFile, ...]:
    """What was found about files of a run, by name; also about files that were exported anew since.

    Raises:
        RunError: one cannot be read.
    """
    return tuple(read_diagnosis(path) for path in sorted(run.diagnoses.glob("[!.]*.json")))


def read_diagnosis(path: Path) -> DiagnosisFile:
    """What was found about one file.

    Raises:
        RunError: it cannot be read.
    """
    return read_record(path, DiagnosisFile)
