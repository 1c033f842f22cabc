"""The manifest (`run.json`) and the other small files that say what a run is."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta
from msgspec.structs import replace

from tledge.core.environment import Machine
from tledge.core.errors import RunError
from tledge.core.files import sha256_file, write_csv, write_text
from tledge.core.image_size import ImageSize, require_possible
from tledge.core.records import Count, Document, Record, Share, read_record, read_rows, write_record
from tledge.core.types import LARGEST_SEED, SUBSETS, HeadName, Json, ResizeMode, Subset, TechniqueName
from tledge.data.names import is_writable
from tledge.data.split import Split, SplitRow, data_fingerprint
from tledge.runs.rundir import RunDir


class SplitFacts(Record, frozen=True, kw_only=True):
    """How images were split: the fractions asked for, images by subset and class, and the duplicates left out."""

    val_fraction: Share
    test_fraction: Share
    images: dict[Subset, Count]
    images_per_class: dict[Subset, dict[str, Count]]
    dropped: tuple[str, ...]


class WeightsFacts(Record, frozen=True, kw_only=True):
    """Which weights a run started from.

    `requested` is what was asked for, `source` what that came to, `digest` the SHA-256 of the 26 tensors, None where
    they are random. `selection` says why they, or the technique, were chosen, where that was left to a selection.
    """

    requested: str
    source: str
    digest: str | None
    selection: dict[str, str] | None = None


class TrainingFacts(Record, frozen=True, kw_only=True):
    """How the training went; `val_loss` is None behind an optimization.

    `prefix_images` is how many images the frozen layers saw, `prefix_cached` how many of which features were kept.
    """

    epochs: Count
    best_epoch: Count
    val_accuracy: float
    val_loss: float | None
    trainable_parameters: Count
    prefix_images: Count
    prefix_cached: Count
    prefix_seconds: float


class Parent(Record, frozen=True, kw_only=True):
    """The run that another one was optimized from.

    Path (relative to the run) and model are None where several methods were asked for at once and no run was written
    between them.
    """

    path: str | None
    model_sha256: str | None
    optimization: Json | None
    parent: Parent | None

    def __post_init__(self) -> None:
        _require_method(self.optimization)


class Manifest(Document, frozen=True, kw_only=True):
    """Everything about a run that a later stage or a person needs to know.

    `origin` says whether tledge trained the model or it was brought along finished; then there is no `technique` and no
    `head`, and `training` counts no epochs. `data_root` is where the images were at training time, relative to the run.
    `resize_method` is the filter that resizes pictures, `resize` what becomes of those of another shape: a manifest
    that does not say it means `stretch`.
    `settings` are those of the training or of the adoption.
    `data_fingerprint` is that of all images and their classes, `split_sha256` also of their subsets (see
    `split_digest`); the latter is absent from runs of earlier versions.
    `model_sha256` ties every artefact to the run's model, `reference_sha256` is the model they are compared with: the
    same one, unless the run came out of an optimization. Then `optimization` holds its `method`, its `settings` and
    what the method says of its steps, and `parent` the run before. Times are in seconds.
    """

    REMEDY: ClassVar[str] = "train again"

    created: str
    command: str
    versions: dict[str, str]
    machine: Machine
    seed: Annotated[int, Meta(ge=0, le=LARGEST_SEED)]
    origin: Literal["trained", "adopted"] = "trained"
    technique: TechniqueName | None
    head: HeadName | None
    settings: Json
    classes: Annotated[tuple[str, ...], Meta(min_length=2)]
    image_size_px: ImageSize
    resize_method: str
    resize: ResizeMode = "stretch"
    data_root: str
    data_fingerprint: str
    split_sha256: str | None = None
    split: SplitFacts
    weights: WeightsFacts
    training: TrainingFacts
    timings_s: dict[str, float]
    model_sha256: str
    reference_sha256: str
    parent: Parent | None
    optimization: Json | None

    def __post_init__(self) -> None:
        _require_method(self.optimization)
        require_possible(self.image_size_px)
        for counts in (self.split.images, self.split.images_per_class):
            if missing := sorted(set(SUBSETS) - counts.keys()):
                raise ValueError(f"expected numbers of images for {', '.join(SUBSETS)}, but got none for {missing[0]}")
        if self.origin == "adopted" and not isinstance(self.settings.get("form"), str):
            raise ValueError(f"expected settings.form as text, but got {self.settings.get('form')!r}")
        if repeated := sorted({name for name in self.classes if self.classes.count(name) > 1}):
            raise ValueError(f"expected each class once, but got {repeated[0]!r} twice")
        if odd := [name for name in self.classes if not name.strip() or not is_writable(name)]:
            raise ValueError(f"expected names of classes on one line, but got {odd[0]!r}")


def _require_method(optimization: Json | None) -> None:
    """What else there is depends on the method."""
    if optimization is not None and not isinstance(optimization.get("method"), str):
        raise ValueError(f"expected optimization.method as text, but got {optimization.get('method')!r}")


def split_facts(split: Split, val_fraction: float, test_fraction: float) -> SplitFacts:
    """What a manifest says of a split and the fractions asked for."""
    counts = {subset: Counter(row.label for row in split.rows if row.subset == subset) for subset in SUBSETS}
    return SplitFacts(
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        images={subset: sum(count.values()) for subset, count in counts.items()},
        images_per_class={subset: dict(sorted(count.items())) for subset, count in counts.items()},
        dropped=split.dropped,
    )


def write_manifest(run: RunDir, manifest: Manifest) -> None:
    """Write `run.json`: the last file of a new run."""
    write_record(run.manifest, manifest)


def read_manifest(run: RunDir) -> Manifest:
    """Read and check `run.json`; `data_root` leads to where the images are now, if the run was opened with that.

    Raises:
        RunError: not JSON, a field is missing or of another type, or another schema version.
    """
    manifest = read_record(run.manifest, Manifest)
    if run.data is None:
        return manifest
    return replace(manifest, data_root=os.path.relpath(run.data.resolve(), run.path.resolve()))


def verify_reference(run: RunDir, manifest: Manifest) -> None:
    """Check that the Keras models are the files the manifest speaks of.

    Raises:
        RunError: one is missing or was changed after training.
    """
    for path, digest in {(run.model, manifest.model_sha256), (run.reference, manifest.reference_sha256)}:
        if not path.is_file():
            raise RunError(f"expected the model {path}, but it is missing; restore it or train again")
        _require_own(run, path, digest)


def require_own_reference(run: RunDir, manifest: Manifest) -> None:
    """Check that the reference, where it is there, is the file that the manifest speaks of: results do not need it.

    Raises:
        RunError: it was changed after training.
    """
    if run.reference.is_file():
        _require_own(run, run.reference, manifest.reference_sha256)


def _require_own(run: RunDir, path: Path, digest: str) -> None:
    if sha256_file(path) != digest:
        raise RunError(
            f"expected {path} to be the model that {run.manifest.name} describes, but its SHA-256 differs; "
            "restore the file or train again"
        )


def verify_run(run: RunDir, manifest: Manifest) -> None:
    """Check that models, split and class names of a run are those that the manifest speaks of.

    Raises:
        RunError: one is missing (of `labels.txt`, which nothing here reads, that is none), damaged or was changed.
    """
    verify_reference(run, manifest)
    read_split(run)
    require_own_labels(run, manifest)


def require_own_labels(run: RunDir, manifest: Manifest) -> None:
    """Check that `labels.txt`, where it is there, names the classes of the manifest in their order.

    Raises:
        RunError: it does not.
    """
    if not run.labels.is_file():
        return
    # As lines, since an editor may have changed what ends them.
    found = run.labels.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    if found != list(manifest.classes):
        raise RunError(
            f"expected the classes of {run.manifest.name} ({', '.join(manifest.classes)}) in {run.labels}, one a line, "
            f"but got {', '.join(found)[:200] or 'none'}; delete the file or write them into it"
        )


def moved(manifest: Manifest, before: Path, after: Path) -> Manifest:
    """The manifest for a copy of a run at `after`: what is relative to the run goes on leading to the same places."""

    def rebased(path: str) -> str:
        return os.path.relpath((before.resolve() / path).resolve(), after.resolve())

    def led(parent: Parent | None) -> Parent | None:
        if parent is None:
            return None
        if parent.path is not None:  # the run at that place says where its own parent is
            return replace(parent, path=rebased(parent.path))
        return replace(parent, parent=led(parent.parent))  # a step within one command

    return replace(manifest, data_root=rebased(manifest.data_root), parent=led(manifest.parent))


def optimizations(manifest: Manifest) -> tuple[Json, ...]:
    """What was done to the original model, oldest first: the `optimization` of each step; empty for a trained run."""
    return tuple(reversed(list(_latest_first(manifest))))


def _latest_first(manifest: Manifest) -> Iterator[Json]:
    step: Manifest | Parent | None = manifest
    while step is not None and step.optimization is not None:
        yield step.optimization
        step = step.parent


def quantization_digest(manifest: Manifest) -> str | None:
    """SHA-256 of the run's learned activation ranges, None if it has none."""
    return (manifest.optimization or {}).get("quantization_sha256")


def write_labels(run: RunDir, classes: Sequence[str]) -> None:
    """Write `labels.txt`, one class a line in the order of the model's outputs."""
    write_text(run.labels, "".join(f"{name}\n" for name in classes))


def write_split(run: RunDir, rows: tuple[SplitRow, ...]) -> None:
    """Write `split.csv`."""
    write_csv(run.split, ("path", "class", "subset", "sha256"), [(r.path, r.label, r.subset, r.sha256) for r in rows])


def split_digest(rows: Sequence[SplitRow]) -> str:
    """SHA-256 over path, class, subset and content of all images, in hex, whatever their order."""
    lines = sorted(f"{row.path}\t{row.label}\t{row.subset}\t{row.sha256}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_split(run: RunDir, subset: Subset | None = None) -> tuple[SplitRow, ...]:
    """Read `split.csv`, or only the rows of one subset, and compare the whole with the manifest.

    Of runs from before there was a digest of it, images, classes and the numbers in each subset are compared; there,
    two images of one class that changed places are not noticed (`tledge doctor RUN` says so).

    Raises:
        RunError: the file is missing, malformed, or not that of the manifest.
    """
    rows = _rows_as_of(run, _content(run.split), _content(run.manifest))
    return tuple(row for row in rows if subset is None or row.subset == subset)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


# A command asks several times, and of 100,000 images each answer took a second. The files are read every time, so a
# change in between is seen as ever.
@functools.lru_cache(maxsize=2)
def _rows_as_of(run: RunDir, split: bytes, manifest: bytes) -> tuple[SplitRow, ...]:
    """The rows of a run whose files hold these bytes, compared with the manifest."""
    _, found = read_rows(run.split, ("path", "class", "subset", "sha256"), Manifest.REMEDY)
    one: dict[str, Any] = {}  # names of classes and subsets, each kept once
    rows = tuple(
        SplitRow(
            r["path"], one.setdefault(r["class"], r["class"]), one.setdefault(r["subset"], r["subset"]), r["sha256"]
        )
        for r in found
    )
    if broken := [row for row in rows if row.subset not in SUBSETS or not (row.path and row.label and row.sha256)]:
        raise RunError(f"expected path, class, subset and sha256 in every line of {run.split}, but got {broken[0]}")
    if difference := _difference(rows, read_manifest(run)):
        raise RunError(
            f"expected {run.split} as {run.manifest.name} describes it, but {difference}; restore it or train again"
        )
    return rows


def _difference(rows: Sequence[SplitRow], manifest: Manifest) -> str:
    """What is other in a split than the manifest says, empty if nothing."""
    paths = Counter(row.path for row in rows)
    if repeated := [path for path, times in paths.items() if times > 1]:
        return f"{repeated[0]} is there {paths[repeated[0]]} times"
    counts = split_facts(Split(tuple(rows), ()), 0, 0)
    for subset, count in counts.images.items():
        if count != manifest.split.images.get(subset, 0):
            return f"it has {count} {subset} images instead of {manifest.split.images.get(subset, 0)}"
    if counts.images_per_class != manifest.split.images_per_class:
        return "it has other numbers of images for some classes"
    if data_fingerprint(rows) != manifest.data_fingerprint:
        return "paths, classes or digests of some images are others"
    if manifest.split_sha256 not in (None, split_digest(rows)):
        return "some images are in other subsets"
    return ""
