"""Ask models about images: a reference and candidates about the same ones, in one pass, also resized in other ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from tledge.core.cluster import HERE, Calls
from tledge.core.errors import SettingsError
from tledge.core.image_size import height_width
from tledge.core.progress import Progress, Steps, silent_steps
from tledge.core.types import Labels, Probabilities
from tledge.data.decode import stored_size
from tledge.data.resizers import other_resizers
from tledge.evaluation.candidates import Candidate
from tledge.evaluation.settings import CheckSettings
from tledge.runs.images import CheckImages, ImageSet
from tledge.runtimes import ImageClassifier

_BATCH = 16
_MOST_BATCHES_OF_A_PART = 16
_PARTS_PER_WORKER = 4


@dataclass(frozen=True)
class Answers:
    """Probabilities (N, C) of the reference and of each candidate, images in the same order.

    `resized` are class indices (N,) to the same images resized in other ways, by the way's name: of the reference, then
    of each candidate; empty where that was not asked for.
    """

    reference: Probabilities
    candidates: tuple[Probabilities, ...]
    resized: Mapping[str, tuple[Labels, ...]] = field(default_factory=dict)


def answer(
    reference: ImageClassifier,
    candidates: Sequence[Candidate],
    images: ImageSet,
    progress: Steps,
    calls: Calls = HERE,
) -> Answers:
    """Ask every model about every image in one pass; only answers are kept, so memory does not grow with pixels.

    With several workers each answers parts of whole batches: a model may round otherwise in a batch of another size.
    """
    classifiers = [reference, *(candidate.classifier for candidate in candidates)]
    if calls.workers == 1:
        first, *others = _answers_of(classifiers, images, progress)
        return Answers(first, tuple(others))
    batches = -(-images.n // _BATCH)
    size = _BATCH * max(1, min(_MOST_BATCHES_OF_A_PART, batches // (_PARTS_PER_WORKER * calls.workers)))
    parts = [(classifiers, images.part(start, start + size)) for start in range(0, images.n, size)]
    found = calls.map(_answers_of, parts, lambda done, _: progress(min(done * size, images.n), images.n))
    first, *others = (np.concatenate(answers) for answers in zip(*found, strict=True))
    return Answers(first, tuple(others))


def _answers_of(
    classifiers: Sequence[ImageClassifier], images: ImageSet, progress: Steps = silent_steps
) -> list[Probabilities]:
    found: list[list[Probabilities]] = [[] for _ in classifiers]
    done = 0
    for batch in images.batches(_BATCH):
        for answers, classifier in zip(found, classifiers, strict=True):
            answers.append(classifier.predict(batch[classifier.image_size_px]))
        done += len(found[0][-1])
        progress(done, images.n)
    return [np.concatenate(answers) for answers in found]


def _asks_for_resizing(settings: CheckSettings, candidates: Sequence[Candidate]) -> bool:
    return settings.resize_robustness or any("max_resize_drop" in each.limits for each in candidates)


def require_resizing(settings: CheckSettings, candidates: Sequence[Candidate], images: CheckImages) -> None:
    """Refuse to ask for other ways to resize, before slow work, where all of them give the same pixels.

    Raises:
        SettingsError: it is asked for, and all images have the models' size already.
    """
    if not _asks_for_resizing(settings, candidates):
        return
    for size, store in images.stores.items():
        if any(stored_size(path) != height_width(size) for path in store.paths):
            return
    raise SettingsError(
        f"expected images of another size than the models take, to be resized in other ways, but all {images.n:,} in "
        f"{images.root} have it already; leave --resize-robustness and resize_drop out, or pass larger ones with --data"
    )


def images_resized(
    settings: CheckSettings, candidates: Sequence[Candidate], images: CheckImages
) -> Mapping[str, ImageSet]:
    """The images resized in other ways, by the way's name; none where that is not asked for."""
    if not _asks_for_resizing(settings, candidates):
        return {}
    return {way: images.resized_by(resizer) for way, resizer in other_resizers(images.mode).items()}


def answer_labelled(
    reference: ImageClassifier,
    candidates: Sequence[Candidate],
    images: CheckImages,
    settings: CheckSettings,
    progress: Progress,
    calls: Calls = HERE,
) -> Answers:
    """Ask every model about every labelled image, and where that is asked for once more for each way to resize."""
    answers = answer(reference, candidates, images, partial(progress, "checking"), calls)
    resized = {}
    for way, same in images_resized(settings, candidates, images).items():
        found = answer(reference, candidates, same, partial(progress, f"resizing: {way}"), calls)
        resized[way] = tuple(np.asarray(each.argmax(axis=1)) for each in (found.reference, *found.candidates))
    return replace(answers, resized=resized)
