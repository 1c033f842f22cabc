"""The container file: what it copies is let in, and its own steps give a tledge that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def copied() -> list[tuple[str, str]]:
    """Sources and destinations of the container file, those of a line one by one."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    parts = [line.split()[1:] for line in lines if line.startswith("COPY ")]
    return [(source, part[-1]) for part in parts for source in part[:-1]]


def test_the_container_file_copies_what_is_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source for source, _ in copied()} == let_in
    assert all((ROOT / source).exists() for source in let_in)


@pytest.mark.slow
def test_the_container_file_installs_a_tledge_that_runs(tmp_path: Path) -> None:
    """Its own steps, with a new environment in the place of the image."""
    for source, destination in copied():
        target = tmp_path / destination.strip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(ROOT / source, target)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "image"], check=True)
    (install,) = re.findall(r"^RUN (pip install .*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command = install.replace("/source", str(tmp_path / "source"))
    path = f"{tmp_path / 'image' / 'bin'}:{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}
    subprocess.run(["sh", "-ec", command], env=env, check=True)
    assert not (tmp_path / "source").exists()
    told = subprocess.run(["tledge", "targets"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "raspberry-pi-5" in told.stdout
