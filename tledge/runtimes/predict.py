"""Classify single images with any model file, as an app on a device would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.core.errors import ArtefactError
from tledge.data.decode import decode
from tledge.data.labels import read_labels_file
from tledge.data.resizers import resizer_of
from tledge.runs.manifest import read_manifest, verify_reference
from tledge.runs.rundir import RunDir, open_run
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier
from tledge.runtimes.declared import UNDECLARED, Declarations, require_undeclared
from tledge.runtimes.files import require_openable
from tledge.runtimes.registry import is_run
from tledge.runtimes.resize_mode import said_resize_mode


@dataclass(frozen=True)
class Prediction:
    """One image and its classes, best first, as (label, probability in 0..1)."""

    image: Path
    ranking: tuple[tuple[str, float], ...]


def predict(
    model: Path, images: Sequence[Path], top: int = 3, declared: Declarations = UNDECLARED
) -> tuple[Prediction, ...]:
    """Classify images, resized as the file or its run says; for files of other tools, which say nothing, stretched.

    Args:
        model: a .tflite, .onnx, .keras or .h5 file or a SavedModel directory, or a run, whose model is used.
        images: image files of any size.
        top: how many classes to return for each, at least 1.
        declared: about the input and output of a model that tledge did not make.

    Raises:
        ArtefactError: the model cannot be run, it is not known which values it takes for pixels or what it puts out,
            or its labels do not fit its outputs.
        SettingsError: a declaration about another file, or about a run, which needs none.
        RunError: a run, or the model in it, is damaged or was changed.
        DataError: an image cannot be read, or `labels.txt` beside a model that has none.
    """
    if (run := _run_of(model)) is not None:
        require_undeclared(declared)
        manifest = read_manifest(run)
        verify_reference(run, manifest)
        path = run.model if model.is_dir() else model
        classifier = open_classifier(path, MODEL_OF_A_RUN)
        labels = manifest.classes
        where = str(run.manifest)
    else:
        declared.forms.require_known([model])
        require_openable(model)
        path, classifier = model, open_classifier(model, declared.forms.of(model))
        labels = classifier.labels or _labels_beside(model) or tuple(f"class {i}" for i in range(classifier.classes))
        where = f"the file, or {RunDir(model.parent).labels.name} beside it"
    if len(labels) != classifier.classes:
        raise ArtefactError(
            f"expected {classifier.classes} labels for {model}, but found {len(labels)}; correct those in {where}"
        )
    resizer = resizer_of(said_resize_mode(path, classifier) or "stretch")
    predictions = []
    for image in images:
        pixels = decode(image, classifier.image_size_px, resizer)
        probabilities = classifier.predict(pixels[np.newaxis])[0]
        best = np.argsort(-probabilities, kind="stable")[:top]
        predictions.append(Prediction(image, tuple((labels[i], float(probabilities[i])) for i in best)))
    return tuple(predictions)


def _run_of(model: Path) -> RunDir | None:
    """The run, where a model is a run or the Keras model in one."""
    if is_run(model):
        return open_run(model)
    run = RunDir(model.parent)
    return run if run.manifest.is_file() and model in (run.model, run.reference) else None


def _labels_beside(model: Path) -> tuple[str, ...] | None:
    file = RunDir(model.parent).labels
    return read_labels_file(file) if file.is_file() else None
