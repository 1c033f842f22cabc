"""Pictures without labels: which are taken, and that a small net learns from them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import run_cli
from tests.small_nets import silent
from tledge.compression import Study
from tledge.compression.images import RunImages
from tledge.compression.truncation import features_layer
from tledge.compression.unlabelled import unlabelled_pictures
from tledge.core.errors import DataError
from tledge.runs.images import data_root
from tledge.runs.manifest import read_manifest, read_split
from tledge.runs.rundir import open_run

NOISE = 5


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures in two folders."""
    folder = tmp_path / "pictures"
    for number in range(NOISE):
        file = folder / f"trip {number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(file)
    return folder


def test_what_must_not_or_cannot_be_learned_from_is_left_out(
    finished_run: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_run(finished_run)
    manifest = read_manifest(run)
    for number, row in enumerate(read_split(run, "test")):
        shutil.copy(data_root(run, manifest) / row.path, pictures / f"mine {number}.png")
    shutil.copy(pictures / "trip 0" / "0.png", pictures / "again.png")
    whole = (pictures / "trip 0" / "0.png").read_bytes()
    (pictures / "torn.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.INFO, "tledge"):
        found = unlabelled_pictures(pictures, run, manifest, silent)
    assert len(found.pixels) == NOISE
    assert found.record()["unlabelled"]["images"] == NOISE
    own = len(read_split(run, "test"))
    assert f"{NOISE} pictures in" in caplog.text
    assert f"left out: {own} of the run's own, 1 copy, 1 unreadable" in caplog.text


def test_a_folder_of_the_runs_own_images_is_refused(finished_run: Path) -> None:
    run = open_run(finished_run)
    manifest = read_manifest(run)
    with pytest.raises(DataError, match=r"none is left; left out: .* of the run's own; give a folder of others"):
        unlabelled_pictures(data_root(run, manifest), run, manifest, silent)


@pytest.mark.parametrize("size", [32, 40])
def test_they_are_learned_from_beside_the_runs_own_images(finished_run: Path, pictures: Path, size: int) -> None:
    run = open_run(finished_run)
    manifest = read_manifest(run)
    further = unlabelled_pictures(pictures, run, manifest, silent)
    own, more = RunImages(run, manifest), RunImages(run, manifest, further)
    of_own, of_both = (images.distillation_data(size, 0, silent) for images in (own, more))
    assert len(of_both.train.images) == len(of_both.train.answers) == len(of_own.train.images) + 2 * NOISE
    np.testing.assert_array_equal(of_both.val.images, of_own.val.images)

    study = Study(more.model(), more.data(32), 0, 60)
    train, val = study.teacher_outputs(32, features_layer(more.model()), silent)
    plain, same = Study(own.model(), own.data(32), 0, 60).teacher_outputs(32, features_layer(own.model()), silent)
    np.testing.assert_array_equal(train.images[:-NOISE], plain.images)
    np.testing.assert_array_equal(train.images[-NOISE:], further.pixels.take(range(NOISE)))
    assert study.pictures == 60 + NOISE
    np.testing.assert_array_equal(val.images, same.images)


def test_the_command_line_learns_from_them_and_the_run_says_so(run_copy: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ("optimize", run_copy, "--speedup", "1.3", "--last-layer", "none", "--epochs", "1", "--pictures", "40")
    done = run_cli(*arguments, "--unlabelled", pictures, "--out", tmp_path / "small")
    assert done.returncode == 0, done.stderr
    assert f"unlabelled: {NOISE} pictures in" in done.stderr
    said = json.loads((tmp_path / "small" / "run.json").read_text())["optimization"]["unlabelled"]
    assert said["images"] == NOISE
    refused = run_cli(*arguments, "--unlabelled", tmp_path / "nowhere", "--out", tmp_path / "no")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "does not exist" in refused.stderr
