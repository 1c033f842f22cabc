"""Export what one kind of device needs: refused before it is slow, checked when it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tledge.conversion.export import ExportResult, export
from tledge.core.dependencies import require_installed, require_tensorflow
from tledge.core.errors import SettingsError
from tledge.core.progress import Progress, silent
from tledge.core.types import Precision
from tledge.deployment.operator_coverage import uncovered
from tledge.deployment.targets import Delivery, DeviceTarget, load_target
from tledge.formats.tflite import read_operators
from tledge.model.graph import graph_of
from tledge.runs.manifest import read_manifest, verify_run
from tledge.runs.rundir import open_run
from tledge.runtimes.litert_micro import measure_arena

if TYPE_CHECKING:
    import keras

_WEIGHT_BYTES: Mapping[Precision, int] = {"float32": 4, "float16": 2, "dynamic": 1, "int8": 1, "int8x16": 1}
# The file, and what the runtime makes of it: widened weights and a copy in the order of its kernels.
_LOADED_WEIGHT_BYTES: Mapping[Precision, int] = {"float32": 12, "float16": 8, "dynamic": 2, "int8": 3, "int8x16": 3}
_ACTIVATION_BYTES: Mapping[Precision, int] = {"float32": 4, "float16": 4, "dynamic": 4, "int8": 1, "int8x16": 2}
_RUNTIME_MB = 65.0
_REASONS_SHOWN = 3

# What TFLite's converter makes of the layers that can be exported.
_OPERATORS: Mapping[str, tuple[str, ...]] = {
    "Conv2D": ("CONV_2D",),
    "MaxPooling2D": ("MAX_POOL_2D",),
    "GlobalAveragePooling2D": ("MEAN",),
    "Flatten": ("RESHAPE",),
    "Dense": ("FULLY_CONNECTED",),
}
_AROUND_THEM = ("QUANTIZE", "ADD", "SOFTMAX")


@dataclass(frozen=True)
class ModelCost:
    """What a model needs, whatever the file.

    `parameters` counts weights and biases, `activations` the numbers that go into and come out of its largest layer,
    for one image. `operators` are TFLite's names of what an int8 file will consist of.
    """

    parameters: int
    activations: int
    operators: tuple[str, ...]

    def size_mb(self, precision: Precision) -> float:
        """Least size of a file in 10^6 bytes: its weights alone."""
        return self.parameters * _WEIGHT_BYTES[precision] / 1e6

    def memory_mb(self, precision: Precision) -> float:
        """Memory of a process that runs a file, in 10^6 bytes, as measured on VGG16 with both runtimes."""
        weights = self.parameters * _LOADED_WEIGHT_BYTES[precision]
        return (weights + self.activations * _ACTIVATION_BYTES[precision]) / 1e6 + _RUNTIME_MB

    @property
    def least_arena_kb(self) -> float:
        """Least arena of an int8 file on a microcontroller, in 10^3 bytes: what its largest layer reads and makes."""
        return self.activations / 1e3


def model_cost(model: keras.Model) -> ModelCost:
    """Count what a reference needs, from the shapes of all its layers, also of those in models inside it."""
    _, keras = require_tensorflow()
    graph = graph_of(model)
    tensors = graph.values(keras.Input(graph.input_shape))
    sizes = [sum(_elements(tensors[value].shape) for value in (*call.inputs, *call.outputs)) for call in graph.calls]
    kinds = [name for call in graph.calls for name in _OPERATORS.get(call.kind, ())]
    return ModelCost(model.count_params(), max(sizes), tuple(dict.fromkeys((*_AROUND_THEM, *kinds))))


def require_fit(cost: ModelCost, target: DeviceTarget) -> None:
    """Check, before a slow export, that a model can keep a target's limits.

    Raises:
        SettingsError: one of its files would be too large, need too much memory, or hold an operator that the
            device's compiler does not map.
    """
    for delivery in target.artefacts:
        precision = delivery.recipe.precision
        for what, needed, limit, unit in (
            ("a file", cost.size_mb(precision), target.limits.size_mb, "MB"),
            ("memory", cost.memory_mb(precision), target.limits.memory_mb, "MB"),
            ("an arena", cost.least_arena_kb, target.limits.arena_kb, "kB"),
        ):
            if limit is not None and needed > limit:
                raise SettingsError(
                    f"expected {what} of at most {limit:g} {unit} for {target.name}, but {delivery.recipe.name} of "
                    f"this model ({cost.parameters / 1e6:.2f} million parameters) needs about {needed:.1f} {unit}; "
                    "make it smaller with `tledge optimize`, or raise the limit in a target of your own"
                )
    if target.operators is not None and (others := [name for name in cost.operators if name not in target.operators]):
        raise SettingsError(
            f"expected operators that {target.name} covers, but this model needs {', '.join(others)} as well; "
            "choose another target or another head"
        )


def file_breaches(target: DeviceTarget, delivery: Delivery, path: Path) -> tuple[str, ...]:
    """What a written file breaks of a target's limits, one line each; empty if it keeps them."""
    size_mb = path.stat().st_size / 1e6
    breaches = []
    if size_mb > target.limits.size_mb:
        breaches.append(
            f"{delivery.recipe.name} is {size_mb:.2f} MB, but {target.name} takes {target.limits.size_mb:g}"
        )
    if target.limits.arena_kb is not None:
        arena_kb = measure_arena(path).bytes / 1e3
        if arena_kb > target.limits.arena_kb:
            breaches.append(
                f"{delivery.recipe.name} needs an arena of {arena_kb:.1f} kB, but {target.name} has "
                f"{target.limits.arena_kb:g}"
            )
    if target.operators is not None:
        reasons = uncovered(read_operators(path), target.operators)
        more = f"; and {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
        if reasons:
            left = "; ".join(reasons[:_REASONS_SHOWN])
            breaches.append(f"{delivery.recipe.name} would not run on {target.name} as a whole: {left}{more}")
    return tuple(breaches)


def _elements(shape: Sequence[int | None]) -> int:
    return int(np.prod([size or 1 for size in shape]))


@dataclass(frozen=True)
class TargetExport:
    """The artefacts for a target, in its order, and what they break of its limits, one line each."""

    target: DeviceTarget
    exported: ExportResult
    breaches: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the files keep every limit."""
        return not self.breaches


def export_for_target(
    run_path: Path,
    target: str | DeviceTarget,
    *,
    force: bool = False,
    data: Path | None = None,
    progress: Progress = silent,
) -> TargetExport:
    """Export a target's artefacts, skipping those that are already there and made the same way.

    Args:
        run_path: the run.
        target: the kind of device.
        force: export again even what is there.
        data: where the run's images are now; None for where they were at training.
        progress: called with (what, recipes done, recipes in all).

    Raises:
        SettingsError: the model cannot keep the target's limits; nothing was written.
        MissingDependencyError: a microcontroller's, and LiteRT Micro is not installed.
        RunError, DataError, VerificationError: as `tledge.conversion.export.export`.
    """
    target = load_target(target)
    if target.is_microcontroller:
        require_installed("tflite_micro")
    run = open_run(run_path)
    verify_run(run, read_manifest(run))
    _, keras = require_tensorflow()
    require_fit(model_cost(keras.models.load_model(run.model, compile=False, safe_mode=True)), target)
    result = export(run_path, target.recipe_names, force=force, data=data, progress=progress)
    breaches = [
        breach
        for delivery, artefact in zip(target.artefacts, result.artefacts, strict=True)
        for breach in file_breaches(target, delivery, artefact.path)
    ]
    return TargetExport(target, result, tuple(breaches))
