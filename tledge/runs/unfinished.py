"""What a command has done of a run that is not whole yet, so that the same command goes on after it was killed.

It stands in a hidden folder beside the run's place, `.NAME.unfinished`, which the process at work has locked: a folder
for each set of things that a result depends on, named by their digest. It goes when the run is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tledge.core.environment import versions
from tledge.core.errors import RunError, SettingsError
from tledge.core.files import is_held, lock, write_json
from tledge.core.parsing import parse_json
from tledge.core.progress import say
from tledge.core.settings import Settings, option
from tledge.core.types import Json

_BASIS = "basis.json"
_MOST_DIFFERENCES = 3


@dataclass(frozen=True)
class ResumeSettings(Settings):
    """`fresh` gives up what an interrupted command left."""

    fresh: bool = option(False, help="Begin anew instead of going on where a killed or interrupted command was.")


RESUME: ResumeSettings = ResumeSettings()


class Unfinished:
    """The folder for unfinished work on a run, while this process alone has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own: Path | None = None

    def work(self, basis: Json) -> Path:
        """The folder for work whose result depends on `basis` and on the versions of what is installed.

        Work on another basis is left alone and told, with what differs: it may have been started by mistake now.

        Args:
            basis: JSON.
        """
        basis = {**basis, "versions": versions()}
        text = json.dumps(basis, sort_keys=True)
        self._own = folder = self.path / hashlib.sha256(text.encode()).hexdigest()[:16]
        if folder.is_dir():
            return folder
        for other in sorted(self.path.glob(f"*/{_BASIS}")):
            say(
                f"beginning anew: what an interrupted command left in {other.parent} was made with "
                f"{_differences(other, json.loads(text))}"
            )
        write_json(folder / _BASIS, basis)
        return folder

    def leave(self, error: BaseException) -> None:
        """Remove what no command could use, and say what is kept, when work ends early."""
        if self._own is not None and isinstance(error, SettingsError):  # the same command would end there again
            shutil.rmtree(self._own, ignore_errors=True)
        if not _is_used(self.path):
            shutil.rmtree(self.path, ignore_errors=True)
        elif self._own is not None and _is_used(self.path, self._own.name):
            say(f"what was trained so far is kept in {self._own}; the same command goes on from there")


def _is_used(path: Path, folder: str = "*") -> bool:
    return any(found.name != _BASIS for found in path.glob(f"{folder}/[!.]*"))


def work_of(out: Path) -> Path:
    """The folder of unfinished work on a run, whoever has it."""
    out = out.absolute()
    return out.parent / f".{out.name}.unfinished"


@contextmanager
def unfinished(out: Path, resuming: ResumeSettings = RESUME) -> Iterator[Unfinished]:
    """Have the place of a new run to oneself, and a folder for work on it that outlives a kill.

    The folder goes when the block ends, or fails for settings that make no sense; after any other end it stays, if
    there is something in it.

    Args:
        out: where the run goes.
        resuming: whether to use what is there.

    Raises:
        RunError: another process is writing this run.
    """
    out = out.absolute()
    found = Unfinished(work_of(out))
    found.path.mkdir(parents=True, exist_ok=True)
    own = lock(found.path)
    if own is None and is_held(found.path):
        raise RunError(
            f"expected {out} to be written by one command at a time, but another one is at it; wait until it has "
            "ended, or choose another --out"
        )
    try:
        if resuming.fresh:
            for left in found.path.iterdir():
                shutil.rmtree(left, ignore_errors=True)
        yield found
        shutil.rmtree(found.path, ignore_errors=True)
    except BaseException as error:
        found.leave(error)
        raise
    finally:
        if own is not None:
            os.close(own)


def _differences(file: Path, wanted: Json) -> str:
    """In words, what differs between the basis in a file and this one."""
    try:
        before, now = _flat(parse_json(file.read_bytes())), _flat(wanted)
    except (OSError, ValueError):
        return f"what {file.name} no longer tells"
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    told = [f"{name} {before.get(name)}, not {now.get(name)}" for name in changed[:_MOST_DIFFERENCES]]
    more = len(changed) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    if not isinstance(value, dict):
        return {name: value}
    inner = (_flat(part, f"{name}.{key}".strip(".")) for key, part in value.items())
    return {key: leaf for leaves in inner for key, leaf in leaves.items()}
