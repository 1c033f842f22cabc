"""The methods of `tledge optimize`. A new one is a module here, with its `METHOD`, and a line in `_MODULES`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from tledge.compression.method import Method

_MODULES = (
    "filters",
    "low_rank",
    "prune",
    "cluster",
    "qat",
)


def _method(module: str) -> Method[Any]:
    method: Method[Any] = import_module(f"{__name__}.{module}").METHOD
    return method


METHODS: Mapping[str, Method[Any]] = {method.name: method for method in map(_method, _MODULES)}
"""By name."""
