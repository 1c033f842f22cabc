"""Pooled features kept between commands, by what the image file holds and by the trunk that made them."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tledge.core.types import ComputeType, Labels
from tledge.core.user_folders import cache_folder
from tledge.data.decode import RESIZE_METHOD
from tledge.selection.pooled import DEPTHS, WIDTH

_FORMAT = 1
_MOST_BYTES = 2 << 30
_CHUNK = 500
_WAIT_S = 30.0

Features = NDArray[np.float32]


class FeatureCache:
    """Features of one trunk at one input size; a database per trunk, so that several processes may write.

    A cache that cannot be read or written is no error: its features are computed again.

    Args:
        trunk_digest: SHA-256 of the 26 tensors.
        image_size_px: side of the input.
        compute: what the layers multiplied in.
    """

    def __init__(self, trunk_digest: str, image_size_px: int, compute: ComputeType) -> None:
        key = f"{_FORMAT} {trunk_digest} {image_size_px} {compute} {RESIZE_METHOD} {DEPTHS}"
        self.path = _folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.sqlite"

    def get(self, sha256: Sequence[str]) -> Mapping[str, Features]:
        """Features, (1280,) float32, of those images that are known, by the SHA-256 of their files."""
        if not self.path.is_file():
            return {}
        found: dict[str, Features] = {}
        try:
            with self._open() as database:
                for start in range(0, len(sha256), _CHUNK):
                    part = sha256[start : start + _CHUNK]
                    marks = ",".join("?" * len(part))
                    rows = database.execute(f"SELECT sha256, pooled FROM features WHERE sha256 IN ({marks})", part)
                    found |= {name: np.frombuffer(content, "<f4") for name, content in rows}
        except sqlite3.Error:  # damaged, or locked for longer than it is worth
            return {}
        return {name: values for name, values in found.items() if values.shape == (WIDTH,)}

    def put(self, sha256: Sequence[str], features: Features) -> None:
        """Keep features, (N, 1280), by the SHA-256 of N files; beyond 2 GiB in all, the oldest databases go."""
        rows = [(name, np.ascontiguousarray(row, "<f4").tobytes()) for name, row in zip(sha256, features, strict=True)]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as database:
                database.execute("CREATE TABLE IF NOT EXISTS features (sha256 TEXT PRIMARY KEY, pooled BLOB NOT NULL)")
                database.executemany("INSERT OR REPLACE INTO features VALUES (?, ?)", rows)
        except sqlite3.OperationalError:  # read-only, full or locked
            return
        except sqlite3.DatabaseError:  # damaged: the next time it begins anew
            self.path.unlink(missing_ok=True)
        except OSError:
            return
        _keep_small(self.path)

    def complete(self, sha256: Sequence[str], compute: Callable[[Labels], Features]) -> tuple[Features, int]:
        """Features of all images: what is known, and the rest computed and kept.

        Args:
            sha256: of N files.
            compute: from the positions of images, (M,), to their features, (M, 1280).

        Returns:
            (N, 1280), and how many images were known.
        """
        known = dict(self.get(sha256))
        missing = np.asarray([row for row, name in enumerate(sha256) if name not in known], np.int64)
        if len(missing):
            computed = compute(missing)
            names = [sha256[row] for row in missing]
            self.put(names, computed)
            known |= dict(zip(names, computed, strict=True))
        return np.stack([known[name] for name in sha256]), len(sha256) - len(missing)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self.path, timeout=_WAIT_S)
        try:
            with database:  # one transaction
                yield database
        finally:
            database.close()


def _folder() -> Path:
    return cache_folder() / "features"


def _keep_small(newest: Path) -> None:
    found = []
    for path in _folder().glob("*.sqlite"):
        with contextlib.suppress(OSError):  # another process removed it meanwhile
            facts = path.stat()
            found.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total > _MOST_BYTES and path != newest:
            total -= size
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
