"""Make a run smaller and faster: a new run, compared with the original model for ever after."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tledge.compression.flat import input_size
from tledge.compression.images import RunImages
from tledge.compression.method import MethodSettings, Outcome
from tledge.compression.options import ALL_DEFAULTS, Options, method_of, require_order, settings_of
from tledge.compression.unlabelled import unlabelled_pictures
from tledge.core.dependencies import require_tensorflow
from tledge.core.environment import command_line, machine, versions
from tledge.core.errors import SettingsError
from tledge.core.files import sha256_file, write_csv
from tledge.core.progress import Progress, silent
from tledge.core.types import Json
from tledge.model.ranges import write_ranges
from tledge.model.saving import save_model
from tledge.runs.manifest import (
    Manifest,
    Parent,
    optimizations,
    read_manifest,
    split_digest,
    verify_run,
    write_labels,
    write_manifest,
    write_split,
)
from tledge.runs.rundir import RunDir, new_run, open_run, require_vacant
from tledge.runs.unfinished import RESUME, ResumeSettings, unfinished

if TYPE_CHECKING:
    import keras

    from tledge.compression.shrinking import Shrunk


@dataclass(frozen=True)
class OptimizedRun:
    """The new run, its manifest, and what each method made, in the order they were applied."""

    run: RunDir
    manifest: Manifest
    outcomes: tuple[Outcome, ...]

    @property
    def shrunk(self) -> Shrunk | None:
        """How `filters` or `low-rank` made the model smaller, None if neither was among the methods."""
        return next((outcome.shrunk for outcome in reversed(self.outcomes) if outcome.shrunk), None)


def optimize_by_name(
    run_path: Path,
    options: Options = ALL_DEFAULTS,
    *,
    out: Path,
    data: Path | None = None,
    unlabelled: Path | None = None,
    resuming: ResumeSettings = RESUME,
    progress: Progress = silent,
) -> OptimizedRun:
    """Make a run's model cheaper, by one method or several in order; for a goal instead: `tledge.search`.

    Args:
        run_path: any finished run, trained or optimized.
        options: which methods, and how.
        out: where the new run goes.
        data: where the run's images are now; None for where they were at training.
        unlabelled: a folder of further pictures to learn the original's answers from, whatever they show.
        resuming: whether to go on with what an interrupted call left.
        progress: called with (what is going on, done, in all).

    Raises:
        SettingsError: an option that none of the methods has, a value out of range, or a target that cannot be met.
        TledgeError: as `optimize`.
    """
    given = asdict(options)
    methods = given.pop("method")
    settings = settings_of(methods, given)
    return optimize(run_path, settings, out, progress, data=data, unlabelled=unlabelled, resuming=resuming)


def optimize(
    run_path: Path,
    settings: MethodSettings | Sequence[MethodSettings],
    out: Path,
    progress: Progress,
    images: RunImages | None = None,
    data: Path | None = None,
    unlabelled: Path | None = None,
    resuming: ResumeSettings = RESUME,
) -> OptimizedRun:
    """Make a run's model cheaper, by one method or several one after the other, and write the result as a new run.

    Choices are made on training and validation images; the test subset stays for `check`. Nothing appears at `out`
    before the run is whole.

    Args:
        run_path: any finished run, trained or optimized.
        settings: of one method, or of several in the order in which to apply them.
        out: where the new run goes.
        progress: called with (what is going on, done, in all).
        images: of the run, from an earlier call that learned something about its model; None to begin anew.
        data: where the run's images are now; None for where they were at training.
        unlabelled: a folder of further pictures to learn from, where `images` is None.
        resuming: whether trainings go on with what an interrupted call left.

    Raises:
        RunError: the run is damaged, something is at `out`, or another process is writing it.
        SettingsError: a target that cannot be met, or a method that would destroy what an earlier one made.
        DataError: the run's images are gone or changed, or `unlabelled` has none to learn from.
        MissingDependencyError: the method needs TFMOT, which is not installed.
    """
    wanted = tuple(settings) if isinstance(settings, Sequence) else (settings,)
    require_vacant(out)
    parent = open_run(run_path, data)
    manifest = read_manifest(parent)
    history = [step["method"] for step in optimizations(manifest)]
    require_order(history, wanted)
    for step in wanted:
        method_of(step).require_installed()
    verify_run(parent, manifest)
    if images is None:
        further = None if unlabelled is None else unlabelled_pictures(unlabelled, parent, manifest, progress)
        images = RunImages(parent, manifest, further)
    started = time.perf_counter()
    with unfinished(out, resuming) as place:
        split = split_digest(images.rows)
        work = place.work(_basis(manifest, split, wanted) | images.record())
        outcomes = _apply_all(images.model(), wanted, history, images, progress, work)
        seconds = time.perf_counter() - started
        with new_run(out) as run:
            _save(run, parent, outcomes)
            write_split(run, images.rows)
            write_labels(run, manifest.classes)
            described = _manifest(run, parent, manifest, outcomes, images.root, out, seconds)
            write_manifest(run, replace(described, split_sha256=split))
    return OptimizedRun(RunDir(out), read_manifest(RunDir(out)), outcomes)


def _basis(manifest: Manifest, split: str, wanted: Sequence[MethodSettings]) -> Json:
    """What the new model depends on, beside versions."""
    steps = {f"{number} {method_of(each).name}": asdict(each) for number, each in enumerate(wanted, 1)}
    return {"model": manifest.model_sha256, "reference": manifest.reference_sha256, "split": split, "step": steps}


def _apply_all(
    model: keras.Model,
    wanted: Sequence[MethodSettings],
    history: Sequence[str],
    images: RunImages,
    progress: Progress,
    work: Path,
) -> tuple[Outcome, ...]:
    _, keras = require_tensorflow()
    # All of them before the first, which may take hours; none makes layers that another would refuse.
    if reason := next(filter(None, (method_of(settings).supports(model) for settings in wanted)), None):
        raise SettingsError(reason)
    outcomes: list[Outcome] = []
    for number, settings in enumerate(wanted, 1):
        method = method_of(settings)
        model = outcomes[-1].model if outcomes else model
        keras.utils.set_random_seed(settings.seed)
        done = [*history, *(outcome.method for outcome in outcomes)]
        outcome = method.apply(model, settings, done, images, progress, work / f"{number}-{method.name}")
        outcomes.append(dataclasses.replace(outcome, record=outcome.record | images.record()))
    return tuple(outcomes)


def _save(run: RunDir, parent: RunDir, outcomes: Sequence[Outcome]) -> None:
    save_model(outcomes[-1].model, run.model)
    run.set_reference(parent.reference)
    if (ranges := outcomes[-1].ranges) is not None:
        write_ranges(run.quantization, ranges)
    rows = [
        (outcome.method, epoch, round(loss, 6)) for outcome in outcomes for epoch, loss in enumerate(outcome.losses)
    ]
    write_csv(run.history, ("method", "epoch", "val_loss"), rows)


def _manifest(
    run: RunDir,
    parent: RunDir,
    before: Manifest,
    outcomes: Sequence[Outcome],
    root: Path,
    out: Path,
    seconds: float,
) -> Manifest:
    last = outcomes[-1]
    digest = {} if last.ranges is None else {"quantization_sha256": sha256_file(run.quantization)}
    return replace(
        before,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        machine=machine(),
        seed=last.record["settings"]["seed"],
        head=before.head and ("gap" if any(layer.name == "gap" for layer in last.model.layers) else "flatten"),
        image_size_px=input_size(last.model),
        data_root=os.path.relpath(root.resolve(), out.resolve()),
        command=command_line("tledge.compression.optimize"),
        training=replace(
            before.training,
            trainable_parameters=last.parameters,
            val_accuracy=last.val_accuracy.value,
            val_loss=None,
        ),
        timings_s={"optimize": round(seconds, 3)},
        model_sha256=sha256_file(run.model),
        reference_sha256=sha256_file(run.reference),
        parent=_ancestry(parent, before, outcomes[:-1], out),
        optimization=last.record | digest,
    )


def _ancestry(parent: RunDir, before: Manifest, earlier: Sequence[Outcome], out: Path) -> Parent:
    ancestry = Parent(
        path=os.path.relpath(parent.path.resolve(), out.resolve()),
        model_sha256=before.model_sha256,
        optimization=before.optimization,
        parent=before.parent,
    )
    for outcome in earlier:
        ancestry = Parent(path=None, model_sha256=None, optimization=outcome.record, parent=ancestry)
    return ancestry
