"""Stage 1: from a folder of images to a run with a trained reference model."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tledge.core.dependencies import require_installed, require_tensorflow
from tledge.core.environment import command_line, machine, versions
from tledge.core.errors import SettingsError
from tledge.core.files import sha256_file, write_csv
from tledge.core.progress import Progress, silent
from tledge.core.records import write_record
from tledge.core.types import AUTO, Json, Labels, Subset
from tledge.data.dataset import decode_and_split, numbered, what_was_left_out
from tledge.data.decode import RESIZE_METHOD
from tledge.data.modality import images_to_train
from tledge.data.pixels import LoadedImages
from tledge.data.resizers import other_resizers, resizer_of
from tledge.data.split import Split, SplitRow, data_fingerprint
from tledge.model import weights as weight_sources
from tledge.model.compute import enough_memory
from tledge.model.saving import save_model
from tledge.model.vgg16 import build
from tledge.model.weights import TrunkWeights
from tledge.runs.manifest import (
    Manifest,
    TrainingFacts,
    WeightsFacts,
    read_manifest,
    split_digest,
    split_facts,
    write_labels,
    write_manifest,
    write_split,
)
from tledge.runs.rundir import RunDir, new_run, require_vacant
from tledge.runs.unfinished import RESUME, ResumeSettings, Unfinished, unfinished, work_of
from tledge.selection.features import FeatureCache
from tledge.training.auto import compared, followed, presumed, wants_selection
from tledge.training.settings import TrainPlan, TrainSettings, plan
from tledge.training.task import Epoch, Training, TrainingTask
from tledge.training.techniques import TECHNIQUES
from tledge.training.workers import Workers, joined

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainedRun:
    """A finished training: the run, its manifest, and what a person should be told about the data and the weights."""

    run: RunDir
    manifest: Manifest
    notes: tuple[str, ...]


def train(
    data: Path,
    settings: TrainSettings,
    out: Path,
    progress: Progress = silent,
    *,
    resuming: ResumeSettings = RESUME,
) -> TrainedRun:
    """Train a reference model and write a new run.

    Nothing appears at `out` before the run is whole. How far the training is stays in a hidden folder beside it: the
    same call after an interruption goes on from there. With `TF_CONFIG` in the environment, the processes that it names
    train together, see `tledge.training.workers`.

    Args:
        data: a folder of images in any layout of `tledge.data.scan`, or an archive of them.
        settings: how to train.
        out: where the run goes.
        progress: called with (what is going on, steps done, steps in all).
        resuming: whether to go on with what an interrupted call left.

    Raises:
        SettingsError: a setting or combination that makes no sense.
        DataError: the images cannot be trained on.
        WeightsError: the weights cannot be had.
        RunError: something is at `out` already, or another process is writing it.
        RemoteError: another worker of `TF_CONFIG` was lost.
    """
    workers = joined()
    plan(presumed(settings))
    require_vacant(out)
    require_installed("tensorflow")
    _require_writable_names(data, out)
    if workers.leads:
        with unfinished(out, resuming) as work:
            trained = _train(data, settings, out, progress, work, workers)
            workers.mean([0.0])
        return trained
    # What it writes is what the first one writes, and nobody needs it twice.
    with tempfile.TemporaryDirectory() as own, unfinished(Path(own) / out.name) as work:
        trained = _train(data, settings, Path(own) / out.name, progress, work, workers, work_of(out))
        workers.mean([0.0])
    return TrainedRun(RunDir(out), read_manifest(RunDir(out)), trained.notes)


def _train(
    data: Path,
    settings: TrainSettings,
    out: Path,
    progress: Progress,
    unfinished: Unfinished,
    workers: Workers,
    read_from: Path | None = None,
) -> TrainedRun:
    """Train; `read_from` is the folder of unfinished work of the first worker, for the others."""
    requested = settings.weights
    clock = _Clock()
    listing = images_to_train(data, settings.labels_from)
    # Before anything slow: a selection that does not fit, or weights that cannot be had, end it here.
    chosen = followed(settings, listing) if wants_selection(settings) else None
    settings = chosen.settings if chosen else settings
    weights = None if settings.weights == AUTO else weight_sources.resolve(settings.weights)
    clock.lap("weights")
    images, split = decode_and_split(listing, settings.image_size, settings, progress, resizer_of(settings.resize))
    clock.lap("decode")
    if wants_selection(settings):
        chosen = compared(settings, listing, split.rows, progress)
        settings = chosen.settings
        if requested == AUTO:
            weights = weight_sources.resolve(settings.weights)
        clock.lap("select")
    planned = plan(settings)
    _, keras = require_tensorflow()
    keras.utils.set_random_seed(settings.seed)
    model = build(len(listing.classes), settings.image_size, planned.head, weights, settings.seed)
    clock.lap("build")
    with new_run(out) as run, run.scratch() as scratch:
        cache = _cache(planned, weights)
        work = unfinished.work(_basis(planned, weights, listing.classes, split))
        if read_from is not None:
            work = read_from / work.name
        task = _task(model, images, split, listing.classes, planned, scratch, work, progress, cache, workers)
        with enough_memory("images of this size", "choose a smaller --image-size"):
            training = TECHNIQUES[planned.technique](task)
        clock.lap("train")
        _save(run, model, training, split.rows, listing.classes)
        clock.lap("save")
        if chosen is not None:
            write_record(run.selection, chosen.selection)
        source = WeightsFacts(
            requested=requested,
            source="random" if weights is None else weights.source,
            digest=None if weights is None else weights.digest,
            selection=None if chosen is None else chosen.why,
        )
        facts = _Facts(listing.root, out, listing.classes, split, source, training, clock.laps)
        write_manifest(run, _manifest(run, planned, facts))
    about_weights = () if weights is None else weights.notes
    return TrainedRun(
        RunDir(out), read_manifest(RunDir(out)), (*about_weights, *what_was_left_out(listing, images, split))
    )


def _require_writable_names(data: Path, out: Path) -> None:
    for path in (data, out):
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError:
            raise SettingsError(f"expected paths in UTF-8, but got {str(path)!r}; rename the folder") from None


def _cache(planned: TrainPlan, weights: TrunkWeights | None) -> FeatureCache | None:
    if planned.technique != "feature-extraction" or weights is None:
        return None
    settings = planned.settings
    return FeatureCache(weights.digest, settings.image_size, settings.compute, settings.resize)


def _basis(planned: TrainPlan, weights: TrunkWeights | None, classes: tuple[str, ...], split: Split) -> Json:
    """What the trained weights depend on, beside versions."""
    return {
        **_settings(planned),
        "trunk": None if weights is None else weights.digest,
        "classes": classes,
        "split": split_digest(split.rows),
    }


def _settings(planned: TrainPlan) -> Json:
    """Settings with every default filled in."""
    return asdict(planned.settings) | {key: value for key, value in asdict(planned).items() if key != "settings"}


class _Clock:
    """Seconds per part of the stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def _task(
    model: keras.Model,
    images: LoadedImages,
    split: Split,
    classes: tuple[str, ...],
    planned: TrainPlan,
    scratch: Path,
    work: Path,
    progress: Progress,
    features: FeatureCache | None,
    workers: Workers,
) -> TrainingTask:
    def part(subset: Subset) -> tuple[Labels, Labels]:
        return numbered(images, [row for row in split.rows if row.subset == subset], classes)

    settings = planned.settings
    return TrainingTask(
        model=model,
        pixels=images.pixels,
        train=part("train"),
        val=part("val"),
        epochs=planned.epochs,
        batch_size=settings.batch_size,
        learning_rate=planned.learning_rate,
        patience=planned.patience,
        class_weighting=settings.class_weighting,
        augment=settings.augment,
        frozen_layers=planned.frozen_layers,
        from_random=planned.from_random,
        warm_up_epochs=planned.warm_up_epochs,
        compute=settings.compute,
        seed=settings.seed,
        features=features,
        scratch=scratch,
        progress=progress,
        other_resizers=tuple(other_resizers(settings.resize).values()) if settings.augment else (),
        work=work,
        workers=workers,
    )


def _save(
    run: RunDir, model: keras.Model, training: Training, rows: tuple[SplitRow, ...], classes: tuple[str, ...]
) -> None:
    save_model(model, run.model)
    write_split(run, rows)
    write_labels(run, list(classes))
    header = [field.name for field in fields(Epoch)]
    write_csv(run.history, header, [[round(value, 6) for value in astuple(epoch)] for epoch in training.history])


@dataclass(frozen=True)
class _Facts:
    """What the stage found out, for the manifest."""

    data: Path
    out: Path
    classes: tuple[str, ...]
    split: Split
    weights: WeightsFacts
    training: Training
    timings_s: dict[str, float]


def _manifest(run: RunDir, planned: TrainPlan, facts: _Facts) -> Manifest:
    best = facts.training.history[facts.training.best_epoch - 1]
    settings = planned.settings
    return Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line("tledge.train"),
        versions=versions(),
        machine=machine(),
        seed=settings.seed,
        technique=planned.technique,
        head=planned.head,
        settings=_settings(planned),
        classes=facts.classes,
        image_size_px=settings.image_size,
        resize_method=RESIZE_METHOD,
        resize=settings.resize,
        data_root=os.path.relpath(facts.data.resolve(), facts.out.resolve()),
        data_fingerprint=data_fingerprint(facts.split.rows),
        split_sha256=split_digest(facts.split.rows),
        split=split_facts(facts.split, settings.val_fraction, settings.test_fraction),
        weights=facts.weights,
        training=TrainingFacts(
            epochs=len(facts.training.history),
            best_epoch=facts.training.best_epoch,
            val_accuracy=best.val_accuracy,
            val_loss=best.val_loss,
            trainable_parameters=facts.training.trainable_parameters,
            prefix_images=facts.training.prefix_images,
            prefix_cached=facts.training.prefix_cached,
            prefix_seconds=round(facts.training.prefix_seconds, 3),
        ),
        timings_s=facts.timings_s,
        model_sha256=(digest := sha256_file(run.model)),
        reference_sha256=digest,
        parent=None,
        optimization=None,
    )
