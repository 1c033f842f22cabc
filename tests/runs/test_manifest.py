"""run.json: read whole, or refused with the field that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tledge.core.errors import RunError
from tledge.core.types import Json
from tledge.runs.manifest import optimizations, read_manifest
from tledge.runs.rundir import RunDir

MANIFEST: Json = {
    "schema_version": 1,
    "created": "2026-11-26T12:00:00+00:00",
    "command": "tledge train photos",
    "versions": {"tledge": "0.1.0"},
    "machine": {"cpu": "c", "cpu_flags": [], "architecture": "x86_64", "cores": 2, "memory_gb": 4, "system": "Linux"},
    "seed": 0,
    "technique": "freeze",
    "head": "flatten",
    "settings": {"epochs": 3},
    "classes": ["a", "b"],
    "image_size_px": 32,
    "resize_method": "bilinear",
    "data_root": "../photos",
    "data_fingerprint": "f",
    "split": {
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "images": {"train": 6, "val": 2, "test": 2},
        "images_per_class": {"train": {"a": 3, "b": 3}, "val": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}},
        "dropped": [],
    },
    "weights": {"requested": "imagenet", "source": "keras", "digest": "d"},
    "training": {
        "epochs": 3,
        "best_epoch": 2,
        "val_accuracy": 1,
        "val_loss": 0.1,
        "trainable_parameters": 10,
        "prefix_images": 8,
        "prefix_cached": 0,
        "prefix_seconds": 0.1,
    },
    "timings_s": {"train": 1.5},
    "model_sha256": "m",
    "reference_sha256": "r",
    "parent": None,
    "optimization": None,
}


def run_with(folder: Path, change: Callable[[Json], object]) -> RunDir:
    content = json.loads(json.dumps(MANIFEST))
    change(content)
    (folder / "run.json").write_text(json.dumps(content))
    return RunDir(folder)


def test_optimizations_are_told_oldest_first(tmp_path: Path) -> None:
    first, second = {"method": "prune", "sparsity": 0.5}, {"method": "qat"}
    original = {"path": "../run", "model_sha256": "m", "optimization": None, "parent": None}
    before = {"path": None, "model_sha256": None, "optimization": first, "parent": original}
    run = run_with(tmp_path, lambda content: content.update(optimization=second, parent=before))
    assert optimizations(read_manifest(run)) == (first, second)
    assert optimizations(read_manifest(run_with(tmp_path, lambda content: None))) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c.pop("seed"),
            "expected seed as a whole number between 0 and 4,294,967,295 in {}, but it is missing; train again",
        ),
        (lambda c: c["split"].pop("images"), "expected split.images as an object in {}, but it is missing; train"),
        (
            lambda c: c["split"]["images_per_class"]["val"].update(b="one"),
            "expected split.images_per_class.val.b as a whole number of at least 0 in {}, but got 'one'; train again",
        ),
        (lambda c: c.update(technique="magic"), "expected technique as "),
        (lambda c: c.update(optimization={"sparsity": 1}), "expected optimization.method as text, but got None in {}"),
        (lambda c: c.pop("schema_version"), "expected schema version 1 in {}, but it has none; use the tledge that"),
        (lambda c: c.update(schema_version=9), "expected schema version 1 in {}, but it says 9; use a newer tledge"),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, change: Callable[[Json], object], says: str) -> None:
    run = run_with(tmp_path, change)
    with pytest.raises(RunError) as caught:
        read_manifest(run)
    assert str(caught.value).startswith(says.replace("{}", str(run.manifest)))
    assert "\n" not in str(caught.value)
