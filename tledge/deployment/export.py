"""Export what one kind of device needs: refused before it is slow, checked when it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.conversion.export import ExportResult, export
from tledge.core.dependencies import require_tensorflow
from tledge.core.progress import Progress, silent
from tledge.deployment.device_limits import file_breaches, model_cost, require_fit
from tledge.deployment.targets import DeviceTarget, load_target
from tledge.runs.manifest import read_manifest, verify_reference
from tledge.runs.rundir import open_run


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
        RunError, DataError, VerificationError: as `tledge.conversion.export.export`.
    """
    target = load_target(target)
    run = open_run(run_path)
    verify_reference(run, read_manifest(run))
    _, keras = require_tensorflow()
    require_fit(model_cost(keras.models.load_model(run.model, compile=False, safe_mode=True)), target)
    result = export(run_path, target.recipe_names, force=force, data=data, progress=progress)
    breaches = [
        breach
        for delivery, artefact in zip(target.artefacts, result.artefacts, strict=True)
        for breach in file_breaches(target, delivery, artefact.path)
    ]
    return TargetExport(target, result, tuple(breaches))
