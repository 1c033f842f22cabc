"""Try a model file of unknown origin in a process of its own, before this one opens it.

A runtime is native code: a file may crash it, keep it busy for ever (a loop that counts to 2^60) or make it ask for all
memory there is, and none of that is an exception. What is found out is kept in the user's cache by digest, so a file is
tried once, which takes about half a second besides its own loading and first run.
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
_TRIED = (".tflite", ".onnx", ".ort")
_OUT_OF_MEMORY = 4
_OPEN_SIDE_PX = 224
# Address space is more than memory; below that, libraries alone would not load.
_LEAST_BYTES = 4 << 30


def require_answering(path: Path, digest: str) -> None:
    """Check that a file neither crashes its runtime nor keeps it busy beyond a minute, at opening and at its first run.

    Files of Keras are not tried: their layers have no loops, and a second TensorFlow takes seconds to start. A file
    that its runtime refuses is left to whoever opens it next.

    Args:
        path: a .tflite, .onnx or .ort file, or a SavedModel directory; others pass.
        digest: of the file and of those that it reads.

    Raises:
        ArtefactError: it does.
    """
    if path.suffix.lower() not in _TRIED and not path.is_dir():
        return
    key = hashlib.sha256(f"{digest} {sorted(versions().items())}".encode()).hexdigest()
    known = cache_folder() / "opened" / key
    with contextlib.suppress(OSError):
        if known.exists():
            return
    whole = f"expected a model that can be opened and run in {path}"
    try:
        code = subprocess.run(
            [sys.executable, "-m", __name__, str(path)],
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
    if code == _OUT_OF_MEMORY:
        raise ArtefactError(f"{whole}, but it asks for more memory than is free; use a smaller model")
    if code < 0:
        ended = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        raise ArtefactError(f"{whole}, but its runtime crashed ({ended}); export it again")
    with contextlib.suppress(OSError):  # a cache that cannot be written
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()


def _try(path: Path) -> int:
    """Open a file, run it once on zeros, and say how that went; only memory is told apart from other refusals."""
    import numpy as np

    from tledge.runtimes.registry import open_adapter

    try:
        adapter = open_adapter(path)
        adapter.bind(
            [
                np.zeros(
                    [1 if place == 0 else n or _OPEN_SIDE_PX for place, n in enumerate(one.shape or ())], one.dtype
                )
                for one in adapter.inputs
            ]
        )
        adapter.invoke()
        adapter.read()
    except ArtefactError as error:
        said = f"{error} {error.__context__}".lower()
        return _OUT_OF_MEMORY if any(word in said for word in ("memory", "bad_alloc", "allocate")) else 0
    except MemoryError:
        return _OUT_OF_MEMORY
    return 0


def _limit_memory() -> None:
    import psutil

    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows; a limit that is there already
        import resource

        free = max(psutil.virtual_memory().available, _LEAST_BYTES)
        resource.setrlimit(resource.RLIMIT_AS, (free, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    _tried = Path(sys.argv[1])
    if not _tried.is_dir():  # TensorFlow reserves more addresses than it uses memory
        _limit_memory()
    sys.exit(_try(_tried))
