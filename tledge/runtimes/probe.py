"""Try a model file of unknown origin in a process of its own: its runtime opens it and runs once.

That takes about half a second besides the file's own loading and first run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tledge.core.errors import ArtefactError
from tledge.core.trial import OUT_OF_MEMORY, limit_memory, require_survived
from tledge.model.hdf5_trial import require_readable_hdf5

_TRIED = (".tflite", ".onnx", ".ort")
_OPEN_SIDE_PX = 224


def require_answering(path: Path, digest: str) -> None:
    """Check that a file neither crashes its runtime nor keeps it busy beyond a minute, at opening and at its first run.

    Of files of Keras what they hold is read, and no layer is built: layers have no loops, and a second TensorFlow takes
    seconds to start. A file that its runtime refuses is left to whoever opens it next.

    Args:
        path: a model file, or a SavedModel directory; others pass.
        digest: of the file and of those that it reads.

    Raises:
        ArtefactError: it does.
    """
    if path.suffix.lower() in _TRIED or path.is_dir():
        require_survived(path, digest, __name__)
    else:
        require_readable_hdf5(path, digest)


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
        return OUT_OF_MEMORY if any(word in said for word in ("memory", "bad_alloc", "allocate")) else 0
    except MemoryError:
        return OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    _tried = Path(sys.argv[1])
    if not _tried.is_dir():  # TensorFlow reserves more addresses than it uses memory
        limit_memory()
    sys.exit(_try(_tried))
