"""Is a run whole? What is damaged or was changed in it, and how to get it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tledge.compression.search.record import SearchFile
from tledge.conversion.kept_calibration import CalibrationFile, digest_of_ranges
from tledge.conversion.sidecar import read_sidecar
from tledge.core.errors import RunError, TledgeError
from tledge.core.files import sha256_file
from tledge.core.records import read_record, read_toml
from tledge.diagnosis.diagnosis_json import read_diagnosis
from tledge.model.ranges import learned_ranges
from tledge.reporting.findings import Finding, State
from tledge.reporting.model_card import CardFile
from tledge.runs.bench_json import read_bench
from tledge.runs.check_json import read_check
from tledge.runs.history import read_history
from tledge.runs.images import data_root, how_to_restore
from tledge.runs.manifest import Manifest, read_manifest, read_split, require_own_labels, verify_reference
from tledge.runs.rundir import RunDir, open_run, sidecar_of
from tledge.runtimes.files import require_as_described
from tledge.selection.select_json import read_selection


def health(path: Path, data: Path | None = None) -> tuple[Finding, ...]:
    """Look at every file of a run, and at whether the files belong together; nothing is changed and no model is opened.

    Args:
        path: the run.
        data: where its images are now; None for where they were at training.

    Returns:
        A finding for each part, `damaged` or `missing` where something has to be restored; the detail says how.

    Raises:
        RunError: there is no run, or its manifest cannot be read, so that nothing is known about the rest.
        DataError: `data` is no folder.
    """
    run = open_run(path, data)
    manifest = read_manifest(run)
    return (
        Finding(run.manifest.name, "ok", f"{manifest.origin} {manifest.created}, {len(manifest.classes)} classes"),
        _looked_at("models", lambda: verify_reference(run, manifest), "as the manifest describes them"),
        _looked_at("learned ranges", lambda: learned_ranges(run, manifest), "as the manifest describes them, if any"),
        _split(run, manifest),
        _labels(run, manifest),
        *_images(run, manifest),
        *_artefacts(run, manifest),
        _calibration(run, manifest),
        *_results(run, manifest),
        *_parts_of_reports(run),
        *_leftovers(run),
    )


def _looked_at(name: str, look: Callable[[], object], good: str) -> Finding:
    """A finding from a check that raises what is wrong, and what to do, in one line."""
    try:
        look()
    except TledgeError as wrong:
        return Finding(name, "damaged", str(wrong))
    return Finding(name, "ok", good)


def _split(run: RunDir, manifest: Manifest) -> Finding:
    found = _looked_at(run.split.name, lambda: read_split(run), "images, classes and subsets as at training")
    if found.state == "ok" and manifest.split_sha256 is None:
        return Finding(
            run.split.name,
            "note",
            "images, classes and numbers as at training; the version that made the run kept no digest of subsets, so "
            "images of one class that changed places would not be noticed",
        )
    return found


def _labels(run: RunDir, manifest: Manifest) -> Finding:
    if not run.labels.is_file():
        what = f"missing; write the classes of {run.manifest.name} into it, one a line: {', '.join(manifest.classes)}"
        return Finding(run.labels.name, "missing", what)
    return _looked_at(run.labels.name, lambda: require_own_labels(run, manifest), "the classes of the manifest")


def _images(run: RunDir, manifest: Manifest) -> Iterator[Finding]:
    try:
        root, rows = data_root(run, manifest), read_split(run)
    except TledgeError as wrong:
        yield Finding("images", "note", str(wrong))
        return
    there = {row.path for row in rows if (root / row.path).is_file()}
    gone = [row.path for row in rows if row.path not in there]
    changed = [row.path for row in rows if row.path in there and sha256_file(root / row.path) != row.sha256]
    for paths, what in ((gone, "gone"), (changed, "changed since the training")):
        if paths:
            yield Finding("images", "damaged", f"{len(paths)} {what}, such as {paths[0]}; {how_to_restore(root)}")
    if not gone and not changed:
        yield Finding("images", "ok", f"{len(rows)} as at training, in {root}")


def _artefacts(run: RunDir, manifest: Manifest) -> Iterator[Finding]:
    for path in run.artefacts():
        name = str(path.relative_to(run.path))
        if not sidecar_of(path).is_file():
            yield Finding(name, "damaged", f"its sidecar is missing; `tledge export {run.path}` writes both again")
            continue
        yield _looked_at(name, lambda path=path: _require_own(path, manifest), "as its sidecar describes it")  # type: ignore[misc]
    for sidecar in run.orphans():
        name = str(sidecar.relative_to(run.path))
        yield Finding(
            name, "damaged", f"the file that it describes is gone; `tledge export {run.path}` writes it again"
        )


def _require_own(path: Path, manifest: Manifest) -> None:
    sidecar = read_sidecar(sidecar_of(path))
    if not path.is_file():  # a link to nowhere or to itself, a pipe
        raise TledgeError("it is no file; export it again")
    require_as_described(path)
    if sidecar.source_sha256 != manifest.model_sha256:
        raise TledgeError("it was exported from another model than the run's; export it again")


def _calibration(run: RunDir, manifest: Manifest) -> Finding:
    name = run.calibration.name
    if not run.calibration.is_file():
        return Finding(name, "ok", "none yet; the next export of an int8 file, check or diagnosis measures ranges")
    try:
        content = read_record(run.calibration, CalibrationFile)
    except TledgeError as wrong:
        return Finding(name, "damaged", str(wrong))
    changed = [kept for kept in content.calibrations if kept.ranges_sha256 not in (None, digest_of_ranges(kept))]
    if content.model_sha256 != manifest.model_sha256 or changed:
        what = "ranges of another model" if not changed else "ranges in it were changed"
        return Finding(name, "damaged", f"{what}; they are measured again when they are needed")
    return Finding(name, "ok", f"{len(content.calibrations)} measured on the run's model")


def _results(run: RunDir, manifest: Manifest) -> Iterator[Finding]:
    try:
        check = read_check(run.check)
        if check is not None:
            again = f"`tledge check {run.path}` makes both again"
            state: State = "damaged"
            if check.reference_sha256 != manifest.reference_sha256:
                what = f"a check of another model; {again}"
            elif not run.predictions.is_file():
                what = f"{run.predictions.name} is missing; {again}"
            elif not check.wrote(run.predictions):
                what = f"{run.predictions.name} was changed after the check; {again}"
            else:
                state, what = "ok", f"{check.verdict}, n = {check.n}"
            yield Finding(run.check.name, state, what)
    except TledgeError as wrong:
        yield Finding(run.check.name, "damaged", str(wrong))
    if run.bench.is_file():
        yield _looked_at(run.bench.name, lambda: read_bench(run.bench), "can be read")


def _parts_of_reports(run: RunDir) -> Iterator[Finding]:
    """What reports show where it is there, and end with where it cannot be read."""
    readers: tuple[tuple[Path, Callable[[Path], object]], ...] = (
        (run.history, read_history),
        (run.selection, read_selection),
        (run.search, lambda path: read_record(path, SearchFile)),
        (run.card_facts, lambda path: read_toml(path, CardFile, RunError)),
        *((path, read_diagnosis) for path in sorted(run.diagnoses.glob("[!.]*.json"))),
    )
    for path, read in readers:
        if path.is_file():
            name = str(path.relative_to(run.path))
            yield _looked_at(name, lambda read=read, path=path: read(path), "can be read")  # type: ignore[misc]


def _leftovers(run: RunDir) -> Iterator[Finding]:
    left = [path for folder in (run.path, run.exports) for path in folder.glob(".*.partial-*")]
    if left:
        what = f"{len(left)} half-written files of commands that were killed; the next export sweeps up"
        yield Finding("leftovers", "note", what)
