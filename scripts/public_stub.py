"""Write tledge/__init__.pyi: what type checkers and editors see of the public functions, which are made when asked for.

Usage: python scripts/public_stub.py            (a test says when it is due)
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tledge
from tledge.core.settings import options, settings_of

STUB = Path(tledge.__file__).with_suffix(".pyi")
# Modules that annotations name as a whole, `keras.Model`.
_WHOLE = ("keras", "tensorflow")
HEADER = '"""Made by scripts/public_stub.py from the functions of the stages and the options of their settings."""\n'


def stub() -> str:
    """The text of the stub."""
    needed: dict[str, str] = {}
    written = []
    for name in sorted(set(tledge.__all__) - {"__version__"}):
        call = getattr(tledge, name)
        written.append(_function(name, call))
        needed |= _imports(call)
    lines = [
        f"import {module} as {name}" if module in _WHOLE else f"from {module} import {name} as {name}"
        for name, module in sorted(needed.items())
    ]
    names = "\n".join(f'    "{name}",' for name in tledge.__all__)
    lines.append("from tledge import training as training")
    return "\n".join([HEADER, *lines, "", f"__all__ = [\n{names}\n]", "", "__version__: str", "", *written])


def _function(name: str, call: Callable[..., Any]) -> str:
    signature = inspect.signature(call)
    parts, keywords = [], False
    for parameter in signature.parameters.values():
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            parts.append("*")
            keywords = True
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        parts.append(f"{star}{parameter.name}: {parameter.annotation}{default}")
    arguments = "".join(f"    {part},\n" for part in parts)
    body = textwrap.indent(f'"""{inspect.getdoc(call)}\n"""', "    ").replace("\n    \n", "\n\n")
    return f"def {name}(\n{arguments}) -> {signature.return_annotation}:\n{body}\n"


def _default(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    plain = value is None or isinstance(value, int | float) or value == ()
    return repr(value) if plain else "..."


def _imports(call: Callable[..., Any]) -> dict[str, str]:
    """From each name in the annotations to the module it comes from."""
    function = inspect.unwrap(call)
    modules = [function.__module__, *(kind.__module__ for kind in settings_of(function).values())]
    modules += [inspect.getmodule(options).__name__]  # type: ignore[union-attr]
    signature = inspect.signature(call)
    texts = [str(one.annotation) for one in signature.parameters.values()] + [str(signature.return_annotation)]
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", " ".join(texts))
    found = {}
    for name in set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", unquoted)) - set(dir(builtins)):
        found[name] = next(origin for module in modules if (origin := _origin(name, module)) is not None)
    return found


def _origin(name: str, module: str) -> str | None:
    """Where a module has a name from: itself, or what it imports."""
    if name == "Sequence":
        return "collections.abc"
    for node in ast.walk(ast.parse(Path(str(sys.modules[module].__file__)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import) and name in [alias.asname or alias.name for alias in node.names]:
            return next(alias.name for alias in node.names if name == (alias.asname or alias.name))
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return node.module
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in [target.id for target in targets if isinstance(target, ast.Name)]:
                return module
    return None


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
