"""Find a run's artefacts and make sure that each belongs to it and is whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.errors import ArtefactError
from tledge.files import read_json, sha256_file
from tledge.gates import Limits, require_limits
from tledge.manifest import Manifest
from tledge.rundir import RunDir, sidecar_of
from tledge.runners import Runner, open_runner


@dataclass(frozen=True)
class RunArtefact:
    """An artefact of a run; `precision` and its recipe's `limits` come from its sidecar, None and empty without one."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    precision: str | None
    limits: Limits


def find_artefacts(run: RunDir, manifest: Manifest, given: Sequence[Path] = ()) -> tuple[RunArtefact, ...]:
    """Artefacts of a run: the given files, or every one in it.

    Raises:
        ArtefactError: none there, a file is missing, damaged, or was exported from another run.
    """
    return tuple(artefact for artefact, _ in open_artefacts(run, manifest, given))


def open_artefacts(run: RunDir, manifest: Manifest, given: Sequence[Path] = ()) -> Iterator[tuple[RunArtefact, Runner]]:
    """The same artefacts one by one, each with the runner that it was opened in.

    Raises:
        ArtefactError: as `find_artefacts`.
    """
    paths = given or run.artefacts()
    if not paths:
        raise ArtefactError(f"expected artefacts in {run.exports}, but there are none; run `tledge export {run.path}`")
    for path in paths:
        if not given and not sidecar_of(path).is_file():
            raise ArtefactError(
                f"expected {sidecar_of(path).name} beside {path}, but its export was interrupted; export it again"
            )
        yield _examine(path, manifest)


def _examine(path: Path, manifest: Manifest) -> tuple[RunArtefact, Runner]:
    if not path.is_file() or path.suffix.lower() not in (".tflite", ".onnx", ".ort"):
        raise ArtefactError(f"expected a .tflite, .onnx or .ort file, but got {path}; check the path or export it")
    digest = sha256_file(path)
    sidecar = read_json(sidecar_of(path)) if sidecar_of(path).is_file() else {}
    if sidecar and sidecar.get("sha256") != digest:
        raise ArtefactError(
            f"expected {path} to be the file its sidecar describes, but its SHA-256 differs; export it again"
        )
    require_limits(sidecar.get("limits", {}), str(sidecar_of(path)))
    runner = open_runner(path)
    lineage = runner.lineage()
    if lineage is None or lineage.get("source_sha256") != manifest.model_sha256:
        raise ArtefactError(
            f"expected an artefact of this run, but {path} was exported from another model; "
            "pass the run it belongs to, or export this one again"
        )
    artefact = RunArtefact(
        name=str(sidecar.get("name", path.name)),
        path=path,
        sha256=digest,
        size_bytes=path.stat().st_size,
        precision=sidecar.get("precision"),
        limits=sidecar.get("limits", {}),
    )
    return artefact, runner
