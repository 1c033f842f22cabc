"""Have a process of its own try a file of unknown origin, before this one opens it.

Libraries that read files are native code: a file may crash one, keep it busy for ever (a loop that counts to 2^60) or
make it ask for all memory there is, and none of that is an exception. What is found out is kept in the user's cache by
digest, so a file is tried once.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
from pathlib import Path

from tledge.core.environment import versions
from tledge.core.errors import ArtefactError
from tledge.core.temporary import for_child
from tledge.core.user_folders import cache_folder

TIME_LIMIT_S = 60.0
OUT_OF_MEMORY = 4
# Address space is more than memory; below that, libraries alone would not load.
_LEAST_BYTES = 4 << 30


def require_survived(path: Path, digest: str, module: str) -> None:
    """Check that a process which tries a file neither crashes nor is busy beyond a minute.

    A file that it refuses is left to whoever opens it next.

    Args:
        path: the file, or a directory.
        digest: of the file and of those that it reads.
        module: run as a program with the path; ends with `OUT_OF_MEMORY` where that is what the file asks for.

    Raises:
        ArtefactError: it does.
    """
    key = hashlib.sha256(f"{digest} {sorted(versions().items())}".encode()).hexdigest()
    known = cache_folder() / "opened" / key
    with contextlib.suppress(OSError):
        if known.exists():
            return
    whole = f"expected a model that can be opened and run in {path}"
    try:
        code = subprocess.run(
            [sys.executable, "-P", "-m", module, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TIME_LIMIT_S,
            env=for_child(),
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        raise ArtefactError(
            f"{whole}, but its runtime was still busy after {TIME_LIMIT_S:g} s; export it again"
        ) from None
    if code == OUT_OF_MEMORY:
        raise ArtefactError(f"{whole}, but it asks for more memory than is free; use a smaller model")
    if code < 0:
        ended = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        raise ArtefactError(f"{whole}, but its runtime crashed ({ended}); export it again")
    with contextlib.suppress(OSError):  # a cache that cannot be written
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()


def limit_memory() -> None:
    """Refuse this process more memory than is free now."""
    import psutil

    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows; a limit that is there already
        import resource

        free = max(psutil.virtual_memory().available, _LEAST_BYTES)
        resource.setrlimit(resource.RLIMIT_AS, (free, resource.getrlimit(resource.RLIMIT_AS)[1]))
