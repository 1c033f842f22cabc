"""Which test images a page shows, and why: those that files lost or won, and those that models were least sure of."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tledge.core.errors import DataError
from tledge.data.decode import open_rgb
from tledge.runs.check_json import CheckFile
from tledge.runs.predictions import REFERENCE_COLUMN, Answered, Predictions

MOST_CARDS = 240
MOST_UNSURE = 24
_SURE = 0.9
_SIDE_PX = 144
_QUALITY = 62


@dataclass(frozen=True)
class Said:
    """What a model said of an image: the class it named, that class's probability (None where it was not kept)."""

    model: str
    named: str
    probability: float | None
    change: str = ""


@dataclass(frozen=True)
class Card:
    """An image of the page.

    `said` is the reference first, then the files that differ from it. `picture` is a data URI, empty where the file is
    not there (any more). `kinds` are among lost, won and unsure.
    """

    path: str
    label: str
    kinds: tuple[str, ...]
    said: tuple[Said, ...]
    picture: str

    @property
    def models(self) -> tuple[str, ...]:
        """Files that the card is about."""
        return tuple(one.model for one in self.said[1:])


@dataclass(frozen=True)
class Gallery:
    """The images of a page: `changed` of `n_changed` that a file lost or won, and `unsure` ones.

    Of these, which no file lost or won, a model gave the class it named a probability below 0.9. `missing` of the
    images shown were not found in `root`.
    """

    root: Path
    n: int
    n_changed: int
    changed: tuple[Card, ...]
    unsure: tuple[Card, ...]
    missing: int

    @property
    def files(self) -> tuple[str, ...]:
        """Files that are mentioned, for a filter."""
        return tuple(dict.fromkeys(name for card in (*self.changed, *self.unsure) for name in card.models))

    @property
    def classes(self) -> tuple[str, ...]:
        """True classes of the images, for a filter."""
        return tuple(sorted({card.label for card in (*self.changed, *self.unsure)}))


def gallery(root: Path, check: CheckFile, predictions: Predictions) -> Gallery:
    """Choose images and make their thumbnails.

    Where files lost and won more images than a page should hold, each file in turn gives one, lost before won, until
    it is full.

    Args:
        root: where the images are.
        check: the check that the answers belong to.
        predictions: the answers.
    """
    reference = predictions.answers[REFERENCE_COLUMN]
    files = {name: said for name, said in predictions.answers.items() if name != REFERENCE_COLUMN}
    changes = {name: _changes(predictions.labels, reference, said) for name, said in files.items()}
    every = dict.fromkeys(index for lost, won in changes.values() for index in (*lost, *won))
    chosen = _in_turn(list(changes.values()), MOST_CARDS)
    unsure = [index for index in _least_certain(predictions) if index not in every][:MOST_UNSURE]
    changed = tuple(_card(root, predictions, reference, files, index, unsure=False) for index in chosen)
    others = tuple(_card(root, predictions, reference, files, index, unsure=True) for index in unsure)
    missing = sum(not card.picture for card in (*changed, *others))
    return Gallery(root, check.n, len(every), changed, others, missing)


def _changes(labels: Sequence[str], before: Answered, after: Answered) -> tuple[list[int], list[int]]:
    """Images that are lost, and such that are won."""
    hits = [(a == label, b == label) for a, b, label in zip(before.named, after.named, labels, strict=True)]
    lost = [index for index, pair in enumerate(hits) if pair == (True, False)]
    return lost, [index for index, pair in enumerate(hits) if pair == (False, True)]


def _in_turn(changes: Sequence[tuple[list[int], list[int]]], most: int) -> list[int]:
    queues = [iter((*lost, *won)) for lost, won in changes]
    chosen: dict[int, None] = {}
    while queues and len(chosen) < most:
        for queue in list(queues):
            index = next((one for one in queue if one not in chosen), None)
            if index is None:
                queues.remove(queue)
            elif len(chosen) < most:
                chosen[index] = None
    lost_by_any = {index for lost, _ in changes for index in lost}
    return sorted(chosen, key=lambda index: (index not in lost_by_any, index))


def _least_certain(predictions: Predictions) -> list[int]:
    """Images by the least probability that a model gave the class it named (least confidence, Lewis and Gale 1994)."""
    kept = [said.probabilities for said in predictions.answers.values() if len(said.probabilities)]
    if not kept:
        return []
    least = [min(each) for each in zip(*kept, strict=True)]
    return sorted((i for i, value in enumerate(least) if value < _SURE), key=least.__getitem__)


def _card(
    root: Path,
    predictions: Predictions,
    reference: Answered,
    files: Mapping[str, Answered],
    index: int,
    *,
    unsure: bool,
) -> Card:
    label = predictions.labels[index]
    said = [_said(REFERENCE_COLUMN, reference, index)]
    if unsure:
        asked = {name: one for name, one in files.items() if len(one.probabilities)}
        if asked:
            name = min(asked, key=lambda each: asked[each].probabilities[index])
            said.append(_said(name, asked[name], index))
    else:
        said += _flips(label, reference, files, index)
    kinds = ("unsure",) if unsure else tuple(dict.fromkeys(one.change for one in said[1:]))
    return Card(predictions.paths[index], label, kinds, tuple(said), thumbnail(root / predictions.paths[index]))


def _flips(label: str, reference: Answered, files: Mapping[str, Answered], index: int) -> Iterator[Said]:
    before = reference.named[index] == label
    for name, said in files.items():
        if (said.named[index] == label) != before:
            yield _said(name, said, index, "lost" if before else "won")


def _said(name: str, said: Answered, index: int, change: str = "") -> Said:
    probability = said.probabilities[index] if len(said.probabilities) else None
    return Said(name, said.named[index], probability, change)


def thumbnail(path: Path) -> str:
    """A small picture as a data URI; empty where the file is not there or is no image."""
    if not path.is_file():
        return ""
    try:
        image = open_rgb(path, at_least_px=2 * _SIDE_PX)
    except DataError:
        return ""
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    if (enlarged := _SIDE_PX // max(image.size)) > 1:  # of a few pixels each is to be seen
        image = image.resize((image.width * enlarged, image.height * enlarged), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
