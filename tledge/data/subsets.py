"""How people call the folders of training, validation and test images, and those that are no classes at all."""

from __future__ import annotations

import re
from collections.abc import Collection

from tledge.core.types import Subset

_WORDS: dict[str, Subset] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout"), "test"),
}
# Without a test folder, `eval` is what a model is judged on, as Hugging Face reads it too; beside one it is validation.
EVALUATION = frozenset({"eval", "evaluation"})
_FILLERS = frozenset({"set", "sets", "data", "dataset", "images", "image", "imgs", "img", "split", "folder", "samples"})
_JOINED = re.compile(r"(?<=[a-z])(?:sets?|data|images?|imgs?)$")
_NO_CLASSES = frozenset(
    (
        *("annotation", "annotations", "bboxes", "data", "dataset", "image", "images", "img", "imgs", "label"),
        *("labels", "mask", "masks", "photos", "pictures", "segmentation", "segmentations", "trimaps"),
        *("unlabeled", "unlabelled"),
    )
)


def subset_called(name: str) -> Subset | None:
    """The subset that a name stands for: `Train`, `validation`, `test1`, `training_set`; None for any other name."""
    word = _only_word(name)
    return None if word is None else _WORDS.get(word)


def is_evaluation(name: str) -> bool:
    """Whether a name says `eval`, which is validation where there is a test besides."""
    return _only_word(name) in EVALUATION


def subset_within(name: str) -> Subset | None:
    """The one subset whose name is a word of a longer name: `seg_train`, `asl_alphabet_test`."""
    found = {_WORDS[word] for word in _words(name) if word in _WORDS}
    return found.pop() if len(found) == 1 else None


def are_no_classes(names: Collection[str]) -> bool:
    """Whether folders of these names are parts of a data set rather than classes, all of them."""
    plain = [subset_called(name) or (name.casefold() in _NO_CLASSES) for name in names]
    within = [subset_within(name) for name in names]
    return all(plain) or (None not in within and "train" in within and len(set(within)) == len(within) > 1)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_\d]+", name.casefold()) if word]


def _only_word(name: str) -> str | None:
    words = [word for word in _words(name) if word not in _FILLERS]
    if len(words) != 1:
        return None
    return words[0] if words[0] in _WORDS else _JOINED.sub("", words[0])
