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
import tempfile
import time
from pathlib import Path

_PREFIX, _LOCK = "tledge-", "lock"
# Between the two steps in which a folder is made nobody may take it for one that was left.
_YOUNG_S = 60.0
_place: list[Path] = []
_held: list[int] = []


def gather() -> None:
    """Have temporary files of this process in a folder of its own until it ends, and remove what killed ones left.

    For processes of the command line: in a program that calls tledge, where temporary files go is the program's affair.
    Where there is no place for them, or no locks, all stays as it is.
    """
    with contextlib.suppress(OSError, ImportError):
        place = Path(tempfile.gettempdir())
        _sweep(place)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        lock = _locked(folder / f".{_LOCK}")
        if lock is None:
            folder.rmdir()
            return
        # Locked before it has its name: whoever sweeps never finds it free.
        (folder / f".{_LOCK}").rename(folder / _LOCK)
        _place.append(place)
        _held.append(lock)
        tempfile.tempdir = str(folder)
        atexit.register(release)


def release() -> None:
    """Remove the folder of this process; it would be done when the process ends."""
    if _held and _place:
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
    """The environment for a process of tledge's that works for this one: its temporary files go where ours are."""
    return {**os.environ, "TMPDIR": tempfile.gettempdir()}


def _locked(path: Path) -> int | None:
    """Hold a lock that ends with this process; None if another process has it."""
    import fcntl

    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            about = folder.lstat()
            if about.st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
                continue
            if not (folder / _LOCK).exists():
                if time.time() - about.st_mtime > _YOUNG_S:
                    (folder / f".{_LOCK}").unlink(missing_ok=True)
                    folder.rmdir()  # refused where something is in it: it is not one of these
            elif (lock := _locked(folder / _LOCK)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
