"""Classify single images with any model file, as an app on a device would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tledge.core.errors import ArtefactError
from tledge.data.decode import decode
from tledge.runs.rundir import RunDir
from tledge.runtimes import MODEL_OF_A_RUN, NOTHING_DECLARED, open_classifier


@dataclass(frozen=True)
class Prediction:
    """One image and its classes, best first, as (label, probability in 0..1)."""

    image: Path
    ranking: tuple[tuple[str, float], ...]


def predict(model: Path, images: Sequence[Path], top: int = 3) -> tuple[Prediction, ...]:
    """Classify images.

    Args:
        model: a .tflite, .onnx or .keras file that says itself how it takes pixels, or a run, whose model is used.
        images: image files of any size.
        top: how many classes to return for each, at least 1.

    Raises:
        ArtefactError: the model cannot be run, it is not known which values it takes for pixels, or its labels do not
            fit its outputs.
        DataError: an image cannot be read.
    """
    path, declared = (RunDir(model).model, MODEL_OF_A_RUN) if model.is_dir() else (model, NOTHING_DECLARED)
    classifier = open_classifier(path, declared)
    labels = classifier.labels or _labels_beside(path) or tuple(f"class {i}" for i in range(classifier.classes))
    if len(labels) != classifier.classes:
        raise ArtefactError(
            f"expected {classifier.classes} labels for {path}, but found {len(labels)}; export it again"
        )
    predictions = []
    for image in images:
        pixels = decode(image, classifier.image_size_px)
        probabilities = classifier.predict(pixels[np.newaxis])[0]
        best = np.argsort(-probabilities, kind="stable")[:top]
        predictions.append(Prediction(image, tuple((labels[i], float(probabilities[i])) for i in best)))
    return tuple(predictions)


def _labels_beside(model: Path) -> tuple[str, ...] | None:
    file = RunDir(model.parent).labels
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else None
    except UnicodeDecodeError:
        raise ArtefactError(f"expected UTF-8 in {file}, but it is something else; save it as UTF-8") from None
