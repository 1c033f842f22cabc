"""A `tf.data.Dataset` of labelled images, as people have it who have a training script of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.errors import DataError
from tledge.core.types import Labels

if TYPE_CHECKING:
    import tensorflow as tf

_INFINITE = -1
_HOW_TO_MAKE = "make it with `keras.utils.image_dataset_from_directory(folder, label_mode='int')`, or batch it"


def require_labelled(dataset: tf.data.Dataset, what: str) -> None:
    """Check, before slow work, that a data set is what `labelled_batches` can read.

    Args:
        dataset: of batches (images (N, H, W, 3), class indices (N,)).
        what: which one, for the message.

    Raises:
        DataError: it is something else, or has no end.
    """
    spec = getattr(dataset, "element_spec", None)
    if not isinstance(spec, tuple) or len(spec) != 2 or not all(hasattr(part, "shape") for part in spec):
        raise DataError(f"expected {what} as a tf.data.Dataset of (images, labels), but got {spec}; {_HOW_TO_MAKE}")
    images, labels = spec
    if images.shape.rank != 4 or labels.shape.rank != 1 or not labels.dtype.is_integer:
        raise DataError(
            f"expected {what} in batches of images (N, H, W, 3) and class indices (N,), but got {images.shape} "
            f"{images.dtype.name} and {labels.shape} {labels.dtype.name}; {_HOW_TO_MAKE}"
        )
    if int(dataset.cardinality()) == _INFINITE:
        raise DataError(f"expected {what} with an end, but it repeats for ever; leave out `.repeat()`")


def labelled_batches(dataset: tf.data.Dataset) -> Iterator[tuple[NDArray[Any], Labels]]:
    """The batches of a data set as arrays: values as the model takes them, (N, H, W, 3), and class indices (N,)."""
    for images, labels in dataset.as_numpy_iterator():
        yield images, labels.astype(np.int64)


def stratified(dataset: tf.data.Dataset, count: int, classes: int) -> tuple[NDArray[Any], Labels]:
    """At most `count` images, as evenly from all classes as they come.

    Reading ends where every class has its share: in a shuffled data set soon, in one that is sorted by class at its
    end. Where a class has too few, others fill up.

    Args:
        dataset: as for `labelled_batches`.
        count: at least 1.
        classes: number of classes.

    Raises:
        DataError: there are no images.
    """
    share = -(-count // classes)
    taken: list[tuple[NDArray[Any], int]] = []
    spare: list[tuple[NDArray[Any], int]] = []
    having = [0] * classes
    for images, labels in labelled_batches(dataset):
        for image, label in zip(images, labels.tolist(), strict=True):
            if 0 <= label < classes and having[label] < share and len(taken) < count:
                having[label] += 1
                taken.append((image, label))
            elif len(spare) < count:
                spare.append((image, label))
        if len(taken) == count:
            break
    chosen = (taken + spare)[:count]
    if not chosen:
        raise DataError("expected images in the data set, but it is empty; check how it was made")
    return np.stack([image for image, _ in chosen]), np.asarray([label for _, label in chosen], np.int64)
