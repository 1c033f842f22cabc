"""Does LogME predict which trunk does best after training?

    python benchmarks/select_rank_correlation.py PHOTOS OUT

PHOTOS is a folder of photographs (three classes or more), OUT a folder for two CSV files. Sets are made of it and of
scikit-learn's digits: all classes, pairs of classes, halves, few images. On each set every trunk that is at hand, and a
random one, is looked at by `select` on the training images alone, then trained with technique feature-extraction; the
accuracy is that on the test images. Rank correlations are between trunks within a set, since LogME compares trunks on
the same images only; equal accuracies are ties (Kendall's tau-b). `regret` is what following LogME cost in accuracy.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from itertools import combinations
from pathlib import Path

import h5py
import numpy as np
from scipy.stats import kendalltau, spearmanr

from tledge.data.scan import ImageFile
from tledge.files import write_csv
from tledge.manifest import read_split
from tledge.metrics import accuracy
from tledge.model.random_trunk import random_trunk
from tledge.runners import open_runner
from tledge.selection.evidence import TrunkEvidence, examine
from tledge.selection.sample import draw
from tledge.stages.check_images import run_images
from tledge.stages.demo import write_digits
from tledge.stages.select import candidates_at_hand
from tledge.stages.train import TrainedRun, train
from tledge.stages.train_settings import TrainSettings

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


def random_file(folder: Path) -> str:
    """The random trunk that `select` looks at, as a file to train with."""
    path = folder / "random.h5"
    with h5py.File(path, "w") as file:
        for layer, (kernel, bias) in random_trunk(0).tensors.items():
            file[f"{layer}/kernel"], file[f"{layer}/bias"] = kernel, bias
    return str(path)


def looked_at(run: TrainedRun, data: Path, name: str) -> TrunkEvidence:
    """What `select` finds on the run's training images."""
    rows = read_split(run.run, "train")
    sample = draw(data, [ImageFile(row.path, row.label, "train") for row in rows], SAMPLE, SEED)
    digest, load = candidates_at_hand()[name]
    return examine(name, digest, load, sample, run.manifest.image_size_px, "float32", lambda *_: None)


def measure(set_name: str, data: Path, size: int, name: str, weights: str, folder: Path) -> Measured:
    """Train with one trunk and compare what `select` says with what the test images say."""
    settings = TrainSettings(
        "feature-extraction",
        weights=weights,
        image_size=size,
        val_fraction=0.2,
        test_fraction=0.4,
        drop_duplicates=True,
    )
    run = train(data, settings, folder / "run", lambda *_: None)
    seen = looked_at(run, data, name)
    images = run_images(run.run, run.manifest, {size})
    runner = open_runner(run.run.reference)
    answers = np.concatenate([runner.predict(batch[size]) for batch in images.batches(16)])
    found = accuracy(answers, images.labels)
    counts = run.manifest.split["images"]
    return Measured(
        set_name,
        size,
        len(run.manifest.classes),
        counts["train"],
        counts["test"],
        name,
        round(seen.best.logme, 5),
        seen.best.depth,
        round(seen.deepest.logme, 5),
        round(seen.deepest.linear.value, 5),
        round(found.value, 5),
        round(found.low, 5),
        round(found.high, 5),
    )


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
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as files:
        random = random_file(Path(files))
        for name, data, size in image_sets(photos, Path(folder)):
            for trunk in candidates_at_hand():
                with tempfile.TemporaryDirectory() as run:
                    rows.append(measure(name, data, size, trunk, random if trunk == "random" else trunk, Path(run)))
                print(",".join(map(str, astuple(rows[-1]))), flush=True)
            write_csv(
                out / "select_rank_correlation.csv", [f.name for f in fields(Measured)], [astuple(r) for r in rows]
            )
    header = ("predictor", "set", "trunks", "spearman", "kendall", "regret", "first_is_best")
    write_csv(out / "select_rank_correlation_summary.csv", header, summary(rows))


if __name__ == "__main__":
    main()
