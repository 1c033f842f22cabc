"""The check without a run: any reference and any files, so that a pipeline can guard an existing app."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tledge.core.cluster import ALONE, ClusterSettings, connected
from tledge.core.errors import ArtefactError, RunError, SettingsError
from tledge.core.progress import Progress, silent
from tledge.core.types import ResizeMode
from tledge.data.label_source import FOLDERS, DataSettings
from tledge.data.labels import read_labels_file
from tledge.evaluation.baseline import read_baseline
from tledge.evaluation.candidates import Candidate, arena_if_asked, taken_by
from tledge.evaluation.comparison import compare_all
from tledge.evaluation.files import write_check
from tledge.evaluation.results import CheckResult
from tledge.evaluation.settings import STRICT, CheckSettings
from tledge.runs.images import CheckImages, as_images, folder_rows, unlabelled_images
from tledge.runs.rundir import RunDir
from tledge.runtimes import ImageClassifier, open_classifier, require_labels
from tledge.runtimes.declared import UNDECLARED, Declarations, DeclaredForms
from tledge.runtimes.files import count_operators, require_openable
from tledge.runtimes.options import DEFAULT_OPTIONS, RuntimeOptions
from tledge.runtimes.providers import require_provider
from tledge.runtimes.resize_mode import said_resize_mode


@dataclass(frozen=True)
class OpenedModel:
    """One model of a set.

    `name` is that of its file, or the whole path where two files share the name. `size_bytes` counts weights in files
    of their own. `int8_share` is the share, 0..1, of operators that compute on 8-bit integers; None for a format
    whose operators tledge does not count, or a graph that it cannot.
    """

    path: Path
    name: str
    sha256: str
    size_bytes: int
    int8_share: float | None
    classifier: ImageClassifier


@dataclass(frozen=True)
class ModelSet:
    """What a check compares, and on what; `images` has its pixels in every size that a model takes."""

    reference: OpenedModel
    artefacts: tuple[OpenedModel, ...]
    classes: tuple[str, ...]
    images: CheckImages


def check_models(
    reference: Path,
    artefacts: Sequence[Path],
    data: Path,
    labels: Path,
    declared: Declarations = UNDECLARED,
    settings: CheckSettings = STRICT,
    *,
    reading: DataSettings = FOLDERS,
    out: Path | None = None,
    cluster: ClusterSettings = ALONE,
    progress: Progress = silent,
) -> CheckResult:
    """Compare model files with a reference on labelled images.

    Args:
        reference: a .keras, .h5, .onnx or .tflite file, or a SavedModel directory.
        artefacts: at least one other of these.
        data: a folder of labelled images; of a divided one its test/ subfolder.
        labels: class names, one per line, in the order of the models' outputs.
        declared: about their inputs and outputs.
        settings: limits and what to do with undecided ones.
        reading: how the classes of the images are told.
        out: a folder for `check.json` and `predictions.csv`; None to write nothing.
        cluster: whose machines share the images.
        progress: called with (what, images done, images in all).

    Raises:
        SettingsError, DataError, ArtefactError, RunError: something does not fit; nothing is written.
    """
    settings.require_evidence()
    if "max_latency_ratio" in settings.limits:
        raise SettingsError(
            "expected gates that need no run, but got max_latency_ratio, which reads the run's bench.json; leave it "
            "out and compare latencies with `tledge bench FILE...`"
        )
    if out is not None:
        _require_folder(out)
    accepted = None if settings.baseline is None else read_baseline(settings.baseline)
    require_provider(settings.provider)
    found = open_models(reference, artefacts, data, labels, declared.forms, settings.provider, reading)
    computed = [taken_by(settings.provider, model.name, model.classifier) for model in found.artefacts]
    candidates = [_candidate(model, settings) for model in found.artefacts]
    first = found.reference
    folder = RunDir(Path(os.curdir) if out is None else out)
    unlabelled = None
    if settings.unlabelled is not None:
        known = dict.fromkeys(found.images.digests, "labelled")
        unlabelled = unlabelled_images(settings.unlabelled, known, found.images.stores, found.images.mode)
    with connected(cluster) as calls:
        result = compare_all(
            folder,
            first.classifier,
            first.sha256,
            candidates,
            found.images,
            unlabelled,
            found.classes,
            settings,
            accepted,
            progress,
            calls,
        )
    result = replace(result, notes=(*result.notes, *filter(None, computed)))
    if out is not None:
        write_check(result)
    return result


def _candidate(model: OpenedModel, settings: CheckSettings) -> Candidate:
    limits = settings.limits_of({})
    return Candidate(
        name=model.name,
        path=model.path,
        sha256=model.sha256,
        size_bytes=model.size_bytes,
        classifier=model.classifier,
        limits=limits,
        int8_share=model.int8_share,
        arena_bytes=arena_if_asked(model.path, limits),
    )


def _require_folder(out: Path) -> None:
    """A folder of an earlier check is written over; nothing else is."""
    folder = RunDir(out)
    if folder.manifest.is_file():
        raise RunError(f"expected a folder for the check, but {out} is a run; choose another --out")
    known = {folder.check.name, folder.predictions.name}
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= known):
        raise RunError(
            f"expected a new folder or that of an earlier check, but {out} holds something else; choose another"
        )
    if not os.access(out.absolute().parent, os.W_OK) and not out.exists():
        raise RunError(f"expected to make the folder {out}, but its parent cannot be written to; choose another --out")


def open_models(
    reference: Path,
    artefacts: Sequence[Path],
    data: Path,
    labels: Path,
    forms: DeclaredForms,
    provider: str | None = None,
    reading: DataSettings = FOLDERS,
) -> ModelSet:
    """Open a reference and the models to hold against it, and list the images.

    Args:
        reference: a .keras, .h5, .onnx or .tflite file, or a SavedModel directory.
        artefacts: at least one other of these.
        data: a folder of labelled images; of a divided one its test/ subfolder.
        labels: a text file of one class name per line, in the order of the models' outputs.
        forms: what is declared about their inputs and outputs.
        provider: what computes the artefacts, None for their runtimes' own choice.
        reading: how the classes of the images are told.

    Raises:
        SettingsError: no artefact, one twice, or a declaration that is impossible or about no model of the set.
        DataError: labels that are no list of classes, no images, or a folder that is no class.
        ArtefactError: a model cannot be opened, does not fit the labels, or is the reference once more, or they
            were trained on pictures resized in different ways.
    """
    paths = [reference, *artefacts]
    if not artefacts:
        raise SettingsError("expected models to compare with the reference, but got none; add --artefact FILE")
    if repeated := [str(path) for path, times in Counter(paths).items() if times > 1]:
        raise SettingsError(f"expected each model once, but got {repeated[0]} more than once; remove one")
    forms.require_known(paths)
    classes = read_labels_file(labels)
    root, rows = folder_rows(data, classes, f"the classes of {labels.name}", reading)
    shared = Counter(path.name for path in paths)
    names = [path.name if shared[path.name] == 1 else str(path) for path in paths]
    first = _open(reference, names[0], classes, forms, DEFAULT_OPTIONS)
    options = RuntimeOptions(provider=provider or "")
    others = [_open(path, name, classes, forms, options) for path, name in zip(artefacts, names[1:], strict=True)]
    for other in others:
        if other.sha256 == first.sha256:
            raise ArtefactError(
                f"expected another model than the reference, but {other.name} has the same content; a model always "
                "agrees with itself"
            )
    sides = {model.classifier.image_size_px for model in (first, *others)}
    mode = _only_mode([first, *others])
    return ModelSet(first, tuple(others), classes, as_images(root, rows, classes, sides, mode))


def _only_mode(models: Sequence[OpenedModel]) -> ResizeMode:
    """How pictures come to all of them: as those say that say it, else stretched."""
    said = {model.name: said_resize_mode(model.path, model.classifier) for model in models}
    modes = sorted({mode for mode in said.values() if mode is not None})
    if len(modes) > 1:
        told = ", ".join(f"{name} {mode}" for name, mode in said.items() if mode is not None)
        raise ArtefactError(
            f"expected models that were trained on pictures resized in one way, but they say {told}; check those "
            "of one way at a time"
        )
    return modes[0] if modes else "stretch"


def _open(
    path: Path, name: str, classes: tuple[str, ...], forms: DeclaredForms, options: RuntimeOptions
) -> OpenedModel:
    files = require_openable(path)
    classifier = open_classifier(path, forms.of(path), options=options)
    assert files is not None, "what is not there cannot be opened"
    require_labels(classifier, classes)
    ops = count_operators(path)
    share = None if ops is None else ops.int8_share
    return OpenedModel(path, name, files.sha256, files.size_bytes, share, classifier)
