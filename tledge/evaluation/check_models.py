"""The check without a run: any reference and any files, so that a pipeline can guard an existing app."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tledge.core.errors import RunError, SettingsError
from tledge.core.progress import Progress, silent
from tledge.evaluation.baseline import read_baseline
from tledge.evaluation.check import CheckResult, judge
from tledge.evaluation.comparison import Candidate
from tledge.evaluation.files import write_check
from tledge.evaluation.model_set import OpenedModel, open_models
from tledge.evaluation.settings import CheckSettings
from tledge.runs.rundir import RunDir
from tledge.runtimes.declared import DeclaredForms


def check_models(
    reference: Path,
    artefacts: Sequence[Path],
    data: Path,
    labels: Path,
    forms: DeclaredForms,
    settings: CheckSettings,
    out: Path | None,
    progress: Progress = silent,
) -> CheckResult:
    """Compare model files with a reference on labelled images.

    Args:
        reference: a .keras, .onnx or .tflite file, or a SavedModel directory.
        artefacts: at least one other of these.
        data: a folder of labelled images; of a divided one its test/ subfolder.
        labels: class names, one per line, in the order of the models' outputs.
        forms: what is declared about their inputs and outputs.
        settings: limits and what to do with undecided ones.
        out: a folder for `check.json` and `predictions.csv`; None to write nothing.
        progress: called with (what, images done, images in all).

    Raises:
        SettingsError, DataError, ArtefactError, RunError: something does not fit; nothing is written.
    """
    settings.require_baseline()
    if "max_latency_ratio" in settings.limits:
        raise SettingsError(
            "expected gates that need no run, but got max_latency_ratio, which reads the run's bench.json; leave it "
            "out and compare latencies with `tledge bench FILE...`"
        )
    if out is not None:
        _require_folder(out)
    accepted = None if settings.baseline is None else read_baseline(settings.baseline)
    found = open_models(reference, artefacts, data, labels, forms)
    candidates = [_candidate(model, settings) for model in found.artefacts]
    first = found.reference
    folder = RunDir(Path(os.curdir) if out is None else out)
    result = judge(
        folder, first.classifier, first.sha256, candidates, found.images, found.classes, settings, accepted, progress
    )
    if out is not None:
        write_check(result)
    return result


def _candidate(model: OpenedModel, settings: CheckSettings) -> Candidate:
    return Candidate(
        name=model.name,
        path=model.path,
        sha256=model.sha256,
        size_bytes=model.size_bytes,
        classifier=model.classifier,
        limits=settings.limits_of({}),
        int8_share=model.int8_share,
    )


def _require_folder(out: Path) -> None:
    """A folder of an earlier check is written over; nothing else is."""
    folder = RunDir(out)
    if folder.manifest.is_file():
        raise RunError(f"expected a folder for the check, but {out} is a run; choose another --out")
    known = {folder.check.name, folder.predictions.name}
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= known):
        raise RunError(
            f"expected a new folder or that of an earlier check, but {out} holds something else; choose another"
        )
    if not os.access(out.absolute().parent, os.W_OK) and not out.exists():
        raise RunError(f"expected to make the folder {out}, but its parent cannot be written to; choose another --out")
