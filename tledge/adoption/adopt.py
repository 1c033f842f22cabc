"""Adopt a finished Keras classifier: a run whose reference is that model, so that everything else works on it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tledge.adoption.reference import load_layers, open_layers, reference_model
from tledge.adoption.settings import AdoptSettings
from tledge.core.dependencies import require_installed
from tledge.core.environment import command_line, machine, versions
from tledge.core.errors import ArtefactError, DataError, SettingsError
from tledge.core.files import sha256_file, write_text
from tledge.core.progress import Progress, silent
from tledge.core.types import Images, Labels, Probabilities
from tledge.data.dataset import decode_and_split, numbered, what_was_left_out
from tledge.data.decode import RESIZE_METHOD
from tledge.data.labels import read_labels_file
from tledge.data.listing import Listing
from tledge.data.modality import images_to_train
from tledge.data.pixels import LoadedImages
from tledge.data.resizers import resizer_of
from tledge.data.split import Split, SplitRow, data_fingerprint, stratified_sample
from tledge.model.forward import outputs_of
from tledge.model.saving import save_model
from tledge.runs.manifest import (
    Manifest,
    TrainingFacts,
    WeightsFacts,
    read_manifest,
    split_digest,
    split_facts,
    write_labels,
    write_manifest,
    write_split,
)
from tledge.runs.rundir import RunDir, new_run, require_vacant
from tledge.runs.unfinished import unfinished
from tledge.runtimes import ImageClassifier, require_labels
from tledge.runtimes.declared import SCALINGS, InputForm, parse_input
from tledge.runtimes.files import measure_files
from tledge.stats.metrics import accuracy

_LOOKED_AT = 100
_FORMS = (*SCALINGS, *(f"bgr,{name}" for name, scaling in SCALINGS.items() if scaling.channels is None))


@dataclass(frozen=True)
class AdoptedRun:
    """A run of an adopted model: its manifest, how the model takes pixels, and what a person should be told."""

    run: RunDir
    manifest: Manifest
    form: str
    notes: tuple[str, ...]


def adopt(model: Path, data: Path, settings: AdoptSettings, out: Path, progress: Progress = silent) -> AdoptedRun:
    """Write a new run around a finished model.

    Its reference takes RGB pixels of 0..255 and gives probabilities: the declared scaling is put in front of the model,
    a softmax behind logits, and one sigmoid becomes two classes. Nothing appears at `out` before the run is whole.

    Args:
        model: a `.keras` or `.h5` file of Keras 3 or Keras 2, or a SavedModel directory of Keras 2; functional or
            sequential, for RGB images.
        data: a folder of labelled images; its train, val and test folders are taken as such.
        settings: what the file does not say.
        out: where the run goes.
        progress: called with (what is going on, steps done, steps in all).

    Raises:
        ArtefactError: no such model, not a classifier of RGB images with its layers, or something that nobody
            says.
        SettingsError: what is said contradicts itself or the model, which guesses where another form would be right.
        DataError: the images cannot be used, or the model guesses on them whatever the form.
        RunError: something is at `out` already, or another command is about to write it.
    """
    require_vacant(out)
    require_installed("tensorflow")
    with unfinished(out):
        return _adopted(model, data, settings, out, progress)


def _adopted(model: Path, data: Path, settings: AdoptSettings, out: Path, progress: Progress) -> AdoptedRun:
    started = time.perf_counter()
    listing = images_to_train(data, settings.labels_from)
    classifier = open_layers(model, settings.declaration(model))
    classes, listing = _classes(listing, classifier, settings.labels)
    layers = load_layers(model, classifier.form)
    reference = reference_model(layers, classifier.form, is_single_score=classifier.is_single_score)
    resizer = resizer_of(settings.resize)
    images, split = decode_and_split(listing, classifier.image_size_px, settings, progress, resizer)
    # A sample over all classes and subsets: enough to tell an answer from a guess.
    sample = stratified_sample([row.label for row in split.rows], _LOOKED_AT, settings.seed)
    pixels, labels = _taken(images, [split.rows[index] for index in sample], classes)
    answers = np.asarray(outputs_of(reference, pixels), np.float32)
    _require_better_than_guessing(classifier, answers, pixels, labels)
    val_pixels, val_labels = _taken(images, [row for row in split.rows if row.subset == "val"], classes)
    val_answers = np.asarray(outputs_of(reference, val_pixels), np.float32)
    with new_run(out) as run:
        save_model(reference, run.model)
        write_split(run, split.rows)
        write_labels(run, classes)
        write_text(run.history, "epoch,loss,accuracy,val_loss,val_accuracy\n")
        digest = sha256_file(run.model)
        write_manifest(
            run,
            Manifest(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                command=command_line("tledge.adopt"),
                versions=versions(),
                machine=machine(),
                seed=settings.seed,
                origin="adopted",
                technique=None,
                head=None,
                settings={
                    **{key: value for key, value in asdict(settings).items() if key != "labels"},
                    "labels": None if settings.labels is None else str(settings.labels),
                    "form": str(classifier.form),
                    "model": model.name,
                },
                classes=classes,
                image_size_px=classifier.image_size_px,
                resize_method=RESIZE_METHOD,
                resize=settings.resize,
                data_root=os.path.relpath(listing.root.resolve(), out.resolve()),
                data_fingerprint=data_fingerprint(split.rows),
                split_sha256=split_digest(split.rows),
                split=split_facts(split, settings.val_fraction, settings.test_fraction),
                weights=WeightsFacts(
                    requested=model.name, source=f"adopted from {model.name}", digest=measure_files(model).sha256
                ),
                training=TrainingFacts(
                    epochs=0,
                    best_epoch=0,
                    val_accuracy=accuracy(val_answers, val_labels).value,
                    val_loss=None,
                    trainable_parameters=0,
                    prefix_images=0,
                    prefix_cached=0,
                    prefix_seconds=0.0,
                ),
                timings_s={"adopt": round(time.perf_counter() - started, 3)},
                model_sha256=digest,
                reference_sha256=digest,
                parent=None,
                optimization=None,
            ),
        )
    return AdoptedRun(RunDir(out), read_manifest(RunDir(out)), str(classifier.form), _notes(listing, images, split))


def _classes(listing: Listing, classifier: ImageClassifier, path: Path | None) -> tuple[tuple[str, ...], Listing]:
    """The class of every output, in order, and the images with classes spelled so."""
    classes = listing.classes if path is None else read_labels_file(path)
    listing = listing.called(classes)
    if path is None and len(classes) != classifier.classes:
        raise ArtefactError(
            f"expected one folder of images for each of the {classifier.classes} classes of {classifier.form.name}, "
            f"but the data has {len(classes)} ({', '.join(classes[:8])}); correct the data, or name the classes in the "
            "order of the outputs with --labels"
        )
    require_labels(classifier, classes)
    if missing := sorted(set(classes) ^ set(listing.classes)):
        raise SettingsError(
            f"expected the same names in --labels and as folders of the data, but {', '.join(missing[:8])} are in one "
            "alone; correct the file"
        )
    return classes, listing


def _taken(images: LoadedImages, rows: Sequence[SplitRow], classes: Sequence[str]) -> tuple[Images, Labels]:
    indices, labels = numbered(images, rows, classes)
    return images.pixels.take(indices), labels


def _guesses(answers: Probabilities, labels: Labels) -> bool:
    """Whether the answers are not shown to be better than naming the most frequent class."""
    return bool(accuracy(answers, labels).low <= np.bincount(labels).max() / len(labels))


def _require_better_than_guessing(
    classifier: ImageClassifier, answers: Probabilities, pixels: Images, labels: Labels
) -> None:
    """Refuse a model that guesses on its own data, and say which form of pixels would make it right.

    Raises:
        SettingsError: another form would.
        DataError: none would.
    """
    if not _guesses(answers, labels):
        return
    found, name = accuracy(answers, labels), classifier.form.name
    wrong = f"{name} is right in {found.value:.3f} of {found.n} images, which is no better than a guess"
    others = {form: _with_form(classifier, parse_input(form)).predict(pixels) for form in _FORMS}
    best = max(others, key=lambda form: accuracy(others[form], labels).value)
    if not _guesses(others[best], labels):
        raise SettingsError(
            f"expected the pixels that the model was trained on, but as {classifier.form} {wrong}; with --input={best} "
            f"it is right in {accuracy(others[best], labels).value:.3f}: pass that"
        )
    raise DataError(
        f"expected a model that tells the classes apart, but {wrong}, and no other --input makes it better; correct "
        "the order of --labels, or the images"
    )


def _with_form(classifier: ImageClassifier, form: InputForm) -> ImageClassifier:
    """The same model, fed in another form."""
    assert form.scaling is not None  # all of `_FORMS` have one
    channels = form.channels or form.scaling.channels or "rgb"
    other = copy(classifier)
    other.form = replace(classifier.form, scaling=form.scaling, channels=channels)
    return other


def _notes(listing: Listing, images: LoadedImages, split: Split) -> tuple[str, ...]:
    notes = what_was_left_out(listing, images, split)
    if any(file.subset is not None for file in listing.files):
        return notes
    return (
        "the data has no train, val and test folders, so images that the model was trained on are among the test "
        "images and flatter its accuracy; differences between the model and its files are not affected",
        *notes,
    )
