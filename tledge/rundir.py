"""A run on disk: the only module that knows the names of the files in it.

Every file is written to a temporary name in the same directory and renamed, and a new run is put together in a staging
directory that gets its real name last: whatever carries its final name is whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tledge.errors import RunError
from tledge.types import Json

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    path: Path

    @property
    def manifest(self) -> Path:
        """The manifest; it is written last, so a directory that has one is a whole run."""
        return self.path / "run.json"

    @property
    def split(self) -> Path:
        """Which image belongs to which subset."""
        return self.path / "split.csv"

    @property
    def model(self) -> Path:
        """The run's Keras model: what gets exported."""
        return self.path / "model.keras"

    @property
    def reference(self) -> Path:
        """What artefacts are compared with: the model itself, or in an optimized run the original it came from."""
        original = self.path / "reference.keras"
        return original if original.is_file() else self.model

    @property
    def labels(self) -> Path:
        """Class names, one a line, in the order of the model's outputs."""
        return self.path / "labels.txt"

    @property
    def history(self) -> Path:
        """Loss and accuracy per epoch."""
        return self.path / "history.csv"

    @property
    def exports(self) -> Path:
        """Where artefacts and their sidecars are."""
        return self.path / "export"

    @property
    def check(self) -> Path:
        """Accuracy of the artefacts."""
        return self.path / "check.json"

    @property
    def bench(self) -> Path:
        """Latency of the artefacts."""
        return self.path / "bench.json"

    @property
    def report(self) -> Path:
        """The whole run for a person."""
        return self.path / "report.md"

    def set_reference(self, original: Path) -> None:
        """Give an optimized run, while it is staged, the original model to be compared with."""
        target = self.path / "reference.keras"
        try:
            target.hardlink_to(original)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(original, target)

    def artefact(self, recipe_name: str, suffix: str) -> Path:
        """Path of the artefact that a recipe produces; `suffix` starts with a dot."""
        return self.exports / f"{recipe_name}{suffix}"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory on the run's disk for data that must not outlive the block."""
        folder = self.path / "scratch"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sidecars(self) -> list[Path]:
        """Sidecars of the artefacts that are complete, sorted by name."""
        return sorted(self.exports.glob("*.json"))


def sidecar_of(artefact: Path) -> Path:
    """Path of the sidecar that belongs to an artefact."""
    return artefact.with_suffix(".json")


def open_run(path: Path | str) -> RunDir:
    """Return the run at `path`.

    Raises:
        RunError: `path` is not a directory, or has no manifest.
    """
    run = RunDir(Path(path))
    if not run.path.is_dir():
        raise RunError(f"expected a run directory, but {run.path} does not exist; make one with `tledge train`")
    if not run.manifest.is_file():
        raise RunError(
            f"expected a run, but {run.path} has no {run.manifest.name}: its training did not finish, "
            "or it is another directory; train again into a new one"
        )
    return run


def require_vacant(path: Path) -> None:
    """Check that a new run can be written at `path`.

    Raises:
        RunError: something is there already, or its parent cannot be written to.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise RunError(f"expected a path for a new run, but {path} exists; choose another --out or remove it")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RunError(f"expected a place to write the run {path}, but {parent} is not writable; choose another --out")


@contextmanager
def new_run(path: Path) -> Iterator[RunDir]:
    """Stage a new run and give it its name only when the block ends without an error.

    Yields:
        The staged run, a hidden sibling of `path`.

    Raises:
        RunError: `path` is taken.
    """
    require_vacant(path)
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.partial-*"):
        if not _process_lives(stale.name.rpartition("-")[2]):
            shutil.rmtree(stale, ignore_errors=True)
    staged = path.parent / f".{path.name}.partial-{os.getpid()}"
    staged.mkdir()
    try:
        yield RunDir(staged)
        require_vacant(path)
        staged.rename(path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _process_lives(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent, even through a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Json) -> None:
    """Write a JSON object atomically, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file with a header line atomically."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def read_json(path: Path) -> Json:
    """Read a JSON object.

    Raises:
        RunError: the file is missing or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"expected {path}, but it does not exist; run the stage that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"expected JSON in {path}, but it cannot be parsed ({error}); write it anew") from None
    if not isinstance(content, dict):
        raise RunError(f"expected a JSON object in {path}, but it holds a {type(content).__name__}; write it anew")
    return content


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
