"""`tledge.NAME`: every command is a Python call, made when it is asked for, and known to type checkers."""

from __future__ import annotations

import inspect
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import tledge
from tledge.cli import _COMMANDS
from tledge.core.settings import options, settings_of

ROOT = Path(__file__).parents[1]
FUNCTIONS = sorted(set(tledge.__all__) - {"__version__"})
# Groups of commands, and what the calls for their parts are.
PARTS = {"weights": {"list_weights", "add_weights"}, "targets": {"list_targets"}, "baseline": {"save_baseline"}}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_it_takes(name: str) -> None:
    call = getattr(tledge, name)
    assert call.__name__ == name
    assert call is getattr(tledge, name)
    text = inspect.getdoc(call) or ""
    assert text
    for kind in settings_of(inspect.unwrap(call)).values():
        for one in options(kind):
            assert f"    {one.name}: " in text, "the docstring of the stage needs an entry for its settings"


def test_every_command_is_a_call() -> None:
    for command in _COMMANDS:
        assert PARTS.get(command, {command}) <= set(FUNCTIONS)


def test_dir_and_unknown_names() -> None:
    assert set(tledge.__all__) <= set(dir(tledge))
    with pytest.raises(AttributeError, match="'tledge' has no attribute 'trian'"):
        tledge.trian  # noqa: B018


def test_no_module_hides_a_function() -> None:
    found = (module.name for module in pkgutil.walk_packages(tledge.__path__, "tledge."))
    modules = [name for name in found if not name.endswith("__main__")]
    top = {name.split(".")[1] for name in modules}
    assert not top & set(FUNCTIONS)
    code = (
        f"import importlib, tledge\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {FUNCTIONS!r} if type(getattr(tledge, name)).__name__ != 'function'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stub_is_current() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "public_stub.py"))["stub"]()
    current = (ROOT / "tledge" / "__init__.pyi").read_text(encoding="utf-8")
    assert made == current, "run `python scripts/public_stub.py`"
