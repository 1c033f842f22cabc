"""What killed processes leave is swept up by the next, and nothing of those that live."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import run_cli, run_process
from tests.runtimes.test_hostile_models import classifier
from tledge.core.files import held, remove_stale, write_bytes, write_zip
from tledge.data.archives import unpack
from tledge.runs.rundir import new_run

pytest.importorskip("fcntl", reason="there are no such locks")

_WAITING = """
import sys, tempfile
from tledge.core.temporary import gather
gather()
with tempfile.NamedTemporaryFile(delete=False):
    print(tempfile.gettempdir(), flush=True)
sys.stdin.read()
"""
NOBODY = 999_999_999


def waiting(place: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITING],
        env={**os.environ, "TMPDIR": str(place), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_temporary_files_of_killed_processes_are_swept_up(tmp_path: Path) -> None:
    (tmp_path / "tledge-notes").mkdir()
    (tmp_path / "tledge-notes" / "mine").write_text("")
    (tmp_path / "tledge-process-link").symlink_to(tmp_path / "tledge-notes")
    (tmp_path / "tledge-process-killed").mkdir()  # before it was locked
    killed, left = waiting(tmp_path)
    living, own = waiting(tmp_path)
    try:
        assert left.parent == own.parent == tmp_path
        killed.kill()
        killed.communicate()
        assert len([*left.iterdir()]) == 1
        assert run_process("--version", env={"TMPDIR": str(tmp_path)}).returncode == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [own.name, "tledge-notes", "tledge-process-link"]
        )
        assert len([*own.iterdir()]) == 1
    finally:
        living.communicate()
    assert not own.exists()


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_without_a_place_for_temporary_files_commands_begin(place: str, tmp_path: Path) -> None:
    """Python then takes another place, or says that there is none, where one is needed."""
    (tmp_path / "file").write_text("")
    there = tmp_path / "file" if not place else tmp_path / place
    assert run_process("--version", cwd=tmp_path, env={"TMPDIR": str(there)}).returncode == 0


def test_a_file_is_written_over_what_killed_writers_left(tmp_path: Path) -> None:
    for name in ("kit[1].zip", "kit1.zip", "other"):
        (tmp_path / f".{name}.partial-{NOBODY}").write_bytes(b"half")
    write_bytes(tmp_path / "kit[1].zip", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f".kit1.zip.partial-{NOBODY}",
        f".other.partial-{NOBODY}",
        "kit[1].zip",
    ]
    write_zip(tmp_path / "kit1.zip", {"a": b"b"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".other.partial-{NOBODY}", "kit1.zip", "kit[1].zip"]


def test_what_another_machine_writes_is_no_leftover(tmp_path: Path) -> None:
    """Its process numbers mean nothing here; the lock does."""
    for name in (f".a.partial-{NOBODY}", f".b.partial-{NOBODY}"):
        (tmp_path / name).mkdir()
    with held(tmp_path / f".a.partial-{NOBODY}"):
        remove_stale(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [f".a.partial-{NOBODY}"]
    remove_stale(tmp_path)
    assert not [*tmp_path.iterdir()]


def test_unpacking_sweeps_up_after_a_killed_one(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((4, 8, 8), np.uint8), y=np.array([0, 1, 0, 1]))
    folder = unpack(path)
    left = folder.parent / f".0123.partial-{NOBODY}"
    (left / "0").mkdir(parents=True)
    np.savez(path, x=np.ones((4, 8, 8), np.uint8), y=np.array([0, 1, 0, 1]))
    unpack(path)
    assert not left.exists()


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_files_have_the_modes_that_the_user_wants(mask: int, tmp_path: Path) -> None:
    """What is written under another name first, or in a temporary folder, must not keep that one's mode."""
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 8, 8), np.uint8), y=np.array([0, 1]))
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "folder" / "a", b"a")
        write_zip(tmp_path / "b", {"a": b"b"})
        with new_run(tmp_path / "run") as run:
            write_bytes(run.manifest, b"{}")
        unpacked = unpack(tmp_path / "x.npz")
    finally:
        os.umask(before)
    files = [tmp_path / "folder/a", tmp_path / "b", tmp_path / "run/run.json", unpacked / "0/000000.png"]
    folders = [tmp_path / "folder", tmp_path / "run", unpacked, unpacked / "0"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o777 & ~mask}


def test_a_mask_that_keeps_files_from_whoever_writes_them_is_not_followed(tmp_path: Path) -> None:
    code = "import os, sys, tledge.__main__ as t; os.umask(0o777); sys.argv[1:] = ['--version']\ntry: t.main()"
    code += "\nfinally: print(oct(os.umask(0)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.stdout.splitlines()[-1] == "0o77", ended.stderr


def test_no_home_at_all(tmp_path: Path, probe: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a user in a container stands for nobody that the system knows."""
    pwd = pytest.importorskip("pwd")

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    ended = run_cli("inspect", classifier(tmp_path / "x.onnx"), "--input", "0..255")
    assert ended.returncode == 0, ended.stderr
    ended = run_cli("doctor")
    assert ended.returncode == 0, ended.stdout
    assert "set XDG_CACHE_HOME or HOME" in ended.stdout


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "full"
    place.mkdir()
    if shutil.which("mount") is None or os.geteuid() or subprocess.call(mount_of(place), stderr=subprocess.DEVNULL):
        pytest.skip("a file system cannot be mounted here")
    try:
        with contextlib.suppress(OSError):
            (place / "rest").write_bytes(bytes(1 << 20))
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def mount_of(place: Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]


def test_no_space_for_temporary_files(full_disk: Path, tmp_path: Path) -> None:
    """Python's libraries look for another place then, and so does what gathers their files."""
    path = classifier(tmp_path / "model.onnx")
    ended = run_process("inspect", path, "--input", "0..1", env={"TMPDIR": str(full_disk)})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.name for path in full_disk.iterdir()] == ["rest"]
