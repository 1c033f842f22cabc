"""Choosing what to transfer from, as Python calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tledge.core.types import ComputeType

if TYPE_CHECKING:
    from tledge.model.user_trunks import UserTrunk
    from tledge.selection.select import ImageSelection, TextSelection


def select(
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    image_size: int = 224,
    images: int = 128,
    candidates: Sequence[str] = (),
    compute: ComputeType = "float32",
    seed: int = 0,
) -> ImageSelection | TextSelection:
    """Say which pre-trained model suits the data, and write select.json to `out`.

    See `tledge.selection.select.select`.
    """
    from tledge.selection.select import SelectSettings
    from tledge.selection.select import select as stage
    from tledge.selection.select_json import write_selection

    settings = SelectSettings(image_size, images, tuple(candidates), compute, seed)
    found = stage(Path(data), settings, lambda *_: None)
    if out is not None:
        write_selection(Path(out), found)
    return found


def add_weights(name: str, file: str | os.PathLike[str], *, domain: str = "", licence: str = "") -> UserTrunk:
    """Register a VGG16 trunk of your own under a name. See `tledge.model.weights.add_trunk`."""
    from tledge.model.weights import add_trunk

    return add_trunk(name, Path(file), domain=domain, licence=licence)
