"""The manifest (`run.json`) and the other small files that say what a run is."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from tledge.core.errors import RunError
from tledge.core.files import read_json, sha256_file, write_csv, write_json, write_text
from tledge.core.types import SUBSETS, HeadName, Json, Subset, TechniqueName
from tledge.core.user_folders import unpacked_folder
from tledge.data.split import SplitRow
from tledge.runs.rundir import RunDir

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """Everything about a run that a later stage or a person needs to know.

    `data_root` is where the images were at training time, relative to the run. `weights` holds `source`, `digest`
    (SHA-256 of the 26 tensors) and `requested`. `split` holds the counts and fractions. `model_sha256` ties every
    artefact to the run's model, `reference_sha256` is the model they are compared with: the same one, unless the run
    came out of an optimization. Then `optimization` holds its method, settings and steps, and `parent` the path, model
    and optimization of the run before, with a `parent` of its own; path and model are None where several methods were
    asked for at once and no run was written between them. Times are in seconds.
    """

    schema_version: int
    created: str
    command: str
    versions: dict[str, str]
    machine: Json
    seed: int
    technique: TechniqueName
    head: HeadName
    settings: Json
    classes: list[str]
    image_size_px: int
    resize_method: str
    data_root: str
    data_fingerprint: str
    split: Json
    weights: Json
    training: Json
    timings_s: dict[str, float]
    model_sha256: str
    reference_sha256: str
    parent: Json | None
    optimization: Json | None


def write_manifest(run: RunDir, manifest: Manifest) -> None:
    """Write `run.json`: the last file of a new run."""
    write_json(run.manifest, asdict(manifest))


def read_manifest(run: RunDir) -> Manifest:
    """Read and check `run.json`.

    Raises:
        RunError: not JSON, a field is missing, or another schema version.
    """
    content = read_json(run.manifest)
    found = content.get("schema_version")
    if found != SCHEMA_VERSION:
        raise RunError(
            f"expected schema version {SCHEMA_VERSION} in {run.manifest}, but it says {found!r}; "
            "use the tledge version that wrote it, or train again"
        )
    names = [field.name for field in fields(Manifest)]
    if missing := [name for name in names if name not in content]:
        raise RunError(f"expected {', '.join(missing)} in {run.manifest}, but it lacks them; train again")
    return Manifest(**{name: content[name] for name in names})


def verify_reference(run: RunDir, manifest: Manifest) -> None:
    """Check that the Keras models are the files the manifest speaks of.

    Raises:
        RunError: one is missing or was changed after training.
    """
    for path, digest in {(run.model, manifest.model_sha256), (run.reference, manifest.reference_sha256)}:
        if not path.is_file():
            raise RunError(f"expected the model {path}, but it is missing; restore it or train again")
        if sha256_file(path) != digest:
            raise RunError(
                f"expected {path} to be the model that {run.manifest.name} describes, but its SHA-256 differs; "
                "restore the file or train again"
            )


def moved(manifest: Manifest, before: Path, after: Path) -> Manifest:
    """The manifest for a copy of a run at `after`: what is relative to the run goes on leading to the same places."""

    def rebased(path: str) -> str:
        return os.path.relpath((before.resolve() / path).resolve(), after.resolve())

    def led(parent: Json | None) -> Json | None:
        if parent is None:
            return None
        if parent["path"] is not None:  # the run at that place says where its own parent is
            return parent | {"path": rebased(parent["path"])}
        return parent | {"parent": led(parent["parent"])}  # a step within one command

    return replace(manifest, data_root=rebased(manifest.data_root), parent=led(manifest.parent))


def optimizations(manifest: Manifest) -> tuple[Json, ...]:
    """What was done to the original model, oldest first: the `optimization` of each step; empty for a trained run."""
    steps, optimization, parent = [], manifest.optimization, manifest.parent
    while optimization is not None:
        steps.append(optimization)
        optimization, parent = (None, None) if parent is None else (parent.get("optimization"), parent.get("parent"))
    return tuple(reversed(steps))


def quantization_digest(manifest: Manifest) -> str | None:
    """SHA-256 of the run's learned activation ranges, None if it has none."""
    return (manifest.optimization or {}).get("quantization_sha256")


def write_labels(run: RunDir, classes: list[str]) -> None:
    """Write `labels.txt`, one class a line in the order of the model's outputs."""
    write_text(run.labels, "".join(f"{name}\n" for name in classes))


def write_split(run: RunDir, rows: tuple[SplitRow, ...]) -> None:
    """Write `split.csv`."""
    write_csv(run.split, ("path", "class", "subset", "sha256"), [(r.path, r.label, r.subset, r.sha256) for r in rows])


def read_split(run: RunDir, subset: Subset | None = None) -> tuple[SplitRow, ...]:
    """Read `split.csv`, or only the rows of one subset.

    Raises:
        RunError: the file is missing or malformed.
    """
    try:
        with run.split.open(encoding="utf-8", newline="") as stream:
            rows = [SplitRow(r["path"], r["class"], r["subset"], r["sha256"]) for r in csv.DictReader(stream)]  # type: ignore[arg-type]
    except (FileNotFoundError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"expected {run.split} with path, class, subset and sha256 ({error!r}); train again") from None
    if broken := [row for row in rows if row.subset not in SUBSETS or not all(vars(row).values())]:
        raise RunError(f"expected path, class, subset and sha256 in every line of {run.split}, but got {broken[0]}")
    return tuple(row for row in rows if subset is None or row.subset == subset)


def data_root(run: RunDir, manifest: Manifest) -> Path:
    """The folder of images, resolved against the run.

    Raises:
        RunError: the folder is gone.
    """
    # Resolved, since ".." behind a symbolic link leads to where the link points.
    root = (run.path.resolve() / manifest.data_root).resolve()
    if not root.is_dir():
        raise RunError(
            f"expected the run's images in {root}, but that folder is gone; {how_to_restore(root)}, or pass `check` "
            "--data"
        )
    return root


def how_to_restore(root: Path) -> str:
    """What to do about images that are gone from a run's data folder, as the end of a message."""
    if root.is_relative_to(unpacked_folder().resolve()):
        return "they were unpacked into the cache: `tledge select` with the same archive unpacks them again"
    return "restore it"
