"""A check without a run: models of any origin, the classes they tell apart, and labelled images for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import ArtefactError, DataError, SettingsError
from tledge.data.names import is_writable
from tledge.evaluation.model_files import measure_files
from tledge.formats.operators import COUNTERS
from tledge.runs.images import CheckImages, as_images, folder_rows
from tledge.runtimes.declared import DeclaredForms
from tledge.runtimes.foreign import ForeignClassifier, open_model


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
    classifier: ForeignClassifier


@dataclass(frozen=True)
class ModelSet:
    """What a check compares, and on what; `images` has its pixels in every size that a model takes."""

    reference: OpenedModel
    artefacts: tuple[OpenedModel, ...]
    classes: tuple[str, ...]
    images: CheckImages


def open_models(reference: Path, artefacts: Sequence[Path], data: Path, labels: Path, forms: DeclaredForms) -> ModelSet:
    """Open a reference and the models to hold against it, and list the images.

    Args:
        reference: a .keras, .onnx or .tflite file, or a SavedModel directory.
        artefacts: at least one other of these.
        data: a folder of labelled images; of a divided one its test/ subfolder.
        labels: a text file of one class name per line, in the order of the models' outputs.
        forms: what is declared about their inputs and outputs.

    Raises:
        SettingsError: no artefact, one twice, or a declaration that is impossible or about no model of the set.
        DataError: labels that are no list of classes, no images, or a folder that is no class.
        ArtefactError: a model cannot be opened, does not fit the labels, or is the reference once more.
    """
    paths = [reference, *artefacts]
    if not artefacts:
        raise SettingsError("expected models to compare with the reference, but got none; add --artefact FILE")
    if repeated := [str(path) for path, times in Counter(paths).items() if times > 1]:
        raise SettingsError(f"expected each model once, but got {repeated[0]} more than once; remove one")
    forms.require_known(paths)
    classes = read_labels_file(labels)
    root, rows = folder_rows(data, classes, f"the classes of {labels.name}")
    shared = Counter(path.name for path in paths)
    names = [path.name if shared[path.name] == 1 else str(path) for path in paths]
    first, *others = (_open(path, name, classes, forms) for path, name in zip(paths, names, strict=True))
    for other in others:
        if other.sha256 == first.sha256:
            raise ArtefactError(
                f"expected another model than the reference, but {other.name} has the same content; a model always "
                "agrees with itself"
            )
    sides = {model.classifier.image_size_px for model in (first, *others)}
    return ModelSet(first, tuple(others), classes, as_images(root, rows, classes, sides))


def _open(path: Path, name: str, classes: tuple[str, ...], forms: DeclaredForms) -> OpenedModel:
    classifier = open_model(path, forms.of(path), classes)
    files = measure_files(path)
    return OpenedModel(path, name, files.sha256, files.size_bytes, _int8_share(path), classifier)


def _int8_share(path: Path) -> float | None:
    count_ops = COUNTERS.get(path.suffix.lower())
    if path.is_dir() or count_ops is None:
        return None
    try:
        return count_ops(path).int8_share
    except (LookupError, ValueError, ZeroDivisionError):
        # The counters know the graphs that tledge writes. A share that is missing is no reason to refuse a check.
        return None


def read_labels_file(path: Path) -> tuple[str, ...]:
    """Read class names, one per line.

    Raises:
        DataError: unreadable, not UTF-8, fewer than two, an empty line, or a name twice.
    """
    try:
        # An editor's byte order mark is no part of the first class.
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(
            f"expected a text file of class names, but {path} cannot be read ({reason}); check --labels"
        ) from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or not is_writable(line):
            raise DataError(f"expected a class name in each line of {path}, but line {number} is {line!r}; correct it")
    if repeated := [name for name, times in Counter(lines).items() if times > 1]:
        raise DataError(f"expected each class once in {path}, but {repeated[0]!r} is there twice; remove one")
    if len(lines) < 2:
        raise DataError(f"expected at least two classes in {path}, but it names only {lines[0]!r}; add the others")
    return tuple(lines)
