"""What is known of one trunk on the sampled images: LogME and two probes at each depth, and what it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tledge.core.dependencies import require
from tledge.core.errors import WeightsError
from tledge.core.progress import Steps
from tledge.core.types import ComputeType, Labels
from tledge.data.pixels import PixelStore
from tledge.model.weights import TrunkWeights
from tledge.selection.feature_cache import FeatureCache, Features
from tledge.selection.logme import logme
from tledge.selection.pooled import DEPTHS, at_depth, pooled_features, trunk_of
from tledge.selection.probes import linear_probe, nearest_neighbours
from tledge.selection.sample import Sample
from tledge.stats.metrics import Proportion
from tledge.stats.paired import Hits

_SEED = 0


@dataclass(frozen=True)
class DepthEvidence:
    """One depth of a trunk: LogME, higher is better; accuracies with intervals; `hits` of the linear probe, (N,)."""

    depth: str
    logme: float
    linear: Proportion
    neighbours: Proportion
    named: tuple[int, ...]
    hits: Hits


@dataclass(frozen=True)
class TrunkFeatures:
    """Features, (N, 1280), of a sample; the digest of the trunk's tensors, where it came from, how many were known."""

    values: Features
    digest: str
    source: str
    cached: int


@dataclass(frozen=True)
class TrunkEvidence:
    """One trunk: evidence from input to output, seconds it took, and how many images were known from before."""

    name: str
    digest: str
    source: str
    depths: tuple[DepthEvidence, ...]
    seconds: float
    cached_images: int

    @property
    def best(self) -> DepthEvidence:
        """The depth with the highest LogME."""
        return max(self.depths, key=lambda one: one.logme)

    @property
    def deepest(self) -> DepthEvidence:
        """Block 5: what feature extraction uses."""
        return self.depths[-1]


def examine(
    name: str,
    known_digest: str | None,
    load: Callable[[], TrunkWeights],
    sample: Sample,
    image_size_px: int,
    compute: ComputeType,
    progress: Steps,
) -> TrunkEvidence:
    """Compute, or fetch, a trunk's features of the sample and measure what they tell.

    Args:
        name: of the trunk.
        known_digest: of its tensors, where it is known without them; if all features are kept, nothing is loaded.
        load: returns the weights.
        sample: the images.
        image_size_px: side of the input.
        compute: what the trunk multiplies in.
        progress: called with (images done, images in all).

    Raises:
        WeightsError: the weights cannot be had, or give features that are not finite.
        DataError: an image is unreadable.
    """
    started = time.perf_counter()
    found = features_of(name, known_digest, load, sample, image_size_px, compute, progress)
    if unusable := int(np.count_nonzero(~np.isfinite(found.values).all(axis=1))):
        raise WeightsError(
            f"expected finite features of {name}, but {unusable} of {len(found.values)} images give infinite ones or "
            "NaN; check its weights, or use --compute float32"
        )
    # The matrices are small: several threads would spend their time waiting for each other. Only libraries that are
    # loaded by then are limited.
    require("sklearn.linear_model")
    with require("threadpoolctl").threadpool_limits(1):
        depths = tuple(_depth_evidence(depth, at_depth(found.values, depth), sample) for depth in DEPTHS)
    return TrunkEvidence(name, found.digest, found.source, depths, time.perf_counter() - started, found.cached)


def features_of(
    name: str,
    known_digest: str | None,
    load: Callable[[], TrunkWeights],
    sample: Sample,
    image_size_px: int,
    compute: ComputeType,
    progress: Steps,
) -> TrunkFeatures:
    """A trunk's pooled features of a sample, from the cache as far as it knows them; arguments as for `examine`.

    Raises:
        WeightsError: the weights cannot be had.
        DataError: an image is unreadable.
    """
    if known_digest is not None:
        kept = FeatureCache(known_digest, image_size_px, compute).get(sample.sha256)
        if all(one in kept for one in sample.sha256):
            progress(len(sample.sha256), len(sample.sha256))
            values = np.stack([kept[one] for one in sample.sha256])
            return TrunkFeatures(values, known_digest, f"{name} (kept features)", len(values))
    weights = load()

    def compute_missing(rows: Labels) -> Features:
        store = PixelStore(sample.paths, image_size_px, sha256=sample.sha256)
        return pooled_features(trunk_of(weights, image_size_px), store, rows, compute, progress)

    cache = FeatureCache(weights.digest, image_size_px, compute)
    values, cached = cache.complete(sample.sha256, compute_missing)
    return TrunkFeatures(values, weights.digest, weights.source, cached)


def _depth_evidence(depth: str, features: Features, sample: Sample) -> DepthEvidence:
    linear = linear_probe(features, sample.labels, _SEED)
    neighbours = nearest_neighbours(features, sample.labels)
    named = tuple(int(label) for label in linear.named)
    score = logme(features, sample.labels)
    return DepthEvidence(
        depth, score, linear.accuracy, neighbours.accuracy, named, np.asarray(linear.named == sample.labels)
    )
