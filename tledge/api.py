"""Every command as one Python call. Nothing heavy is imported before a call needs it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tledge.core.types import ClassWeighting, ComputeType, HeadName, TechniqueChoice
from tledge.evaluation.gates.gate import Limits, OnUndecided

if TYPE_CHECKING:
    from tledge.compression.optimize import OptimizedRun
    from tledge.conversion.export import ExportResult
    from tledge.deployment.export import TargetExport
    from tledge.deployment.kit import Kit
    from tledge.diagnosis.diagnose import Diagnosis
    from tledge.evaluation.baseline import Accepted
    from tledge.evaluation.comparison import CheckResult
    from tledge.pipeline import PipelineResult
    from tledge.reporting.inspection import Inspection
    from tledge.reporting.report import Report
    from tledge.runtimes.predict import Prediction
    from tledge.training.train import TrainedRun

    AnyPath: TypeAlias = str | os.PathLike[str]
    AnyRun: TypeAlias = AnyPath | TrainedRun | OptimizedRun


def train(
    data: AnyPath,
    *,
    technique: TechniqueChoice,
    out: AnyPath,
    weights: str = "imagenet",
    head: HeadName | None = None,
    image_size: int = 224,
    epochs: int | None = None,
    batch_size: int = 16,
    learning_rate: float | None = None,
    patience: int | None = None,
    freeze_until: str | None = None,
    class_weighting: ClassWeighting = "balanced",
    augment: bool = False,
    compute: ComputeType = "float32",
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    seed: int = 0,
    skip_unreadable: bool = False,
    drop_duplicates: bool = False,
    selection: str | None = None,
) -> TrainedRun:
    """Train a reference model on a folder of images; see `tledge.training.settings.TrainSettings`."""
    from tledge.training.settings import TrainSettings
    from tledge.training.train import train as stage

    settings = TrainSettings(
        technique=technique,
        weights=weights,
        head=head,
        image_size=image_size,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        freeze_until=freeze_until,
        class_weighting=class_weighting,
        augment=augment,
        compute=compute,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        seed=seed,
        skip_unreadable=skip_unreadable,
        drop_duplicates=drop_duplicates,
        selection=selection,
    )
    return stage(Path(data), settings, Path(out), _silent)


def run(
    data: AnyPath,
    *,
    technique: TechniqueChoice,
    out: AnyPath,
    weights: str = "imagenet",
    head: HeadName | None = None,
    image_size: int = 224,
    epochs: int | None = None,
    seed: int = 0,
    recipes: Sequence[str] = (),
    gates: Limits | None = None,
    on_undecided: OnUndecided = "pass",
    threads: int | None = None,
) -> PipelineResult:
    """Train, export, check, bench and report; for more training settings call the stages one by one."""
    from tledge.evaluation.settings import CheckSettings
    from tledge.pipeline import run_pipeline
    from tledge.training.settings import TrainSettings

    settings = TrainSettings(
        technique=technique, weights=weights, head=head, image_size=image_size, epochs=epochs, seed=seed
    )
    checking = CheckSettings(gates or {}, on_undecided)
    return run_pipeline(
        Path(data), settings, Path(out), recipes=tuple(recipes), checking=checking, threads=threads, progress=_silent
    )


def optimize(
    run: AnyRun,
    *,
    out: AnyPath,
    method: str | Sequence[str] = "low-rank",
    speedup: float | None = None,
    max_drop: float | None = None,
    size_ratio: float | None = None,
    image_size: int | None = None,
    last_layer: str | None = None,
    pictures: int | None = None,
    sparsity: float | None = None,
    clusters: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    data: AnyPath | None = None,
) -> OptimizedRun:
    """Make a run's model cheaper, by one method or several in order.

    Methods: `filters`, `low-rank`, `prune`, `cluster`, `qat`. For a goal instead: `tledge.search`.

    See `tledge.compression.options.Options` for what belongs to which method, and
    `tledge.compression.optimize.optimize`.
    """
    from tledge.compression.optimize import optimize as stage
    from tledge.compression.options import Options, settings_of

    options = Options(
        speedup=speedup,
        max_drop=max_drop,
        size_ratio=size_ratio,
        image_size=image_size,
        last_layer=last_layer,
        pictures=pictures,
        sparsity=sparsity,
        clusters=clusters,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    methods = (method,) if isinstance(method, str) else tuple(method)
    return stage(_path(run), settings_of(methods, options), Path(out), _silent, data=_folder(data))


def export(
    run: AnyRun,
    *,
    recipes: Sequence[str] = (),
    force: bool = False,
    max_drop: float | None = None,
    data: AnyPath | None = None,
) -> ExportResult:
    """Export a run; by default the six built-in recipes. See `tledge.conversion.export.export`."""
    from tledge.conversion.export import export as stage

    return stage(_path(run), tuple(recipes), force=force, max_drop=max_drop, data=_folder(data))


def export_for_target(run: AnyRun, target: str, *, force: bool = False, data: AnyPath | None = None) -> TargetExport:
    """Export a run for a kind of device, by name or TOML file. See `tledge.deployment.export.export_for_target`."""
    from tledge.deployment.export import export_for_target as stage
    from tledge.deployment.targets import load_target

    return stage(_path(run), load_target(target), force=force, data=_folder(data))


def kit(run: AnyRun, out: AnyPath, *, target: str | None = None, images: int = 6, data: AnyPath | None = None) -> Kit:
    """Pack a run for a device, or everything it exported. See `tledge.deployment.kit.build_kit`."""
    from tledge.deployment.kit import build_kit as stage
    from tledge.deployment.targets import load_target

    chosen = None if target is None else load_target(target)
    return stage(_path(run), chosen, Path(out), images=images, data=_folder(data))


def check(
    run: AnyRun,
    *,
    artefacts: Sequence[AnyPath] = (),
    data: AnyPath | None = None,
    max_drop: float | None = None,
    gates: Limits | None = None,
    on_undecided: OnUndecided = "fail",
    baseline: AnyPath | None = None,
) -> CheckResult:
    """Compare artefacts with the reference.

    See `tledge.evaluation.check.check`; `tledge.evaluation.gates.GATES` names the gates.
    """
    from tledge.evaluation.check import check as stage
    from tledge.evaluation.settings import CheckSettings

    limits = {**(gates or {}), **({} if max_drop is None else {"max_drop": max_drop})}
    settings = CheckSettings(limits, on_undecided, None if baseline is None else Path(baseline))
    return stage(_path(run), settings, artefacts=[Path(a) for a in artefacts], data=_folder(data))


def save_baseline(run: AnyRun, out: AnyPath) -> Accepted:
    """Keep the last check of a run as the accepted release. See `tledge.evaluation.baseline.save_baseline`."""
    from tledge.evaluation.baseline import save_baseline as stage

    return stage(_path(run), Path(out))


def diagnose(run: AnyRun, artefact: AnyPath, *, data: AnyPath | None = None) -> Diagnosis:
    """Say why an artefact answers differently from its model. See `tledge.diagnosis.diagnose.diagnose`."""
    from tledge.diagnosis.diagnose import diagnose as stage

    return stage(_path(run), Path(artefact), data=_folder(data))


def report(run: AnyRun) -> Report:
    """Write `report.md` and return what is in it. See `tledge.reporting.report.report`."""
    from tledge.reporting.report import report as stage

    return stage(_path(run))


def inspect(path: AnyPath) -> Inspection:
    """Say what a model file or a run is. See `tledge.reporting.inspection.inspect`."""
    from tledge.reporting.inspection import inspect as stage

    return stage(Path(path))


def predict(model: AnyPath, images: Sequence[AnyPath], *, top: int = 3) -> tuple[Prediction, ...]:
    """Classify image files with a model file. See `tledge.runtimes.predict.predict`."""
    from tledge.runtimes.predict import predict as stage

    return stage(Path(model), [Path(image) for image in images], top)


def _silent(what: str, done: int, total: int) -> None:
    """Progress of library calls is not shown."""


def _folder(data: AnyPath | None) -> Path | None:
    return None if data is None else Path(data)


def _path(run: AnyRun) -> Path:
    return Path(run) if isinstance(run, str | os.PathLike) else run.run.path
