"""A method is added with one module and one line, and is then there in Python and on the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tledge
from tledge.compression.methods import METHODS
from tledge.compression.options import in_order, options_of, require_order, settings_of
from tledge.core.errors import SettingsError

GUIDE = (Path(__file__).parents[2] / "docs" / "extend" / "method.md").read_text()
CALL = """
import json, sys, tledge
result = tledge.optimize(sys.argv[1], out=sys.argv[2], method="round", step=0.25)
kernel = result.outcomes[0].model.layers[2].get_weights()[0]
print(json.dumps([result.outcomes[0].record["settings"]["step"], float(abs(kernel % 0.25).max())]))
"""


@pytest.fixture
def extended(tmp_path: Path) -> dict[str, str]:
    """Environment of processes for which the package has the method of docs/extend/method.md."""
    package = tmp_path / "extended" / "tledge"
    shutil.copytree(Path(tledge.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    export = Path(tledge.__file__).parents[1] / "export"
    if export.is_dir():
        (tmp_path / "extended" / "export").symlink_to(export)
    methods = package / "compression" / "methods"
    (module,), (line,) = (re.findall(rf"```{kind}\n(.*?)```", GUIDE, flags=re.DOTALL) for kind in ("python", "text"))
    (methods / "round.py").write_text(module)
    registry = (methods / "__init__.py").read_text()
    (methods / "__init__.py").write_text(registry.replace('    "qat",\n', f'    "qat",\n{line}'))
    return {**os.environ, "PYTHONPATH": str(package.parent), "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    # Not in the repository, whose package would win.
    folder = environment["PYTHONPATH"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_a_method_is_one_module_and_one_line(extended: dict[str, str], finished_run: Path, tmp_path: Path) -> None:
    called = run(extended, "-c", CALL, finished_run, tmp_path / "small")
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout) == [0.25, 0.0]
    assert json.loads((tmp_path / "small" / "run.json").read_text())["optimization"]["method"] == "round"
    shown = run(extended, "-m", "tledge", "optimize", "--help").stdout
    assert "[filters|low-rank|prune|round|cluster|qat]" in shown
    assert "round: what weights are multiples of." in shown
    refused = run(extended, "-m", "tledge", "optimize", finished_run, "--step", "0.5", "--out", tmp_path / "other")
    assert refused.returncode == 2
    assert "--step only with --method round" in refused.stderr
    optimized = ("-m", "tledge", "optimize", finished_run, "--method", "prune", "--method", "round", "--out")
    conflicting = run(extended, *optimized, tmp_path / "other")
    assert conflicting.returncode == 2
    assert "after prune" in conflicting.stderr


def test_every_method_says_what_the_rest_needs_to_know() -> None:
    assert in_order() == ("filters", "low-rank", "prune", "cluster", "qat")
    for name, method in METHODS.items():
        assert {"epochs", "learning_rate", "seed"} <= set(options_of(method))
        assert method.name == name
    with pytest.raises(SettingsError, match="one made by round"):
        require_order(["round"], settings_of(("qat",), {}))
