"""Where a user's own trunks and what may be computed again are kept, by the customs of the operating system."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

_APPLICATION = "tledge"


def data_folder() -> Path:
    """For what must not be lost: `XDG_DATA_HOME/tledge` on Linux."""
    return _found(platformdirs.user_data_path)


def cache_folder() -> Path:
    """For what may be deleted at any time: `XDG_CACHE_HOME/tledge` on Linux."""
    return _found(platformdirs.user_cache_path)


def unpacked_folder() -> Path:
    """Where images that came as arrays are unpacked: in the cache, so they may be gone."""
    return cache_folder() / "images"


def _found(find: Callable[..., Path]) -> Path:
    """A user without a home, as in a container, has a folder that cannot be made, as one whose home is read-only."""
    try:
        return find(_APPLICATION, appauthor=False)
    except RuntimeError:
        return Path(os.devnull) / _APPLICATION
