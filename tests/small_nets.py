"""VGG16 at 32 px on digits, for tests of what makes it smaller."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.conftest import write_digits
from tledge.compression import ShrinkData
from tledge.core.types import HeadName
from tledge.data.decode import decode
from tledge.data.pixels import PixelStore
from tledge.model import weights
from tledge.model.vgg16 import build

IMAGENET = weights.packaged_trunk()
needs_imagenet = pytest.mark.skipif(IMAGENET is None, reason="the weights extra is not installed")


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


def digits_at_32px(folder: Path) -> ShrinkData:
    """24 digits of three classes to fit on, 12 others to validate."""
    paths = sorted(write_digits(folder, 12).rglob("*.png"))
    labels = np.asarray([["digit 0", "digit 1", "digit 7"].index(path.parent.name) for path in paths])
    indices = np.arange(len(paths))
    held_out = indices % 3 == 0
    store = PixelStore(paths, 32, np.stack([decode(path, 32) for path in paths]))
    return ShrinkData(store, (indices[~held_out], labels[~held_out]), (indices[held_out], labels[held_out]))


def trained(head: HeadName, data: ShrinkData, size: int = 32) -> keras.Model:
    """The real VGG16 with its ImageNet trunk and a head that tells the digits apart."""
    assert IMAGENET is not None
    model = build(3, size, head, weights.resolve(str(IMAGENET)), seed=0)
    trunk = keras.Model(model.input, model.get_layer("block5_pool").output)
    rest = keras.Model(trunk.output, model.output)
    rest.compile(keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    store = PixelStore(data.pixels.paths, size)
    keras.utils.set_random_seed(0)
    rest.fit(trunk(store.take(data.train[0]).astype(np.float32)), data.train[1], epochs=60, verbose=0)
    return model
