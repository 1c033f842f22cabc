"""A run on disk: the only module that knows the names of the files in it.

Every file is written to a temporary name in the same directory and renamed, and a new run is put together in a staging
directory that gets its real name last: whatever carries its final name is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tledge.core.errors import DataError, RunError
from tledge.core.files import held, link, remove_stale
from tledge.data.archives import is_archive
from tledge.data.scan import image_root


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. A check without a run writes into a folder under the same names.

    `data` is the folder of its images where that was said anew, None where it is where the manifest says.
    """

    path: Path
    data: Path | None = None

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
    def quantization(self) -> Path:
        """Activation ranges that a quantization-aware training learned; other runs have none."""
        return self.path / "quantization.json"

    @property
    def calibration(self) -> Path:
        """Activation ranges of the model on its calibration images, kept once a check or a diagnosis needed them."""
        return self.path / "calibration.json"

    @property
    def selection(self) -> Path:
        """Why weights and technique were chosen, where that was left to tledge."""
        return self.path / "select.json"

    @property
    def exports(self) -> Path:
        """Where artefacts and their sidecars are."""
        return self.path / "export"

    @property
    def check(self) -> Path:
        """Accuracy of the artefacts."""
        return self.path / "check.json"

    @property
    def predictions(self) -> Path:
        """Which class every model of the last check named for every image."""
        return self.path / "predictions.csv"

    @property
    def bench(self) -> Path:
        """Latency of the artefacts."""
        return self.path / "bench.json"

    @property
    def diagnoses(self) -> Path:
        """Where there is a file for each artefact that was diagnosed."""
        return self.path / "diagnosis"

    @property
    def report(self) -> Path:
        """The whole run for a person, as text."""
        return self.path / "report.md"

    @property
    def page(self) -> Path:
        """The same as a page to look at."""
        return self.path / "report.html"

    @property
    def model_card(self) -> Path:
        """What somebody should know who is given the files."""
        return self.path / "MODEL_CARD.md"

    @property
    def card_facts(self) -> Path:
        """What its owner says about the model, for the model card; a person writes it."""
        return self.path / "model_card.toml"

    @property
    def search(self) -> Path:
        """How the run was chosen among candidates, where it was."""
        return self.path / "search.json"

    def set_reference(self, original: Path) -> None:
        """Give an optimized run, while it is staged, the original model to be compared with."""
        link(original, self.path / "reference.keras")

    def take_over(self, source: RunDir, recipe_names: tuple[str, ...]) -> None:
        """Link into a run, while it is staged, another one's model, lists, latencies and the artefacts of recipes.

        The manifest is left to the caller, since it holds relative paths. Files are only ever replaced, never changed
        in place, so that the two runs stay independent.
        """
        files = [source.split, source.model, source.labels, source.history, source.quantization, source.calibration]
        files += [source.bench]
        files += [source.reference] if source.reference != source.model else []
        whole = [path for path in source.artefacts() if path.stem in recipe_names and sidecar_of(path).is_file()]
        for path in (*files, *whole, *map(sidecar_of, whole)):
            target = self.path / path.relative_to(source.path)
            target.parent.mkdir(exist_ok=True)
            if path.is_file():
                link(path, target)

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

    def artefacts(self) -> list[Path]:
        """Every exported file, sorted by name; one without a sidecar was interrupted."""
        return sorted(
            path
            for path in self.exports.glob("[!.]*")
            # Files of a format that was added are known by their sidecar.
            if path.suffix in (".onnx", ".ort", ".tflite") or (path.suffix != ".json" and sidecar_of(path).is_file())
        )

    def sidecars(self) -> list[Path]:
        """Sidecars of the artefacts that are complete, sorted by name."""
        return [sidecar_of(path) for path in self.artefacts() if sidecar_of(path).is_file()]

    def orphans(self) -> list[Path]:
        """Sidecars whose artefact is gone, sorted by name."""
        own = {sidecar_of(path) for path in self.artefacts()}
        return sorted(path for path in self.exports.glob("[!.]*.json") if path not in own)


def sidecar_of(artefact: Path) -> Path:
    """Path of the sidecar that belongs to an artefact."""
    return artefact.with_suffix(".json")


def signature_of(file: Path) -> Path:
    """Path of the signature that belongs to an artefact, or to any file."""
    return file.with_name(f"{file.name}.minisig")


def open_run(path: Path | str, data: Path | None = None) -> RunDir:
    """Return the run at `path`.

    Args:
        path: the run.
        data: the folder where its images are now, or the archive they came from; None for where they were at training.

    Raises:
        RunError: `path` is not a directory, or has no manifest.
        DataError: `data` is no folder, or a damaged archive.
    """
    run = RunDir(Path(path), None if data is None else folder_of_images(data))
    if not run.path.is_dir():
        raise RunError(f"expected a run directory, but {run.path} does not exist; make one with `tledge train`")
    if not run.manifest.is_file():
        raise RunError(
            f"expected a run, but {run.path} has no {run.manifest.name}: its training did not finish, "
            "or it is another directory; train again into a new one"
        )
    return run


def folder_of_images(data: Path) -> Path:
    """Where paths of images start: in a folder, or in one inside it that alone holds images, as at training; of an
    archive, the folder in the cache where its images are unpacked.

    Raises:
        DataError: neither, or a damaged archive.
    """
    if not is_archive(data) and not data.is_dir():
        raise DataError(f"expected a folder with the run's images, but {data} is none; check --data")
    return image_root(data)


def require_writable(run: RunDir) -> None:
    """Check, before slow work, that results can be written into a run.

    Raises:
        RunError: the run is read-only.
    """
    if not os.access(run.path, os.W_OK):
        raise RunError(f"expected to write into the run {run.path}, but it is read-only; copy it or change its mode")


def require_vacant(path: Path) -> None:
    """Check that a new run can be written at `path`.

    Raises:
        RunError: something is there already, or its parent cannot be written to.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        what, remedy = "exists", "choose another --out"
        if RunDir(path).manifest.is_file():  # say, one whose export was interrupted
            what, remedy = "is a run", f"go on with it (`tledge export {path}`), or choose another --out for a new one"
        raise RunError(f"expected a path for a new run, but {path} {what}; {remedy}")
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
    remove_stale(path.parent, path.name)
    staged = path.parent / f".{path.name}.partial-{os.getpid()}"
    staged.mkdir()
    try:
        with held(staged):
            yield RunDir(staged)
            require_vacant(path)
            staged.rename(path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@dataclass(frozen=True)
class SearchDir:
    """Where a search for a run keeps its candidates, each a whole run, and their numbers; it may be deleted.

    `data` is where the images of all of them are, if not where their manifests say.
    """

    path: Path
    data: Path | None = None

    @property
    def numbers(self) -> Path:
        """What is known of every candidate; its presence marks the directory as a search's."""
        return RunDir(self.path).search

    @property
    def page(self) -> Path:
        """The search as a page to look at."""
        return self.path / "search.html"

    def candidate(self, name: str) -> RunDir:
        """The run of a candidate."""
        return RunDir(self.path / name, self.data)


def search_of(out: Path, data: Path | None = None) -> SearchDir:
    """The candidates of a search for a run: a directory beside it.

    Raises:
        RunError: something else is there.
    """
    search = SearchDir(out.absolute().with_name(f"{out.absolute().name}.search"), data)
    path = search.path
    # What a process left that was killed while it wrote its first numbers is hidden.
    if path.exists() and not search.numbers.is_file() and not (path.is_dir() and not [*path.glob("[!.]*")]):
        raise RunError(f"expected a place for candidates, but {path} is no search; choose another --out or move it")
    return search
