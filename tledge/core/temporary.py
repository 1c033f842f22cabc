"""Temporary files of a process in one folder, so that what a killed one left is known and swept up by the next.

Libraries leave theirs as well: TensorFlow writes a module for each function that it rewrites, and removes them when the
process ends in an orderly way. Whether a process lives is told by a lock and not by its number, since containers that
share a folder count processes each for itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tledge.core.files import lock

_PREFIX = "tledge-process-"
_place: list[Path] = []
_held: list[int] = []


def gather() -> None:
    """Have temporary files of this process in a folder of its own until it ends, and remove what killed ones left.

    For processes of the command line: in a program that calls tledge, where temporary files go is the program's affair.
    Where there is no place for them, or no locks, all stays as it is.
    """
    with contextlib.suppress(OSError):
        place = Path(tempfile.gettempdir())
        _sweep(place)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        own = lock(folder)
        # Another process may take a folder for one that was left before it is locked; then there is none.
        if own is None or not folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            return
        _place.append(place)
        _held.append(own)
        tempfile.tempdir = str(folder)
        atexit.register(release)


def release() -> None:
    """Remove the folder of this process; it would be done when the process ends."""
    if _held:
        folder, tempfile.tempdir = Path(tempfile.gettempdir()), str(_place.pop())
        shutil.rmtree(folder, ignore_errors=True)
        os.close(_held.pop())


def temporary_place() -> Path:
    """Where temporary files are, outside of this process's own folder.

    Raises:
        OSError: there is no such place.
    """
    return _place[-1] if _place else Path(tempfile.gettempdir())


def for_child() -> dict[str, str]:
    """The environment for a process of tledge's that works for this one.

    Its temporary files go where ours are. A Python finds its modules where this one does: started with `-P` it does not
    look for them in the working directory, where they may be somebody else's, beside the model that he sent.
    """
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    return {**os.environ, "TMPDIR": tempfile.gettempdir(), "PYTHONPATH": path}


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and (left := lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(left)
