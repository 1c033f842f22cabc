"""Read a file in HDF5 of unknown origin once in a process of its own, before this one does.

One wrong bit in the length of a text makes the HDF5 library search for ever (3 of 1,500 files with a few wrong bits or
bytes did), and a file of kilobytes may declare terabytes. No layer is built for that, and TensorFlow is not loaded.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

from tledge.core.dependencies import require
from tledge.core.trial import OUT_OF_MEMORY, limit_memory, require_survived

# What describes layers takes kilobytes. A megabyte in a zip can hold gigabytes, and parsing takes several times that.
_LARGEST_JSON_BYTES = 64 << 20
HDF5_SUFFIXES = (".h5", ".hdf5", ".keras")


def require_readable_hdf5(path: Path, digest: str) -> None:
    """Check that the HDF5 library comes to an end with a file; one that it refuses is left to whoever opens it next.

    Args:
        path: a file of `HDF5_SUFFIXES`; others pass.
        digest: of the file.

    Raises:
        ArtefactError: it crashes, is busy beyond a minute, or asks for more memory than is free.
    """
    if path.suffix.lower() in HDF5_SUFFIXES and path.is_file():
        require_survived(path, digest, __name__)


def _try(path: Path) -> int:
    try:
        if not zipfile.is_zipfile(path):
            _read_all(path)
            return 0
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".h5"):
                    _read_all(io.BytesIO(archive.read(member)))
                elif member.filename.endswith(".json") and member.file_size > _LARGEST_JSON_BYTES:
                    return OUT_OF_MEMORY
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception:  # noqa: BLE001 - whatever is wrong with it is said when it is opened
        return 0
    return 0


def _read_all(file: Path | io.BytesIO) -> None:
    h5py = require("h5py")

    def read(_: str, one: Any) -> None:
        list(one.attrs.items())
        if isinstance(one, h5py.Dataset):
            one[()]

    with h5py.File(file, "r") as opened:
        read("", opened)
        opened.visititems(read)


if __name__ == "__main__":
    limit_memory()
    sys.exit(_try(Path(sys.argv[1])))
