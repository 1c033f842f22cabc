"""A run whose images went elsewhere: every command is told where with --data, and takes no others for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tledge
from tests.conftest import run_cli
from tledge.core.errors import DataError, RunError
from tledge.core.files import sha256_file
from tledge.data.split import SplitRow
from tledge.runs import images as images_module
from tledge.runs.images import data_root, require_images
from tledge.runs.manifest import read_manifest, read_split
from tledge.runs.rundir import open_run

pytest.importorskip("tensorflow")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a run so far away that its manifest leads to no images."""
    target = tmp_path / "far" / "away" / "run"
    shutil.copytree(finished_run, target)
    (target / "calibration.json").unlink(missing_ok=True)
    return target


@pytest.fixture
def images(digits: Path, tmp_path: Path) -> Path:
    """Its images, elsewhere too."""
    return shutil.copytree(digits, tmp_path / "images")


def first(run: Path, subset: str) -> SplitRow:
    return next(row for row in read_split(open_run(run)) if row.subset == subset)


COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "export": lambda run: (run, "--recipe", "tflite-float32", "--force"),
    "diagnose": lambda run: (run, run / "export" / "onnx-float32.onnx"),
    "kit": lambda run: (run, "-o", run.parent / "kit.zip"),
    "check": lambda run: (run, "--max-drop", "0.2", "--artefact", run / "export" / "tflite-float32.tflite"),
    "optimize": lambda run: (
        run,
        "--size-ratio",
        "2",
        "--pictures",
        "40",
        "--epochs",
        "0",
        "--last-layer",
        "none",
        "--out",
        run.parent / "new",
    ),
}
CALLS: dict[str, Callable[[Path, Path | None], object]] = {
    "export": lambda run, data: tledge.export(run, recipes=["onnx-float32"], force=True, data=data),
    "diagnose": lambda run, data: tledge.diagnose(run, run / "export" / "onnx-float32.onnx", data=data),
    "kit": lambda run, data: tledge.kit(run, run.parent / "kit.zip", data=data),
    "check": lambda run, data: tledge.check(run, data=data),
    "optimize": lambda run, data: tledge.optimize(run, out=run.parent / "new", size_ratio=2, epochs=0, data=data),
    "search": lambda run, data: tledge.search(run, "size < 1 MB", out=run.parent / "new", data=data),
}


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=pytest.mark.slow if name == "optimize" else ()) for name in COMMANDS]
)
def test_every_command_finds_moved_images(command: str, run: Path, images: Path) -> None:
    done = run_cli(command, *COMMANDS[command](run), "--data", images)
    assert done.returncode == 0, done.stderr
    if command == "optimize":  # the new run knows the new place
        new = open_run(run.parent / "new")
        assert data_root(new, read_manifest(new)) == images.resolve()
        assert tledge.export(new.path, recipes=["onnx-float32"]).artefacts


@pytest.mark.parametrize("command", CALLS)
def test_images_that_are_gone_or_wrong_are_named(command: str, run: Path, images: Path) -> None:
    with pytest.raises(RunError, match=r"that folder is gone; restore it, or say with --data DIR where the images are"):
        CALLS[command](run, None)
    row = first(run, {"check": "test", "kit": "test", "search": "val"}.get(command, "train"))
    shutil.copy(images / first(run, "val" if row.subset != "val" else "test").path, images / row.path)
    for says in ("another file than at training", "is gone"):
        with pytest.raises(DataError, match=f"{row.path}.* {says}|{row.path} {says}") as refused:
            CALLS[command](run, images)
        assert "\n" not in str(refused.value)
        (images / row.path).unlink(missing_ok=True)
    assert not (run.parent / "kit.zip").exists()
    assert not (run.parent / "new").exists()


def test_one_line_on_the_command_line(run: Path, images: Path) -> None:
    row = first(run, "test")
    (images / row.path).write_bytes(b"other")
    refused = run_cli("check", run, "--data", images)
    assert refused.returncode == 2
    assert [row.path in line for line in refused.stderr.splitlines() if "expected" in line] == [True]


@pytest.mark.slow
def test_python_calls_take_it_too(run: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--data"):
        tledge.export(run, recipes=["onnx-float32"], force=True)
    before = sha256_file(run / "export" / "onnx-int8.onnx")
    tledge.export(run, recipes=["onnx-int8"], force=True, data=images)
    assert sha256_file(run / "export" / "onnx-int8.onnx") == before
    assert len(tledge.kit(run, tmp_path / "kit.zip", data=images).manifest["images"]) == 6


def test_a_check_knows_its_own_images(run: Path, images: Path, digits: Path) -> None:
    result = tledge.check(run, data=images, max_drop=0.2, on_undecided="pass")
    assert result.images.of_run
    assert result.n == len(read_split(open_run(run), "test"))
    assert not result.notes, "calibration was checked on the training images, which are there too"
    fingerprint = json.loads((run / "check.json").read_text())["data_fingerprint"]
    # The same images under other names are other images.
    for number, folder in enumerate(sorted(images.iterdir())):
        for file in sorted(folder.iterdir()):
            file.rename(file.with_name(f"other-{number}-{file.name}"))
    said = run_cli("check", run, "--data", images, "--max-drop", "0.2", "--on-undecided", "pass")
    assert "not the run's own" in said.stdout
    written = json.loads((run / "check.json").read_text())
    assert written["n"] == len(list(images.glob("*/*")))
    assert written["data_fingerprint"] != fingerprint
    assert "the run's test subset, moved" in run_cli("check", run, "--data", digits).stdout


def test_no_more_images_are_read_than_it_takes_to_know_a_folder(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_run(run)
    rows = read_split(opened, "test")
    read: list[Path] = []
    monkeypatch.setattr(images_module, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    assert images_module.holds_test_images(images, opened)
    assert len(read) == len(rows) // 2 + 1
    for row in rows[: -(-len(rows) // 2)]:  # half of them are others
        (images / row.path).write_bytes(b"another")
    read.clear()
    assert not images_module.holds_test_images(images, opened)
    assert len(read) == -(-len(rows) // 2)


def test_only_what_is_used_is_looked_at(run: Path, images: Path) -> None:
    (images / first(run, "train").path).unlink()
    opened = open_run(run, images)
    manifest = read_manifest(opened)
    require_images(opened, data_root(opened, manifest), read_split(opened, "test"))
    with pytest.raises(DataError, match="is gone"):
        require_images(opened, data_root(opened, manifest), read_split(opened, "train"))


def test_no_folder_is_said_at_once(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none; check --data"):
        tledge.export(run, data=tmp_path / "nowhere")
    refused = run_cli("bench", run, "--data", tmp_path)
    assert refused.returncode == 2
    assert "--data together with --on" in refused.stderr
