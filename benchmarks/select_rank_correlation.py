"""Does what `select` says predict which trunk does best after training?

    python benchmarks/select_rank_correlation.py PHOTOS OUT [DATA...]
    python benchmarks/select_rank_correlation.py RESULTS.csv

PHOTOS is a folder of photographs (three classes or more), OUT a folder for two CSV files; DATA are more images of ten
classes or so, as tledge reads them (measured: Fashion-MNIST, the four files of Debian's package dataset-fashion-mnist).
Sets are made of them and of scikit-learn's digits: all classes, pairs of classes, halves, few images. On each
set every trunk that is at hand (`tledge weights add` brings more), and a random one, is looked at by `select` on the
training images alone; then a head is trained on its features as technique feature-extraction does, with the same
loop. The test images are 40 % of the photographs and 100 of each other class, so that the order of trunks hangs on as
little chance as there are images for. Rank correlations are between trunks within a set, since LogME compares trunks
on the same images only; equal accuracies are ties (Kendall's tau-b), and a predictor that says the same of all trunks
counts as 0. `regret` is what following a predictor cost in accuracy, `regret_learned` what it cost where the random
trunk, as in `select`, is not to be chosen. Predictors are compared by the differences of these figures on the same
sets; their intervals resample sets, and sources of images as a whole, of which there are few.
The second form makes the summary anew from the table of a measurement.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr
from select_sets import ImageSet, image_sets
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tledge.core.dependencies import require, require_tensorflow
from tledge.core.files import write_csv
from tledge.core.types import SUBSETS, Labels, Subset
from tledge.data.listing import ImageFile
from tledge.data.pixels import PixelStore, load_images
from tledge.data.scan import list_images
from tledge.data.split import split_images
from tledge.model.weights import RANDOM
from tledge.selection.evidence import examine, folds_for
from tledge.selection.features import Features, at_depth, features_of
from tledge.selection.sample import draw
from tledge.selection.select import candidates_at_hand
from tledge.stats.metrics import Proportion, accuracy
from tledge.training.head import fit_head
from tledge.training.settings import DEFAULTS
from tledge.training.task import TrainingTask

SAMPLE = 128
DRAWS, SEED = 10_000, 0
PREDICTORS = ("logme_best", "logme_block5", "linear_probe_block5", "log_likelihood_block5", "five_nearest_block5")
COMPARED = ("logme_block5", "linear_probe_block5", "five_nearest_block5")
Figures = tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """One trunk on one set."""

    set: str
    image_size_px: int
    classes: int
    train_images: int
    test_images: int
    weights: str
    logme_best: float
    best_depth: str
    logme_block5: float
    linear_probe_block5: float
    log_likelihood_block5: float
    five_nearest_block5: float
    test_accuracy: float
    test_low: float
    test_high: float


def held_out_log_likelihood(features: Features, labels: Labels) -> float:
    """Mean log probability of the true class by `select`'s linear probe, cross-validated; higher is better."""
    regression = LogisticRegression(C=0.1, max_iter=500, class_weight="balanced")
    folds = StratifiedKFold(folds_for(labels), shuffle=True, random_state=SEED)
    model = make_pipeline(StandardScaler(), regression)
    with require("threadpoolctl").threadpool_limits(1):
        shares = cross_val_predict(model, features, labels, cv=folds, method="predict_proba")
    return float(np.log(np.clip(shares[np.arange(len(labels)), labels], 1e-12, 1.0)).mean())


def train_head(features: Features, split: dict[Subset, Labels], labels: Labels, folder: Path) -> Proportion:
    """Accuracy on the test images of a softmax on a trunk's features, trained by the loop that `train` uses.

    `split` holds rows of `features` and `labels` for each subset.
    """
    _, keras = require_tensorflow()
    defaults = DEFAULTS["feature-extraction"]
    keras.utils.set_random_seed(SEED)
    means = keras.Input((features.shape[1],))
    head = keras.Model(means, keras.layers.Dense(int(labels.max()) + 1, activation="softmax")(means))
    task = TrainingTask(
        model=head,
        pixels=PixelStore([], 32),
        train=(split["train"], labels[split["train"]]),
        val=(split["val"], labels[split["val"]]),
        epochs=defaults.epochs,
        batch_size=16,
        learning_rate=defaults.learning_rate,
        patience=defaults.patience,
        class_weighting="balanced",
        augment=False,
        frozen_layers=0,
        from_random=False,
        warm_up_epochs=0,
        compute="float32",
        seed=SEED,
        features=None,
        scratch=folder,
        progress=lambda *_: None,
    )
    fit_head(head, task, features, split["train"], split["val"])
    return accuracy(head.predict(features[split["test"]], verbose=0), labels[split["test"]])


def measure(images_of: ImageSet, folder: Path) -> Iterator[Measured]:
    """Compare, for every trunk at hand, what `select` says with what the test images say."""
    size, data = images_of.image_size_px, images_of.folder
    images = load_images(list_images(data), size, skip_unreadable=False)
    fractions = {"val_fraction": images_of.val_fraction, "test_fraction": images_of.test_fraction}
    rows = split_images(images, **fractions, seed=SEED, drop_duplicates=True).rows
    files = [ImageFile(row.path, row.label, row.subset) for row in rows]
    everything = draw(data, files, len(files), SEED)
    seen = draw(data, [file for file in files if file.subset == "train"], SAMPLE, SEED)
    split = {s: np.flatnonzero([file.subset == s for file in everything.files]) for s in SUBSETS}
    looked_at = set(seen.files)
    sampled = np.flatnonzero([file in looked_at for file in everything.files])
    for trunk, (digest, load) in candidates_at_hand().items():
        values = features_of(trunk, digest, load, everything, size, "float32", lambda *_: None).values
        features = at_depth(values, "block5_pool")
        evidence = examine(trunk, digest, load, seen, size, "float32", lambda *_: None)
        found = train_head(features, split, everything.labels, folder)
        best, deepest = evidence.best, evidence.deepest
        counts = (size, len(seen.classes), len(split["train"]), found.n)
        likelihood = held_out_log_likelihood(features[sampled], everything.labels[sampled])
        probes = (deepest.logme, deepest.linear.value, likelihood, deepest.neighbours.value)
        scores = (best.logme, best.depth, *probes, found.value, found.low, found.high)
        rounded = (round(score, 5) if isinstance(score, float) else score for score in scores)
        yield Measured(images_of.name, *counts, trunk, *rounded)  # type: ignore[arg-type]


def agreement(predictor: str, trunks: list[Measured]) -> Figures:
    """Spearman, Kendall (not a number where all trunks did equally well), regret, whether the first was best, regret
    with the best of the trunks that learned something.
    """
    said, true = [getattr(t, predictor) for t in trunks], [t.test_accuracy for t in trunks]
    regret = max(true) - true[int(np.argmax(said))]
    learned = max((t for t in trunks if t.weights != RANDOM), key=lambda t: getattr(t, predictor))
    rho = tau = np.nan
    if len(set(true)) > 1:
        vary = len(set(said)) > 1
        rho, tau = (f(said, true).statistic if vary else 0.0 for f in (spearmanr, kendalltau))
    return float(rho), float(tau), float(regret), float(regret == 0), max(true) - learned.test_accuracy


def means(found: Sequence[Figures]) -> Iterator[tuple[str, Figures]]:
    """Mean over sets with its 95 % bootstrap interval."""
    values = np.asarray(found)
    drawn = np.random.default_rng(SEED).integers(0, len(values), (DRAWS, len(values)))
    averages = np.nanmean(values[drawn], axis=1)
    yield "mean", tuple(np.nanmean(values, axis=0))
    for label, quantile in (("low", 0.025), ("high", 0.975)):
        yield label, tuple(np.nanquantile(averages, quantile, axis=0))


def summary(rows: list[Measured]) -> list[tuple[object, ...]]:
    """Agreement for every predictor and set, and its mean over the sets of each kind and over all."""
    by_set: dict[str, list[Measured]] = defaultdict(list)
    for row in rows:
        by_set[row.set].append(row)
    kinds = ("", *dict.fromkeys(name.split()[0] for name in by_set))
    agreements = {p: {name: agreement(p, trunks) for name, trunks in by_set.items()} for p in PREDICTORS}
    lines: list[tuple[object, ...]] = []
    for predictor, found in agreements.items():
        lines += [(predictor, name, len(by_set[name]), *_rounded(values)) for name, values in found.items()]
        lines += _over(predictor, found, kinds)
    for first, second in combinations(COMPARED, 2):
        one, other = agreements[first], agreements[second]
        differences = {name: tuple(np.subtract(one[name], other[name])) for name in by_set}
        what = f"{first} - {second}"
        lines += _over(what, differences, kinds)
        for label, figures in over_sources(differences, kinds[1:]):
            lines.append((what, f"{label} over {len(kinds) - 1} sources", "", *_rounded(figures)))
    return lines


def _over(what: str, found: Mapping[str, Figures], kinds: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for kind in kinds:
        of_kind = [values for name, values in found.items() if name.startswith(kind)]
        for label, figures in means(of_kind):
            over = " ".join(filter(None, (label, "over", str(len(of_kind)), "sets", kind and f"of {kind}")))
            yield (what, over, "", *_rounded(figures))


def over_sources(found: Mapping[str, Figures], kinds: Sequence[str]) -> Iterator[tuple[str, Figures]]:
    """The interval of the mean over sets when sources of images are drawn again, each with all of its sets."""
    by_kind = [np.asarray([values for name, values in found.items() if name.startswith(kind)]) for kind in kinds]
    sums = np.asarray([np.nansum(values, axis=0) for values in by_kind])
    counts = np.asarray([np.count_nonzero(~np.isnan(values), axis=0) for values in by_kind])
    drawn = np.random.default_rng(SEED).integers(0, len(kinds), (DRAWS, len(kinds)))
    averages = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    for label, quantile in (("low", 0.025), ("high", 0.975)):
        yield label, tuple(np.quantile(averages, quantile, axis=0))


def _rounded(figures: Figures) -> Figures:
    return tuple(round(float(value), 4) for value in figures)


def read_measured(path: Path) -> list[Measured]:
    """Rows of the table that `main` writes."""
    kinds = {"int": int, "float": float, "str": str}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [Measured(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields(Measured)}) for row in rows]


def main() -> None:
    """Measure every set and trunk and write both tables, or write the summary of a table anew."""
    first, *rest = (Path(argument) for argument in sys.argv[1:])
    if rest:
        out, *more = rest
        rows: list[Measured] = []
        with tempfile.TemporaryDirectory() as folder:
            for images_of in image_sets(first, more, Path(folder)):
                for row in measure(images_of, Path(folder)):
                    rows.append(row)
                    print(",".join(map(str, astuple(row))), flush=True)
                header = [field.name for field in fields(Measured)]
                write_csv(out / "select_rank_correlation.csv", header, [astuple(row) for row in rows])
    else:
        out, rows = first.parent, read_measured(first)
    header = ["predictor", "set", "trunks", "spearman", "kendall", "regret", "first_is_best", "regret_learned"]
    write_csv(out / "select_rank_correlation_summary.csv", header, summary(rows))


if __name__ == "__main__":
    main()
