"""Does LogME predict which trunk does best after training?

    python benchmarks/select_rank_correlation.py PHOTOS OUT

PHOTOS is a folder of photographs (three classes or more), OUT a folder for two CSV files. Sets are made of it and of
scikit-learn's digits: all classes, pairs of classes, halves, few images. On each set every trunk that is at hand, and a
random one, is looked at by `select` on the training images alone; then a head is trained on its features as technique
feature-extraction does, with the same loop; the accuracy is that on the test images (40 %). Rank correlations are
between trunks within a set, since LogME compares trunks on the same images only; equal accuracies are ties (Kendall's
tau-b). `regret` is what following LogME cost in accuracy.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr

from tledge.data.pixels import PixelStore, load_images
from tledge.data.scan import ImageFile, list_images
from tledge.data.split import split_images
from tledge.dependencies import require_tensorflow
from tledge.files import write_csv
from tledge.metrics import Proportion, accuracy
from tledge.selection.evidence import examine, features_of
from tledge.selection.feature_cache import Features
from tledge.selection.pooled import at_depth
from tledge.selection.sample import draw
from tledge.stages.demo import write_digits
from tledge.stages.select import candidates_at_hand
from tledge.stages.train_settings import DEFAULTS
from tledge.techniques.fit import fit_model
from tledge.techniques.lesson import Lesson
from tledge.types import SUBSETS, Labels, Subset

SAMPLE = 128
DIGIT_PAIRS = ((1, 7), (3, 8), (4, 9), (5, 6), (8, 9), (3, 5))
DIGITS_PX, PHOTOS_PX = 32, 96
DRAWS, SEED = 10_000, 0


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
    test_accuracy: float
    test_low: float
    test_high: float


def link_set(target: Path, source: Path, classes: tuple[str, ...], per_class: int | None = None) -> Path:
    """A data folder of some classes, of each the first images."""
    for name in classes:
        (target / name).mkdir(parents=True)
        for path in sorted((source / name).iterdir())[:per_class]:
            (target / name / path.name).symlink_to(path.resolve())
    return target


def image_sets(photos: Path, folder: Path) -> Iterator[tuple[str, Path, int]]:
    """Name, folder and image size of every set."""
    names = tuple(sorted(path.name for path in photos.iterdir() if path.is_dir()))
    for count, sets in ((None, [names, *combinations(names, 2)]), (12, [names])):
        for classes in sets:
            name = f"photos {'+'.join(classes)}" + (f", {count} each" if count else "")
            yield name, link_set(folder / name, photos, classes, count), PHOTOS_PX
    write_digits(folder / "all digits")
    digits = tuple("0123456789")
    for count, sets in (
        (40, [digits, digits[:5], digits[5:], *((str(a), str(b)) for a, b in DIGIT_PAIRS)]),
        (10, [digits]),
    ):
        for classes in sets:
            name = f"digits {''.join(classes)}, {count} each"
            yield name, link_set(folder / name, folder / "all digits", classes, count), DIGITS_PX


def train_head(features: Features, split: dict[Subset, Labels], labels: Labels, folder: Path) -> Proportion:
    """Accuracy on the test images of a softmax on a trunk's features, trained by the loop that `train` uses.

    `split` holds rows of `features` and `labels` for each subset.
    """
    _, keras = require_tensorflow()
    defaults = DEFAULTS["feature-extraction"]
    keras.utils.set_random_seed(SEED)
    means = keras.Input((features.shape[1],))
    head = keras.Model(means, keras.layers.Dense(int(labels.max()) + 1, activation="softmax")(means))
    lesson = Lesson(
        model=head,
        pixels=PixelStore([], DIGITS_PX),
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
    fit_model(head, lesson, features, split["train"], split["val"])
    return accuracy(head.predict(features[split["test"]], verbose=0), labels[split["test"]])


def measure(name: str, data: Path, size: int, folder: Path) -> Iterator[Measured]:
    """Compare, for every trunk at hand, what `select` says with what the test images say."""
    images = load_images(list_images(data), size, skip_unreadable=False)
    rows = split_images(images, val_fraction=0.2, test_fraction=0.4, seed=SEED, drop_duplicates=True).rows
    files = [ImageFile(row.path, row.label, row.subset) for row in rows]
    everything = draw(data, files, len(files), SEED)
    seen = draw(data, [file for file in files if file.subset == "train"], SAMPLE, SEED)
    split = {s: np.flatnonzero([file.subset == s for file in everything.files]) for s in SUBSETS}
    for trunk, (digest, load) in candidates_at_hand().items():
        known = features_of(trunk, digest, load, everything, size, "float32", lambda *_: None).values
        evidence = examine(trunk, digest, load, seen, size, "float32", lambda *_: None)
        found = train_head(at_depth(known, "block5_pool"), split, everything.labels, folder)
        best, deepest = evidence.best, evidence.deepest
        counts = (size, len(seen.classes), len(split["train"]), found.n)
        scores = (best.logme, best.depth, deepest.logme, deepest.linear.value, found.value, found.low, found.high)
        rounded = (round(score, 5) if isinstance(score, float) else score for score in scores)
        yield Measured(name, *counts, trunk, *rounded)  # type: ignore[arg-type]


def summary(rows: list[Measured]) -> list[tuple[object, ...]]:
    """Correlations per set and their mean with a 95 % bootstrap interval over sets, for three predictors."""
    by_set: dict[str, list[Measured]] = defaultdict(list)
    for row in rows:
        by_set[row.set].append(row)
    lines: list[tuple[object, ...]] = []
    for predictor in ("logme_best", "logme_block5", "linear_probe_block5"):
        found: list[tuple[float, float, float, float]] = []
        for name, trunks in by_set.items():
            said, true = [getattr(t, predictor) for t in trunks], [t.test_accuracy for t in trunks]
            regret = max(true) - true[int(np.argmax(said))]
            both_vary = len(set(said)) > 1 and len(set(true)) > 1
            rho, tau = (
                (spearmanr(said, true).statistic, kendalltau(said, true).statistic) if both_vary else (np.nan,) * 2
            )
            found.append((float(rho), float(tau), float(regret), float(regret == 0)))
            lines.append((predictor, name, len(trunks), *(round(value, 4) for value in found[-1])))
        values = np.asarray(found)
        drawn = np.random.default_rng(SEED).integers(0, len(values), (DRAWS, len(values)))
        means = np.nanmean(values[drawn], axis=1)
        for label, figures in (
            ("mean", np.nanmean(values, axis=0)),
            ("low", np.quantile(means, 0.025, axis=0)),
            ("high", np.quantile(means, 0.975, axis=0)),
        ):
            lines.append((predictor, f"{label} over {len(by_set)} sets", "", *(round(float(v), 4) for v in figures)))
    return lines


def main() -> None:
    """Measure every set and trunk, write both tables."""
    photos, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data, size in image_sets(photos, Path(folder)):
            for row in measure(name, data, size, Path(folder)):
                rows.append(row)
                print(",".join(map(str, astuple(row))), flush=True)
            header = [field.name for field in fields(Measured)]
            write_csv(out / "select_rank_correlation.csv", header, [astuple(row) for row in rows])
    header = ["predictor", "set", "trunks", "spearman", "kendall", "regret", "first_is_best"]
    write_csv(out / "select_rank_correlation_summary.csv", header, summary(rows))


if __name__ == "__main__":
    main()
