"""The composite action: its shell steps, run one after the other as GitHub's runner would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import run_cli

ROOT = Path(__file__).parents[2]


def run_action(run: Path, results: Path, gates: str, baseline: str = "") -> tuple[int, str]:
    """The exit code of the job, and its summary; the installation is what stands beside this Python."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    given = {"run": str(run), "gates": gates, "baseline": baseline, "results": str(results)}
    assert set(given) == set(action["inputs"])
    summary = results.parent / "summary.md"
    values = {f"inputs.{name}": value for name, value in given.items()}
    values["steps.kept.outputs.artifact-url"] = "https://example.com/artefact"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    code = 0
    for step in action["runs"]["steps"]:
        if "run" not in step or step["name"] == "Install tledge" or (code and step.get("if") != "always()"):
            continue
        env = {
            name: re.sub(r"\$\{\{ (.+?) \}\}", lambda found: values[found[1]], value)
            for name, value in step["env"].items()
        }
        env |= {"PATH": path, "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        code = code or done.returncode
    return code, summary.read_text()


@pytest.mark.slow
def test_the_action_passes_and_fails_as_the_check_does(run_copy: Path, tmp_path: Path) -> None:
    for path in (run_copy / "export").iterdir():
        if path.stem not in ("onnx-float32", "tflite-int8"):
            path.unlink()
    results = tmp_path / "its results"
    code, summary = run_action(run_copy, results, "drop < 1")
    assert code == 0
    assert {path.name for path in results.iterdir()} == {"check.xml", "check.md", "report.html"}
    assert "## tledge check: pass" in summary
    assert "[The page of the run, report.html](https://example.com/artefact)" in summary
    assert run_cli("baseline", "save", run_copy, "-o", tmp_path / "baseline.json").returncode == 0
    code, summary = run_action(
        run_copy, results, "drop < 1, probability_difference < 1e-12", str(tmp_path / "baseline.json")
    )
    assert code == 1
    assert summary.count("artefact)") == 2, "the page is written and kept where the check fails, too"
    assert "fit to ship" in (results / "report.html").read_text()
