"""Resizing code of kits, in Python, C++ and JavaScript, against what training does: equal to the last bit."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tledge.conversion.recipe import recipe_folder
from tledge.core.image_size import image_size
from tledge.data.resizers import RESIZE_MODES, resizer_of

VECTORS = recipe_folder() / "resize_vectors.txt"
DEVICE = recipe_folder() / "device"
ALL_EQUAL = "27 pictures, largest difference 0 of 255\n"
NODE = shutil.which("node")
CPP = shutil.which("g++") or shutil.which("c++")


@pytest.fixture(scope="module")
def code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tledge_resize", DEVICE / "tledge_resize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """Vectors of which one expects a value that is off by one."""
    first, rest = VECTORS.read_text().split("\n", 1)
    last = f"{int(first[-2:], 16) ^ 1:02x}"
    path = tmp_path / "wrong.txt"
    path.write_text(f"{first[:-2]}{last}\n{rest}")
    return path


def ran(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **options)


def test_vectors_are_current() -> None:
    made = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "resize_vectors.py"))["vectors"]()
    assert VECTORS.read_text() == made, "run scripts/resize_vectors.py"


def test_python_without_pillow(tmp_path: Path, wrong: Path) -> None:
    (tmp_path / "PIL.py").write_text("raise ImportError('not here')\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = ran(sys.executable, DEVICE / "tledge_resize.py", VECTORS, env=env)
    assert (done.returncode, done.stdout) == (0, ALL_EQUAL), done.stderr
    done = ran(sys.executable, DEVICE / "tledge_resize.py", wrong, env=env)
    assert (done.returncode, done.stdout) == (1, ALL_EQUAL.replace("difference 0", "difference 1"))


def test_python_on_many_sizes(code: ModuleType) -> None:
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, row)) for row in rng.integers(1, 300, (40, 4))]  # height and width, before and after
    sizes += [(333, 500, 32, 32), (500, 333, 224, 224), (1, 1, 8, 8), (136, 100, 64, 64), (137, 100, 64, 64)]
    for rows, columns, height, width in sizes:
        picture = rng.integers(0, 256, (rows, columns, 3), np.uint8)
        for mode in RESIZE_MODES:
            expected = resizer_of(mode)(Image.fromarray(picture), image_size(height, width))
            found = code.resize_picture(picture, (height, width), mode)
            np.testing.assert_array_equal(found, expected, f"{mode} {rows} x {columns} to {height} x {width}")
    with pytest.raises(ValueError, match="expected a mode"):
        code.resize_picture(picture, (8, 8), "squeeze")


@pytest.mark.skipif(CPP is None, reason="needs a C++ compiler")
def test_cpp(tmp_path: Path, wrong: Path) -> None:
    program = tmp_path / "check_resize"
    source = DEVICE / "cpp" / "check_resize.cpp"
    done = ran(CPP, "-std=c++14", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source)
    assert done.returncode == 0, done.stderr
    done = ran(program, VECTORS)
    assert (done.returncode, done.stdout) == (0, ALL_EQUAL)
    assert ran(program, wrong).returncode == 1
    assert ran(program, tmp_path / "none.txt").returncode == 1


CHECK_JS = """
import { resizePicture } from "./resize.mjs";
import { readFileSync } from "node:fs";
let pictures = 0, worst = 0;
for (const line of readFileSync(process.argv[2], "utf8").trim().split("\\n")) {
  const [mode, rows, columns, height, width, given, expected] = line.split(" ");
  const rgba = Buffer.from(given.replace(/.{6}/g, "$&ff"), "hex");
  const pixels = resizePicture(rgba, +columns, +rows, +width, +height, mode);
  Buffer.from(expected, "hex").forEach((value, i) => { worst = Math.max(worst, Math.abs(value - pixels[i])); });
  pictures++;
}
console.log(`${pictures} pictures, largest difference ${worst} of 255`);
"""


@pytest.mark.skipif(NODE is None, reason="needs node (Debian: nodejs)")
def test_javascript(tmp_path: Path, wrong: Path) -> None:
    # Node takes a .js file for a module where package.json says so.
    shutil.copy(recipe_folder() / "browser" / "resize.js", tmp_path / "resize.mjs")
    (tmp_path / "check.mjs").write_text(CHECK_JS)
    assert ran(NODE, tmp_path / "check.mjs", VECTORS).stdout == ALL_EQUAL
    assert ran(NODE, tmp_path / "check.mjs", wrong).stdout == ALL_EQUAL.replace("difference 0", "difference 1")
