"""The examples, run as a reader would run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_digits
from tests.deployment.test_hosts import QUICK_OPTIONS, Server, server

__all__ = ["server"]  # a fixture

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    interpreter = [sys.executable] if name.endswith(".py") else ["bash"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*interpreter, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        timeout=600,
        check=False,
    )


def test_photos_to_phone_file(tmp_path: Path) -> None:
    photos = write_digits(tmp_path / "photos", 12)
    done = run_example("photos_to_phone_file.py", photos, tmp_path / "run", 32)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "export" / "tflite-int8.tflite").is_file()
    assert "lost against the Keras model" in done.stdout


@pytest.mark.slow  # 25 s; on small nets, tests/conversion/test_keras_models.py does the same
def test_own_training_script(tmp_path: Path) -> None:
    photos = write_digits(tmp_path / "photos", 12)
    done = run_example("own_training_script.py", photos, tmp_path / "out", 32)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "export" / "tflite-int8.tflite").is_file()
    assert "of the int8 file" in done.stdout


def test_guard_a_model_in_ci(run_copy: Path, tmp_path: Path) -> None:
    baseline, results = tmp_path / "baseline.json", tmp_path / "results"
    first = run_example("guard_a_model_in_ci.sh", run_copy, baseline, results)
    assert first.returncode == 0, first.stderr
    assert baseline.is_file()
    later = run_example("guard_a_model_in_ci.sh", run_copy, baseline, results)
    assert later.returncode == 0, later.stderr
    assert (results / "check.xml").is_file()
    # The pipeline stops where a file is another one: here the int8 file of a run that never learned.
    shutil.copyfile(run_copy / "export" / "onnx-int8.onnx", run_copy / "export" / "onnx-float32.onnx")
    assert run_example("guard_a_model_in_ci.sh", run_copy, baseline, results).returncode == 2


def test_measure_on_a_board(run_copy: Path, server: Server) -> None:
    options = [option for option in QUICK_OPTIONS if option]
    done = run_example("measure_on_a_board.sh", run_copy, server.url, "--ssh-config", server.config, *options)
    assert done.returncode == 0, done.stderr
    assert server.url.removeprefix("ssh://") in done.stdout
