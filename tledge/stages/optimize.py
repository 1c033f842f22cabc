"""Make a run smaller and faster: a new run, compared with the original model for ever after."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tledge.compression import ShrinkData, ShrinkSettings, Shrunk, shrink
from tledge.data.pixels import PixelStore
from tledge.dependencies import quiet, require_tensorflow
from tledge.environment import command_line, machine, versions
from tledge.errors import RunError
from tledge.files import sha256_file, write_csv
from tledge.manifest import (
    Manifest,
    data_root,
    read_manifest,
    read_split,
    verify_reference,
    write_labels,
    write_manifest,
    write_split,
)
from tledge.rundir import RunDir, new_run, open_run, require_vacant
from tledge.techniques import Progress
from tledge.types import Labels, Subset

if TYPE_CHECKING:
    import keras

FILTERS = "filters"


@dataclass(frozen=True)
class OptimizedRun:
    """The new run, its manifest, and how the model became smaller."""

    run: RunDir
    manifest: Manifest
    shrunk: Shrunk


def optimize(run_path: Path, settings: ShrinkSettings, out: Path, progress: Progress) -> OptimizedRun:
    """Prune filters of a run's model and write the result as a new run.

    Choices are made on training and validation images; the test subset stays for `check`. Nothing appears at `out`
    before the run is whole.

    Raises:
        RunError: the run is damaged, or something is at `out`.
        SettingsError: a target that cannot be met.
        DataError: the run's images are gone or changed.
    """
    require_vacant(out)
    parent = open_run(run_path)
    manifest = read_manifest(parent)
    verify_reference(parent, manifest)
    rows = read_split(parent)
    root = data_root(parent, manifest)
    store = PixelStore([root / r.path for r in rows], manifest.image_size_px, sha256=[r.sha256 for r in rows])

    def part(subset: Subset) -> tuple[Labels, Labels]:
        chosen = [index for index, row in enumerate(rows) if row.subset == subset]
        labels = [manifest.classes.index(rows[index].label) for index in chosen]
        return np.asarray(chosen, np.int64), np.asarray(labels, np.int64)

    data = ShrinkData(store, part("train"), part("val"))
    if min(len(data.train[0]), len(data.val[0])) == 0:
        raise RunError(f"expected training and validation images in {parent.split}, but one is empty; train again")
    _, keras = require_tensorflow()
    keras.utils.set_random_seed(settings.seed)
    model = keras.models.load_model(parent.model, compile=False, safe_mode=True)
    started = time.perf_counter()
    shrunk = shrink(model, data, settings, progress)
    seconds = time.perf_counter() - started
    with new_run(out) as run:
        _save(run, parent, shrunk.model, shrunk)
        write_split(run, rows)
        write_labels(run, manifest.classes)
        write_manifest(run, _manifest(run, parent, manifest, settings, shrunk, root, out, seconds))
    return OptimizedRun(RunDir(out), read_manifest(RunDir(out)), shrunk)


def _save(run: RunDir, parent: RunDir, model: keras.Model, shrunk: Shrunk) -> None:
    with quiet():
        model.save(run.model)
    run.set_reference(parent.reference)
    losses = shrunk.distillation.losses if shrunk.distillation else ()
    write_csv(run.history, ("epoch", "val_loss"), [(epoch, round(loss, 6)) for epoch, loss in enumerate(losses)])


def _manifest(
    run: RunDir,
    parent: RunDir,
    before: Manifest,
    settings: ShrinkSettings,
    shrunk: Shrunk,
    root: Path,
    out: Path,
    seconds: float,
) -> Manifest:
    result = shrunk.result
    kept = {"trainable_parameters": result.parameters, "val_accuracy": result.val_accuracy.value, "val_loss": None}
    return replace(
        before,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        machine=machine(),
        seed=settings.seed,
        image_size_px=int(shrunk.model.input_shape[1]),
        data_root=os.path.relpath(root.resolve(), out.resolve()),
        command=command_line("tledge.stages.optimize"),
        training=before.training | kept,
        timings_s={"optimize": round(seconds, 3)},
        model_sha256=sha256_file(run.model),
        reference_sha256=sha256_file(run.reference),
        parent={
            "path": os.path.relpath(parent.path.resolve(), out.resolve()),
            "model_sha256": before.model_sha256,
            "optimization": before.optimization,
            "parent": before.parent,
        },
        optimization={
            "method": FILTERS,
            "settings": asdict(settings),
            "multiply_add_ratio": round(shrunk.steps[0].multiply_adds / result.multiply_adds, 3),
            "parameter_ratio": round(shrunk.steps[0].parameters / result.parameters, 3),
            "filters": shrunk.filters,
            "steps": [asdict(step) for step in shrunk.steps],
        },
    )
