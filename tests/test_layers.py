"""The shape of the house: imports go one way, start-up stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tledge.cli import _COMMANDS

PACKAGE = Path(__file__).parents[1] / "tledge"

# From the bottom up: a package imports from itself and from those above it in this table, never from those below.
ROOMS = (
    "core",
    "stats",
    "evaluation.gates",
    "formats",
    "data",
    "runs",
    "model",
    "runtimes",
    "selection",
    "training",
    "adoption",
    "conversion",
    "compression",
    "diagnosis",
    "evaluation",
    "benchmark",
    "deployment",
    "compression.search",
    "reporting",
    "pipeline",
    "cli",
    "__main__",
)
HEAVY = ("tensorflow", "keras", "onnx", "onnxruntime", "ai_edge_litert", "scipy", "sklearn", "rich", "jinja2")
LEVELS = {room: level for level, room in enumerate(ROOMS)} | {"__init__": 0}


def module_names() -> list[str]:
    return [".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in sorted(PACKAGE.rglob("*.py"))]


def level_of(module: str) -> int:
    parts = module.split(".")
    for room in (".".join(parts[:2]), parts[0]):
        if room in LEVELS:
            return LEVELS[room]
    raise AssertionError(f"{module} belongs to no room: add it to ROOMS")


def imports_of(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / (module.replace(".", "/") + ".py")).read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tledge":
            base = node.module.removeprefix("tledge").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                is_module = (PACKAGE / (inner.replace(".", "/") + ".py")).is_file()
                found.add(inner if is_module else base or "__init__")
    return found


@pytest.mark.parametrize("module", [m for m in module_names() if m != "__init__"])
def test_imports_go_downwards(module: str) -> None:
    for imported in imports_of(module):
        assert level_of(imported) <= level_of(module), f"{module} imports {imported}, which stands above it"


def test_the_layer_test_sees_imports() -> None:
    assert {"runs.manifest", "runs.rundir", "conversion.artefacts"} <= imports_of("evaluation.check")


def test_importing_tledge_loads_nothing_heavy() -> None:
    code = "import sys, tledge; print(sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("tensorflow", "keras", "onnx", "onnxruntime", "ai_edge_litert", "scipy", "sklearn"):
        assert f"'{heavy}'" not in loaded


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys, click\nfrom tledge.cli import group\n"
        "from click.testing import CliRunner\n"
        "result = CliRunner().invoke(group, ['--help'])\nassert result.exit_code == 0, result.output\n"
        "print(sorted(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("'tensorflow'", "'rich'", "'PIL'", "'tledge.training.train'"):
        assert heavy not in loaded


@pytest.mark.parametrize("command", list(_COMMANDS))
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom tledge.cli import group\n"
        f"assert CliRunner().invoke(group, [{command!r}, '--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_names_a_registry_host() -> None:
    root = PACKAGE.parent
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    hosts = re.compile(r"pypi\.org|pythonhosted|deb\.debian\.org|registry\.npmjs", re.IGNORECASE)
    for name in listed:
        path = root / name
        if path.suffix in {".py", ".toml", ".md", ".txt", ".yml", ".yaml", ".cfg", ""} and path != Path(__file__):
            assert not hosts.search(path.read_text(errors="ignore")), name
