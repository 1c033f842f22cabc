"""Why does an artefact fail? Its layers, input, output and calibration against the model it was exported from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tledge.conversion.artefacts import RunArtefact, open_artefacts
from tledge.conversion.calibration import Range
from tledge.conversion.kept_calibration import RunCalibrations
from tledge.core.environment import versions
from tledge.core.errors import ArtefactError
from tledge.core.files import sha256_file
from tledge.core.progress import Progress, silent
from tledge.core.records import write_record
from tledge.core.types import Images, Probabilities
from tledge.diagnosis.answers import (
    CLOSE,
    INPUT_TRANSFORMS,
    AnswerFindings,
    Cause,
    Explanation,
    FaultHypotheses,
    Hypothesis,
    distance,
    evenly,
    examine_answers,
)
from tledge.diagnosis.diagnosis_json import DiagnosisFile, MovedImages
from tledge.diagnosis.expected_ranges import calibration_images, expected_ranges
from tledge.diagnosis.layers import LayerError, ReferenceLayers, compare_layers, first_layer_sqnr
from tledge.diagnosis.verdict import most_likely_cause
from tledge.formats.activation_probe import open_probe
from tledge.runs.images import TrainingSamples, run_images
from tledge.runs.manifest import Manifest, read_manifest, verify_run
from tledge.runs.rundir import RunDir, open_run
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier

_LAYER_IMAGES = 16
_FIRST_LAYER_IMAGES = 4
_BATCH = 16


@dataclass(frozen=True)
class Move:
    """`images` validation images that the model calls `expected` and the artefact calls `got`."""

    expected: str
    got: str
    images: int


@dataclass(frozen=True)
class Diagnosis:
    """What was found about one artefact.

    `layers` and `hypotheses` are ranked: the layer that loses most by itself and the best guess stand first. `moves`
    are the validation images that got another class than the model gives them. `distance` (mean total variation) and
    `agreement`, both 0..1, and `row_sum` (median sum of the probabilities) are over `images` calibration images.
    """

    artefact: str
    cause: Cause
    sentence: str
    layers: tuple[LayerError, ...]
    hypotheses: tuple[Hypothesis, ...]
    moves: tuple[Move, ...]
    distance: float
    agreement: float
    row_sum: float
    images: int
    validation_images: int


def diagnose(
    run_path: Path,
    artefact: Path,
    *,
    json_path: Path | None = None,
    data: Path | None = None,
    progress: Progress = silent,
) -> Diagnosis:
    """Find the most likely reason why an artefact answers differently from the model it was exported from.

    The result is kept in the run, if that can be written to, for its report.
    Looks at the images that int8 files are calibrated on and, for the confusion, at the validation images; never at
    test images.

    Args:
        run_path: the run.
        artefact: a .tflite or .onnx file of it.
        json_path: where to write the result as JSON too; None for nowhere else.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, images done, images in all).

    Raises:
        RunError, DataError, ArtefactError: what is to be compared is missing, damaged or of another run.
    """
    run = open_run(run_path, data)
    # Before the model is loaded: what does not belong to the run is refused at once.
    manifest = read_manifest(run)
    _open(run, manifest, artefact)
    result = Examiner(run, manifest).examine(artefact, progress)
    record = DiagnosisFile(
        **{**vars(result), "moves": tuple(MovedImages(**vars(move)) for move in result.moves)},
        sha256=sha256_file(artefact),
        versions=versions(),
    )
    if os.access(run.path, os.W_OK):
        write_record(run.diagnoses / f"{artefact.stem}.json", record)
    if json_path is not None:
        write_record(json_path, record)
    return result


class Examiner:
    """A run's model, loaded once to examine several of its artefacts.

    Raises:
        RunError: the model is not the one that the manifest describes.
    """

    def __init__(self, run: RunDir, manifest: Manifest) -> None:
        verify_run(run, manifest)
        self._run, self._manifest = run, manifest
        self._samples = TrainingSamples(run, manifest)
        self._model, self._layers = open_classifier(run.model, MODEL_OF_A_RUN), ReferenceLayers(run.model)
        self._original = open_classifier(run.reference, MODEL_OF_A_RUN) if run.reference != run.model else self._model
        self._validation = run_images(run, manifest, (manifest.image_size_px, self._original.image_size_px), "val")
        self._calibrations = RunCalibrations(run, manifest, lambda: self._layers.graph, self._samples)

    def examine(self, artefact: Path, progress: Progress = silent) -> Diagnosis:
        """What `diagnose` does, without the JSON file."""
        opened, classifier = _open(self._run, self._manifest, artefact)
        classes = self._manifest.classes
        images, _ = self._samples.take(calibration_images(opened))
        found, expected = _answers(classifier, self._model, images, progress)
        findings = examine_answers(self._model, images, found, expected, FaultHypotheses(classes))
        layers, same_input_db, guesses = self._look_inside(opened, images, findings, progress)
        explanation = most_likely_cause(findings, layers, same_input_db, guesses)
        if classifier.labels is not None and classifier.labels != classes:
            explanation = _wrong_labels(classifier.labels, classes)
        moves, original_distance = self._on_validation(classifier)
        if explanation.cause == "none" and original_distance >= CLOSE:
            explanation = _optimized(original_distance)
        return Diagnosis(
            artefact=opened.name,
            cause=explanation.cause,
            sentence=explanation.sentence,
            layers=tuple(sorted(layers, key=lambda layer: layer.own_sqnr_db)),
            hypotheses=guesses,
            moves=moves,
            distance=findings.distance,
            agreement=findings.agreement,
            row_sum=findings.row_sum,
            images=len(images),
            validation_images=len(self._validation.labels),
        )

    def _look_inside(
        self,
        artefact: RunArtefact,
        images: Images,
        findings: AnswerFindings,
        progress: Progress,
    ) -> tuple[tuple[LayerError, ...], float, tuple[Hypothesis, ...]]:
        """Layers in the order of the model, SQNR of the first convolution, and the hypotheses with theirs."""
        reference = self._layers
        probe = open_probe(artefact.path, reference.names)
        expected: Mapping[str, Range] = {}
        if artefact.is_integer:
            measuring = partial(progress, "ranges")
            expected, _ = expected_ranges(artefact, self._run, self._manifest, self._calibrations, measuring)
        few = images[evenly(len(images), _LAYER_IMAGES)]
        layers = compare_layers(probe, reference, few, expected, partial(progress, "layers"))
        same_input_db, others = first_layer_sqnr(probe, reference, few[:_FIRST_LAYER_IMAGES])
        by_what = {transform.what: db for transform, db in zip(INPUT_TRANSFORMS, others, strict=True)}
        known = findings.hypotheses or tuple(Hypothesis(t.cause, t.what, 1.0, t.advice) for t in INPUT_TRANSFORMS)
        guesses = tuple(replace(guess, first_layer_sqnr_db=by_what.get(guess.what)) for guess in known)
        return layers, same_input_db, guesses

    def _on_validation(self, classifier: ImageClassifier) -> tuple[tuple[Move, ...], float]:
        """Changed classes, and the mean difference of the model from the original it was made from."""
        classes = self._manifest.classes
        everything = np.arange(len(self._validation.labels))
        stores = self._validation.stores
        pixels = stores[self._model.image_size_px].take(everything)
        found, expected = _answers(classifier, self._model, pixels, silent)
        pairs = zip(expected.argmax(axis=1), np.nan_to_num(found).argmax(axis=1), strict=True)
        counts = Counter((int(a), int(b)) for a, b in pairs if a != b)
        moves = tuple(Move(classes[a], classes[b], n) for (a, b), n in counts.most_common())
        away = 0.0
        if self._original is not self._model:
            away = distance(expected, self._original.predict(stores[self._original.image_size_px].take(everything)))
        return moves, away


def _open(run: RunDir, manifest: Manifest, artefact: Path) -> tuple[RunArtefact, ImageClassifier]:
    [(opened, classifier)] = open_artefacts(run, manifest, [artefact])
    found = (classifier.image_size_px, classifier.classes, sorted(classifier.labels or manifest.classes))
    expected = (manifest.image_size_px, len(manifest.classes), sorted(manifest.classes))
    if found != expected:
        raise ArtefactError(
            f"expected size, classes and labels {expected} in {artefact.name}, but found {found}; export it again"
        )
    return opened, classifier


def _answers(
    classifier: ImageClassifier, model: ImageClassifier, images: Images, progress: Progress
) -> tuple[Probabilities, Probabilities]:
    found, expected = [], []
    for start in range(0, len(images), _BATCH):
        progress("answers", start, len(images))
        found.append(classifier.predict(images[start : start + _BATCH]))
        expected.append(model.predict(images[start : start + _BATCH]))
    progress("answers", len(images), len(images))
    return np.concatenate(found), np.concatenate(expected)


def _wrong_labels(found: Sequence[str], classes: Sequence[str]) -> Explanation:
    first = next(index for index, (a, b) in enumerate(zip(found, classes, strict=True)) if a != b)
    return Explanation(
        "permuted-classes",
        f"The labels in the file are the run's in another order (output {first} is {classes[first]}, not "
        f"{found[first]}): an app would show the wrong names; export the file again.",
    )


def _optimized(away: float) -> Explanation:
    return Explanation(
        "optimized-model",
        f"The file answers as the run's model does, but that model differs from its original by {away:.2g} (mean, on "
        "validation images): optimize it less or with more pictures.",
    )
