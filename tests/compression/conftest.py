"""Tests of this room are of the model itself: they take the whole VGG16."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def finished_run(vgg16_run: Path) -> Path:
    return vgg16_run
