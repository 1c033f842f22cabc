"""What a model file is: inputs, outputs, operators, labels, where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.core.dependencies import installed
from tledge.core.errors import ArtefactError
from tledge.core.files import sha256_file
from tledge.core.records import plain
from tledge.core.types import Json
from tledge.formats.operators import COUNTERS
from tledge.formats.tflite_metadata import read_summary
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir, open_run
from tledge.runtimes import NOTHING_DECLARED
from tledge.runtimes.adapter import TensorSpec
from tledge.runtimes.form import only_tensors, resolve
from tledge.runtimes.registry import open_adapter


@dataclass(frozen=True)
class Inspection:
    """What was found in a file: (name, value) pairs for people, the same facts as JSON for programs."""

    path: Path
    facts: Json


def inspect(path: Path) -> Inspection:
    """Read a .tflite, .onnx or .keras file, or a run's manifest.

    Raises:
        ArtefactError, RunError: the file cannot be read.
    """
    if path.is_dir():
        return _inspect_run(open_run(path))
    adapter = open_adapter(path)
    pixels, scores = only_tensors(path.name, adapter)
    try:
        taken = str(resolve(path.name, adapter, NOTHING_DECLARED))
    except ArtefactError as unknown:
        taken = str(unknown)
    facts: Json = {
        "file": path.name,
        "size_bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "runtime": adapter.runtime,
        "input": _tensor(pixels),
        "output": _tensor(scores),
        "pixels": taken,
    }
    if (labels := adapter.labels()) is not None:
        facts["labels"] = list(labels)
    suffix = path.suffix.lower()
    if suffix != ".keras":
        facts["lineage"] = adapter.lineage()
    # Counting an .onnx file's kernels takes the onnx package, which a device installation does not have.
    if suffix in COUNTERS and (suffix == ".tflite" or installed("onnx")):
        ops = COUNTERS[suffix](path)
        facts["operators"] = dict(ops.by_dtype)
        facts["int8_op_share"] = round(ops.int8_share, 4)
    if suffix == ".tflite":
        facts["metadata"] = read_summary(path.read_bytes())
    return Inspection(path, facts)


def _tensor(spec: TensorSpec) -> str:
    """Its type and shape, with N for a batch that is open and ? for any other open size."""
    sizes = "?" if spec.shape is None else ", ".join("?" if n is None else str(n) for n in spec.shape[1:])
    batch = "N" if not spec.shape or spec.shape[0] is None else spec.shape[0]
    return f"{spec.dtype.name} ({batch}, {sizes})"


def _inspect_run(run: RunDir) -> Inspection:
    manifest = read_manifest(run)
    if not run.model.is_file():
        raise ArtefactError(f"expected {run.model}, but it is missing; restore it or train again")
    return Inspection(
        run.path,
        {
            "run": run.path.name,
            "technique": manifest.technique,
            "head": manifest.head,
            "classes": list(manifest.classes),
            "image_size_px": manifest.image_size_px,
            "images": manifest.split.images,
            "weights": plain(manifest.weights),
            "training": plain(manifest.training),
            "model_sha256": manifest.model_sha256,
            "artefacts": [path.stem for path in run.sidecars()],
            "created": manifest.created,
            "versions": manifest.versions,
        },
    )
