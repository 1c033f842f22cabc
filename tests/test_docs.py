"""The pages of docs/: what is generated is current, links lead somewhere, and the site builds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_architecture_page_is_current() -> None:
    architecture = script("architecture")
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert architecture.with_part(page, architecture.page_part()) == page, "run python scripts/architecture.py"


def test_the_reduced_graph_keeps_what_is_reachable() -> None:
    reduced = script("architecture").reduced({"a": set(), "b": {"a"}, "c": {"a", "b"}})
    assert reduced == {"a": set(), "b": {"a"}, "c": {"b"}}


def test_the_readme_is_a_front_door() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "index.html").is_file()
