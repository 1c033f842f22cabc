"""Find a run's artefacts and make sure that each belongs to it and is whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tledge.dependencies import require
from tledge.errors import ArtefactError
from tledge.files import read_json, sha256_file
from tledge.manifest import Manifest
from tledge.rundir import RunDir, sidecar_of
from tledge.runners import open_runner
from tledge.targets.tflite_metadata import read_lineage
from tledge.types import Json


@dataclass(frozen=True)
class RunArtefact:
    """An artefact of a run; `precision` and `max_drop` come from its sidecar, or None where it has none."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    precision: str | None
    max_drop: float | None


def find_artefacts(run: RunDir, manifest: Manifest, given: Sequence[Path] = ()) -> tuple[RunArtefact, ...]:
    """Artefacts of a run: the given files, or every one in it.

    Raises:
        ArtefactError: none there, a file is missing, damaged, or was exported from another run.
    """
    if given:
        return tuple(_examine(path, manifest) for path in given)
    found = []
    for path in run.artefacts():
        if not sidecar_of(path).is_file():
            raise ArtefactError(
                f"expected {sidecar_of(path).name} beside {path}, but its export was interrupted; export it again"
            )
        found.append(_examine(path, manifest))
    if not found:
        raise ArtefactError(f"expected artefacts in {run.exports}, but there are none; run `tledge export {run.path}`")
    return tuple(found)


def embedded_lineage(path: Path) -> Json | None:
    """Lineage that tledge embedded in a .tflite or .onnx file; None if another tool wrote it.

    Raises:
        ArtefactError: another kind of file, or a damaged one.
    """
    open_runner(path)
    if path.suffix.lower() == ".tflite":
        return read_lineage(path.read_bytes())
    ort = require("onnxruntime")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get("tledge", "null")
    try:
        lineage = json.loads(text)
    except ValueError:
        return None
    return lineage if isinstance(lineage, dict) else None


def _examine(path: Path, manifest: Manifest) -> RunArtefact:
    if not path.is_file() or path.suffix.lower() not in (".tflite", ".onnx"):
        raise ArtefactError(f"expected a .tflite or .onnx file, but got {path}; check the path or export it")
    digest = sha256_file(path)
    sidecar = read_json(sidecar_of(path)) if sidecar_of(path).is_file() else {}
    if sidecar and sidecar.get("sha256") != digest:
        raise ArtefactError(
            f"expected {path} to be the file its sidecar describes, but its SHA-256 differs; export it again"
        )
    lineage = embedded_lineage(path)
    if lineage is None or lineage.get("source_sha256") != manifest.model_sha256:
        raise ArtefactError(
            f"expected an artefact of this run, but {path} was exported from another model; "
            "pass the run it belongs to, or export this one again"
        )
    return RunArtefact(
        name=str(sidecar.get("name", path.name)),
        path=path,
        sha256=digest,
        size_bytes=path.stat().st_size,
        precision=sidecar.get("precision"),
        max_drop=sidecar.get("max_drop"),
    )
