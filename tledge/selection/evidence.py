"""What is known of one trunk on the sampled images: LogME and two probes at each depth, and what it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.core.errors import WeightsError
from tledge.core.progress import Steps
from tledge.core.types import ComputeType, Labels, ResizeMode
from tledge.model.weights import TrunkWeights
from tledge.selection.features import DEPTHS, Features, at_depth, features_of
from tledge.selection.logme import logme
from tledge.selection.sample import Sample
from tledge.stats.metrics import Proportion, proportion
from tledge.stats.paired import Hits

_SEED = 0
FOLDS = 5
NEIGHBOURS = 5
_INVERSE_PENALTY = 0.1
_ITERATIONS = 500


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
    mode: ResizeMode = "stretch",
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
        mode: how pictures of another shape come to the input.

    Raises:
        WeightsError: the weights cannot be had, or give features that are not finite.
        DataError: an image is unreadable.
    """
    started = time.perf_counter()
    found = features_of(name, known_digest, load, sample, image_size_px, compute, progress, mode)
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


def _depth_evidence(depth: str, features: Features, sample: Sample) -> DepthEvidence:
    linear = linear_probe(features, sample.labels, _SEED)
    neighbours = nearest_neighbours(features, sample.labels)
    named = tuple(int(label) for label in linear.named)
    score = logme(features, sample.labels)
    return DepthEvidence(
        depth, score, linear.accuracy, neighbours.accuracy, named, np.asarray(linear.named == sample.labels)
    )


@dataclass(frozen=True)
class Probe:
    """Accuracy with its interval, and the class named for each image, (N,)."""

    accuracy: Proportion
    named: Labels


def linear_probe(features: NDArray[np.float32], labels: Labels, seed: int) -> Probe:
    """Cross-validated logistic regression with an L2 penalty on standardised features.

    G. Alain and Y. Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", 2017. Standardising is
    learned inside each fold. There are at most 5 folds, and no more than the rarest class has images.

    Args:
        features: (N, D).
        labels: (N,) class indices, each class at least twice.
        seed: of the folds.
    """
    linear, selection = require("sklearn.linear_model"), require("sklearn.model_selection")
    pipeline, preprocessing = require("sklearn.pipeline"), require("sklearn.preprocessing")
    regression = linear.LogisticRegression(C=_INVERSE_PENALTY, max_iter=_ITERATIONS, class_weight="balanced")
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
    folds = selection.StratifiedKFold(folds_for(labels), shuffle=True, random_state=seed)
    named = selection.cross_val_predict(model, features, labels, cv=folds)
    return _probe(named, labels)


def nearest_neighbours(features: NDArray[np.float32], labels: Labels) -> Probe:
    """Majority of the 5 most similar other images, by cosine; similarity breaks ties."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    count = min(NEIGHBOURS, len(labels) - 1)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    votes = np.zeros((len(labels), int(labels.max()) + 1))
    rows = np.repeat(np.arange(len(labels)), count)
    # A whole vote each, and a trace of the similarity that can only decide between equal numbers of votes.
    weights = 1.0 + 1e-3 * np.take_along_axis(similarity, nearest, axis=1)
    np.add.at(votes, (rows, labels[nearest].ravel()), weights.ravel())
    return _probe(votes.argmax(axis=1), labels)


def folds_for(labels: Labels) -> int:
    """How many folds the rarest class allows: 2 to 5."""
    return int(min(FOLDS, max(2, np.bincount(labels)[np.unique(labels)].min())))


def _probe(named: Any, labels: Labels) -> Probe:
    answers = np.asarray(named, np.int64)
    return Probe(proportion(int(np.count_nonzero(answers == labels)), len(labels)), answers)
