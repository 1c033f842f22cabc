"""Two classifiers on fixed features, each tested on images that it did not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tledge.core.dependencies import require
from tledge.core.types import Labels
from tledge.stats.metrics import Proportion, proportion

FOLDS = 5
NEIGHBOURS = 5
_INVERSE_PENALTY = 0.1
_ITERATIONS = 500


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
