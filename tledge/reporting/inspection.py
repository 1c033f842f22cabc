"""What a model file is: inputs, outputs, operators, labels, where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.core.dependencies import installed
from tledge.core.errors import ArtefactError, SettingsError, TledgeError
from tledge.core.records import plain
from tledge.core.types import Json
from tledge.formats.tflite_metadata import read_summary
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir, open_run
from tledge.runtimes import ImageClassifier
from tledge.runtimes.adapter import TensorSpec
from tledge.runtimes.declared import UNDECLARED, Declarations, require_undeclared
from tledge.runtimes.files import count_operators, require_openable
from tledge.runtimes.form import only_tensors, resolve
from tledge.runtimes.registry import is_run, open_adapter
from tledge.runtimes.resize_mode import said_resize_mode


@dataclass(frozen=True)
class Inspection:
    """What was found in a file: (name, value) pairs for people, the same facts as JSON for programs.

    `refusal` says why no command would use the file as a classifier as it is, mostly what has to be declared about it;
    None if nothing is open.
    """

    path: Path
    facts: Json
    refusal: TledgeError | None = None


def inspect(path: Path, declared: Declarations = UNDECLARED) -> Inspection:
    """Read a .tflite, .onnx, .keras or .h5 file, a SavedModel directory, or a run's manifest.

    Args:
        path: the file or directory.
        declared: about the input and output of a model that tledge did not make.

    Raises:
        ArtefactError, RunError: the file cannot be read.
        SettingsError: a declaration about another file, or about a run, which needs none.
    """
    if is_run(path):
        require_undeclared(declared)
        return _inspect_run(open_run(path))
    declared.forms.require_known([path])
    files = require_openable(path)
    adapter = open_adapter(path)
    assert files is not None, "what is not there cannot be opened"
    pixels, scores = only_tensors(path.name, adapter)
    facts: Json = {
        "file": path.name,
        "size_bytes": files.size_bytes,
        "sha256": files.sha256,
        "runtime": adapter.runtime,
        "input": _tensor(pixels),
        "output": _tensor(scores),
    }
    refusal: TledgeError | None = None
    declaration = declared.forms.of(path)
    try:
        facts["pixels"] = str(resolve(path.name, adapter, declaration))
        classifier = ImageClassifier(path.name, adapter, declaration)
        facts["scores"] = _scores(classifier)
        if (mode := said_resize_mode(path, classifier)) is not None:
            facts["resize"] = mode
    except (ArtefactError, SettingsError) as unknown:
        refusal = unknown
        facts["scores" if "pixels" in facts else "pixels"] = str(unknown)
    if (labels := adapter.labels()) is not None:
        facts["labels"] = list(labels)
    suffix = path.suffix.lower()
    if adapter.runtime not in ("keras", "tensorflow"):
        facts["lineage"] = adapter.lineage()
    # Counting an .onnx file's kernels takes that package, too.
    if suffix == ".tflite" or installed("onnx"):
        ops = count_operators(path)
        if ops is not None:
            facts["operators"] = dict(ops.by_dtype)
            facts["int8_op_share"] = round(ops.int8_share, 4)
    if suffix == ".tflite":
        facts["metadata"] = read_summary(path.read_bytes())
    return Inspection(path, facts, refusal)


def _scores(classifier: ImageClassifier) -> str:
    """What the output means, in words."""
    form = classifier.form
    kinds = {"distribution": "probabilities that sum to 1", "probabilities": "probabilities", "logits": "logits"}
    meaning = kinds[form.output_kind]
    if classifier.is_single_score:
        meaning = "logit of the second class" if form.output_kind == "logits" else "probability of the second class"
    return f"{meaning}, {classifier.classes} classes"


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
            "origin": manifest.origin,
            "technique": manifest.technique,
            "head": manifest.head,
            "classes": list(manifest.classes),
            "image_size_px": manifest.image_size_px,
            "resize": manifest.resize,
            "images": manifest.split.images,
            "weights": plain(manifest.weights),
            "training": plain(manifest.training),
            "model_sha256": manifest.model_sha256,
            "artefacts": [path.stem for path in run.sidecars()],
            "created": manifest.created,
            "versions": manifest.versions,
        },
    )
