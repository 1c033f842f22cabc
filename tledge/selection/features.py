"""Features of a trunk: the means of the feature maps behind three of its poolings, kept between commands.

All images run through a trunk once. What was computed is kept by what the image file holds and by the trunk.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require_tensorflow
from tledge.core.progress import Steps
from tledge.core.types import ComputeType, Labels, ResizeMode
from tledge.core.user_folders import cache_folder
from tledge.data.decode import RESIZE_METHOD
from tledge.data.pixels import PixelStore
from tledge.data.resizers import resizer_of
from tledge.model.compute import computing_in
from tledge.model.forward import BATCH, compiled
from tledge.model.vgg16 import BLOCKS, build
from tledge.model.weights import TrunkWeights
from tledge.selection.sample import Sample

if TYPE_CHECKING:
    import keras

DEPTHS = ("block3_pool", "block4_pool", "block5_pool")
WIDTHS = tuple(BLOCKS[int(depth[len("block")]) - 1][-1] for depth in DEPTHS)
WIDTH = sum(WIDTHS)
_FORMAT = 1
_MOST_BYTES = 2 << 30
_CHUNK = 500
_WAIT_S = 30.0

Features = NDArray[np.float32]


@dataclass(frozen=True)
class TrunkFeatures:
    """Features, (N, 1280), of a sample; the digest of the trunk's tensors, where it came from, how many were known."""

    values: Features
    digest: str
    source: str
    cached: int


def features_of(
    name: str,
    known_digest: str | None,
    load: Callable[[], TrunkWeights],
    sample: Sample,
    image_size_px: int,
    compute: ComputeType,
    progress: Steps,
    mode: ResizeMode = "stretch",
) -> TrunkFeatures:
    """A trunk's pooled features of a sample, from the cache as far as it knows them.

    Arguments are those of `tledge.selection.evidence.examine`.

    Raises:
        WeightsError: the weights cannot be had.
        DataError: an image is unreadable.
    """
    if known_digest is not None:
        kept = FeatureCache(known_digest, image_size_px, compute, mode).get(sample.sha256)
        if all(one in kept for one in sample.sha256):
            progress(len(sample.sha256), len(sample.sha256))
            values = np.stack([kept[one] for one in sample.sha256])
            return TrunkFeatures(values, known_digest, f"{name} (kept features)", len(values))
    weights = load()

    def compute_missing(rows: Labels) -> Features:
        store = PixelStore(sample.paths, image_size_px, sha256=sample.sha256, resizer=resizer_of(mode))
        return pooled_features(trunk_of(weights, image_size_px), store, rows, compute, progress)

    cache = FeatureCache(weights.digest, image_size_px, compute, mode)
    values, cached = cache.complete(sample.sha256, compute_missing)
    return TrunkFeatures(values, weights.digest, weights.source, cached)


def at_depth(features: NDArray[np.float32], depth: str) -> NDArray[np.float32]:
    """The columns of one depth: (N, 1280) to (N, 256) or (N, 512)."""
    start = sum(WIDTHS[: DEPTHS.index(depth)])
    return features[:, start : start + WIDTHS[DEPTHS.index(depth)]]


def trunk_of(weights: TrunkWeights, image_size_px: int) -> keras.Model:
    """VGG16 with these weights, of which only the trunk is looked at."""
    return build(2, image_size_px, "gap", weights)


def pooled_features(
    model: keras.Model,
    pixels: PixelStore,
    indices: Labels,
    compute: ComputeType,
    progress: Steps = lambda *_: None,
) -> NDArray[np.float32]:
    """Run images through a trunk once and average the maps behind each of `DEPTHS`.

    Args:
        model: a model of `tledge.model.vgg16.build`, with any head.
        pixels: decoded images of the model's input size.
        indices: which of them, (N,).
        compute: what the layers multiply in.
        progress: called with (images done, images in all).

    Returns:
        (N, 1280) float32: 256 numbers of block 3, 512 of block 4, 512 of block 5.
    """
    tf, keras = require_tensorflow()
    values = np.empty((len(indices), WIDTH), np.float32)
    with computing_in(model, compute):
        pooled = keras.Model(model.input, [model.get_layer(depth).output for depth in DEPTHS])
        call = compiled(
            pooled,
            lambda found: tf.concat([tf.reduce_mean(tf.cast(maps, tf.float32), (1, 2)) for maps in found], axis=1),
        )
        done = 0
        for batch in pixels.batches(indices, BATCH):
            values[done : done + len(batch)] = call(batch)
            done += len(batch)
            progress(done, len(indices))
    return values


class FeatureCache:
    """Features of one trunk at one input size; a database per trunk, so that several processes may write.

    A cache that cannot be read or written is no error: its features are computed again.

    Args:
        trunk_digest: SHA-256 of the 26 tensors.
        image_size_px: side of the input.
        compute: what the layers multiplied in.
        mode: how pictures of another shape came to the input.
    """

    def __init__(
        self, trunk_digest: str, image_size_px: int, compute: ComputeType, mode: ResizeMode = "stretch"
    ) -> None:
        # `stretch` goes without saying, or what earlier versions kept would be computed again.
        resized = RESIZE_METHOD if mode == "stretch" else f"{RESIZE_METHOD} {mode}"
        key = f"{_FORMAT} {trunk_digest} {image_size_px} {compute} {resized} {DEPTHS}"
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
        except (sqlite3.Error, TypeError, ValueError):  # damaged, or locked for longer than it is worth
            return {}
        return {
            name: values for name, values in found.items() if values.shape == (WIDTH,) and np.isfinite(values).all()
        }

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
