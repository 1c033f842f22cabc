"""How pictures have to come to a model file's input: what the file says of it, or the run that it lies in."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from tledge.core.errors import ArtefactError
from tledge.core.types import ResizeMode
from tledge.data.resizers import RESIZE_MODES
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir
from tledge.runtimes import ImageClassifier


def said_resize_mode(path: Path, classifier: ImageClassifier) -> ResizeMode | None:
    """The mode of `tledge.data.resizers` that the model was trained with; None if nobody says it.

    Args:
        path: the file.
        classifier: the same, opened.

    Raises:
        ArtefactError: the file names a mode that there is not.
        RunError: it is a run's Keras model, and the run's manifest is damaged.
    """
    lineage = classifier.lineage()
    if lineage is not None:
        mode = lineage.get("resize", "stretch")
        if mode not in RESIZE_MODES:
            raise ArtefactError(
                f"expected {path.name} to resize by {', '.join(RESIZE_MODES)}, but it says {mode!r}; use the tledge "
                "that wrote it"
            )
        return cast(ResizeMode, mode)
    run = RunDir(path.parent)
    return read_manifest(run).resize if path in (run.model, run.reference) and run.manifest.is_file() else None
