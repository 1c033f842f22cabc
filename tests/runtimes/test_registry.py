"""A runtime is added with one module and one line in the registry, as docs/extend/runtime.md says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tledge.core.errors import ArtefactError, SettingsError
from tledge.runtimes import open_classifier, registry
from tledge.runtimes.declared import parse_forms

GUIDE = (Path(__file__).parents[2] / "docs" / "extend" / "runtime.md").read_text()
SIDE, CLASSES = 8, 3


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime of the page: its module, and its line in the registry."""
    module, line = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    path = tmp_path / "linear.py"
    path.write_text(module)
    spec = importlib.util.spec_from_file_location("tledge.runtimes.linear", path)
    assert spec is not None
    assert spec.loader is not None
    linear = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tledge.runtimes.linear", linear)
    spec.loader.exec_module(linear)
    (added,) = eval(f"({line})", {"Runtime": registry.Runtime})
    monkeypatch.setattr(registry, "RUNTIMES", (*registry.RUNTIMES, added))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier that names the colour which is strongest."""
    weights = np.tile(np.eye(3, CLASSES, dtype=np.float32), (SIDE * SIDE, 1))
    path = tmp_path / "model.npz"
    np.savez(path, weights=weights, bias=np.zeros(CLASSES, np.float32), side=SIDE)
    return path


def test_without_the_line_nothing_opens_it(model: Path) -> None:
    with pytest.raises(ArtefactError, match="convert it"):
        open_classifier(model)


@pytest.mark.usefixtures("registered")
def test_a_model_answers_in_the_form_that_people_declare(model: Path) -> None:
    with pytest.raises(ArtefactError, match="--input"):
        open_classifier(model)
    declared = parse_forms(["0..1"], []).of(model)
    images = np.zeros((CLASSES, SIDE, SIDE, 3), np.uint8)
    for channel in range(CLASSES):
        images[channel, ..., channel] = 255
    classifier = open_classifier(model, declared)
    assert classifier.runtime == "linear"
    answers = classifier.predict(images)
    assert answers.argmax(axis=1).tolist() == [0, 1, 2]
    assert answers.sum(axis=1) == pytest.approx(np.ones(CLASSES), abs=1e-6)


@pytest.mark.usefixtures("registered")
def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(b"PK")
    with pytest.raises((ArtefactError, SettingsError), match="write it anew") as caught:
        open_classifier(path)
    assert "\n" not in str(caught.value)
