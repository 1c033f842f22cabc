"""The shape of the house: imports go one way, start-up stays light, modules stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tledge"

# From the bottom up; a module may import from its own layer and from those below.
LAYERS = (
    {"errors", "types", "__init__"},
    {
        "environment",
        "dependencies",
        "metrics",
        "statistics",
        "gates",
        "rundir",
        "searchdir",
        "files",
        "goal",
        "machines",
        "ssh",
        "adb",
        "user_folders",
    },
    {
        "data",
        "model",
        "recipe",
        "catalogue",
        "device_targets",
        "targets.tflite_metadata",
        "targets.tflite_schema",
        "targets.tflite_flatbuffer",
        "targets.tflite_operators",
    },
    {"manifest", "runners"},
    {"artefacts", "techniques", "compression", "targets", "diagnosis", "selection"},
    {"stages"},
    {"api", "api_bench", "api_remote", "api_select"},
    {"cli"},
    {"__main__"},
)


def module_names() -> list[str]:
    return [".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in sorted(PACKAGE.rglob("*.py"))]


def layer_of(module: str) -> int:
    for depth in (2, 1):
        name = ".".join(module.split(".")[:depth])
        for level, names in enumerate(LAYERS):
            if name in names:
                return level
    raise AssertionError(f"{module} belongs to no layer: add it to LAYERS")


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
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported} from a higher layer"


def test_the_layer_test_sees_imports() -> None:
    assert {"manifest", "rundir", "runners"} <= imports_of("stages.check")


@pytest.mark.parametrize("module", module_names())
def test_modules_stay_small(module: str) -> None:
    lines = (PACKAGE / (module.replace(".", "/") + ".py")).read_text().count("\n")
    assert lines <= 260, f"{module} has {lines} lines: is it still one room?"


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
    for heavy in ("'tensorflow'", "'rich'", "'PIL'", "'tledge.stages.train'"):
        assert heavy not in loaded


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
