"""Where a user's own trunks and what may be computed again are kept, by the customs of the operating system."""

from __future__ import annotations

from pathlib import Path

import platformdirs

_APPLICATION = "tledge"


def data_folder() -> Path:
    """For what must not be lost: `XDG_DATA_HOME/tledge` on Linux."""
    return platformdirs.user_data_path(_APPLICATION, appauthor=False)


def cache_folder() -> Path:
    """For what may be deleted at any time: `XDG_CACHE_HOME/tledge` on Linux."""
    return platformdirs.user_cache_path(_APPLICATION, appauthor=False)


def unpacked_folder() -> Path:
    """Where images that came as arrays are unpacked: in the cache, so they may be gone."""
    return cache_folder() / "images"
