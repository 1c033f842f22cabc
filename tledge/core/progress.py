"""How long work tells how far it is: one type for every stage, the command line and callers in Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (what is going on, steps done, steps in all)."""

Steps: TypeAlias = Callable[[int, int], None]
"""Called with (steps done, steps in all), where the caller knows what is going on."""


LOGGER: logging.Logger = logging.getLogger("tledge")
"""What a stage understood before it begins, as lines of level INFO: the command line shows them on stderr."""


def say(line: str) -> None:
    """Tell what was understood, before anything slow."""
    LOGGER.info("%s", line)


def silent(what: str, done: int, total: int) -> None:
    """Show nothing."""


def silent_steps(done: int, total: int) -> None:
    """Show nothing."""
