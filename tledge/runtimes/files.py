"""The files of a model of any origin: digest, size, operators, and weights that stand in files of their own."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tledge.core.dependencies import installed, require
from tledge.core.errors import ArtefactError
from tledge.core.files import sha256_file
from tledge.core.foreign import is_refusal
from tledge.core.parsing import parse_json
from tledge.formats.operators import COUNTERS, OpCount
from tledge.model.onnx_files import external_files, read_onnx
from tledge.runs.rundir import sidecar_of
from tledge.runtimes.probe import require_answering


@dataclass(frozen=True)
class ModelFiles:
    """What a model weighs and what identifies it.

    `sha256`, in hex, is that of the file; of a model of several files, that over the names and digests of all.
    """

    sha256: str
    size_bytes: int


def measure_files(path: Path) -> ModelFiles:
    """Digest and size of a model, weights in files of their own included.

    Args:
        path: a model file or a SavedModel directory that could be loaded.

    Raises:
        ArtefactError: an .onnx file names a file of weights outside its folder.
    """
    return _measured(path)


def _measured(path: Path, own_digest: str | None = None) -> ModelFiles:
    """`own_digest` is that of the file at `path`, where it is known."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        files = [path, *(external_files(path) if path.suffix.lower() == ".onnx" else ())]
    size_bytes = sum(file.stat().st_size for file in files)
    if files == [path]:
        return ModelFiles(own_digest or sha256_file(path), size_bytes)
    root = path if path.is_dir() else path.parent
    lines = (f"{file.relative_to(root).as_posix()}\t{sha256_file(file)}\n" for file in files)
    return ModelFiles(hashlib.sha256("".join(lines).encode()).hexdigest(), size_bytes)


def require_weights_inside(path: Path) -> None:
    """Check, before a runtime opens a model of any origin, that it reads no file outside the model's own folder.

    onnxruntime checks that itself, but not in every version. Without the onnx package nothing is looked at.

    Raises:
        ArtefactError: an .onnx file is damaged, or names a file of weights outside its folder or one that is missing.
    """
    if path.suffix.lower() == ".onnx" and path.is_file() and installed("onnx"):
        external_files(path)


def require_as_described(path: Path) -> None:
    """Check that an artefact beside its sidecar is the file that this one describes; other files pass.

    Raises:
        ArtefactError: its digest differs.
    """
    _require_digest_as_described(path, None)


def _require_digest_as_described(path: Path, own_digest: str | None) -> None:
    try:
        said = parse_json(sidecar_of(path).read_bytes()) if path.is_file() else None
    except (OSError, ValueError):  # none, or the JSON file of something else
        return
    # That of an artefact has both; `model.json` of another tool may hold anything.
    if isinstance(said, dict) and "lineage" in said and said.get("sha256", "") != (own_digest or sha256_file(path)):
        raise ArtefactError(
            f"expected {path} to be the file that {sidecar_of(path).name} beside it describes, but its SHA-256 "
            "differs; export it again, or copy both files again"
        )


def require_openable(path: Path) -> ModelFiles | None:
    """Check, before this process opens a model of any origin, that it is whole as far as that is known, and answers.

    Returns:
        What identifies it, for which its bytes were read once; None if there is nothing at `path`.

    Raises:
        ArtefactError: a pipe or a device; what `require_as_described`, `require_weights_inside` and
            `require_answering` raise.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # it would be read twice, and may never end
        raise ArtefactError(f"expected a model in a file, but {path} is a pipe or a device; save it as a file")
    own_digest = sha256_file(path) if path.is_file() else None
    _require_digest_as_described(path, own_digest)
    require_weights_inside(path)
    if not path.exists():
        return None
    if own_digest is not None and path.suffix.lower() == ".onnx" and not installed("onnx"):
        # Weights in files of their own are found by the onnx package, which a device installation does not have.
        files = ModelFiles(own_digest, path.stat().st_size)
    else:
        files = _measured(path, own_digest)
    require_answering(path, files.sha256)
    return files


def count_operators(path: Path) -> OpCount | None:
    """Count the operators of a model file by the dtype that they compute on.

    Returns:
        None for a format that tledge does not count, or a graph that it cannot: the counters know the graphs that
        tledge writes, and a count that is missing is no reason to refuse a file.
    """
    count_ops = COUNTERS.get(path.suffix.lower())
    if path.is_dir() or count_ops is None:
        return None
    try:
        if path.suffix.lower() != ".onnx" or not external_files(path):
            return count_ops(path)
        with tempfile.TemporaryDirectory(prefix="tledge-") as folder:
            # onnxruntime writes what it made of the graph elsewhere, where weights in files of their own are not found.
            whole = Path(folder) / path.name
            require("onnx").save(read_onnx(path), str(whole))
            return count_ops(whole)
    except Exception as error:
        if not is_refusal(error):
            raise
        return None
