"""The last accepted release, image by image: what a later check is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tledge.core.environment import versions
from tledge.core.errors import RunError
from tledge.core.records import Count, Document, Record, Share, read_record, read_rows, write_record
from tledge.core.types import Labels
from tledge.evaluation.gates.gate import worst
from tledge.runs.check_json import CheckFile
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import RunDir
from tledge.stats.intervals import CONFIDENCE
from tledge.stats.paired import PairedDrop, paired_drop


class BaselineArtefact(Record, frozen=True, kw_only=True):
    """One file: its accuracy, and the index of the class that it named per image, joined by spaces."""

    sha256: str
    accuracy: Share
    predicted: str


class BaselineFile(Document, frozen=True, kw_only=True):
    """A baseline; verdicts are absent in those that early versions saved."""

    REMEDY: ClassVar[str] = "save it again with `tledge baseline save`"

    created: str
    versions: dict[str, str]
    verdict: str = ""
    not_passed: tuple[str, ...] | None = None
    n: Count
    data_fingerprint: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    artefacts: dict[str, BaselineArtefact]


@dataclass(frozen=True)
class AcceptedArtefact:
    """One file of the accepted release: its digest and the class index that it named per image."""

    sha256: str
    predicted: tuple[int, ...]


@dataclass(frozen=True)
class Accepted:
    """A baseline: the images by fingerprint and path, the classes, and every artefact by name.

    `verdict` is that of the check that was kept, `not_passed` the files whose own was not a pass; both empty in
    baselines that earlier versions saved.
    """

    path: Path
    data_fingerprint: str
    classes: tuple[str, ...]
    images: tuple[str, ...]
    artefacts: Mapping[str, AcceptedArtefact]
    verdict: str = ""
    not_passed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flip:
    """An image whose class changed since the baseline; `label` is the true one."""

    path: str
    label: str
    before: str
    after: str


@dataclass(frozen=True)
class Change:
    """What changed since the baseline: `drop` is accuracy then minus accuracy now, on the same images.

    `lost` were right and are wrong now, `won` the reverse, `moved` are wrong in another way.
    """

    drop: PairedDrop
    lost: tuple[Flip, ...]
    won: tuple[Flip, ...]
    moved: tuple[Flip, ...]

    @property
    def improved(self) -> bool:
        """Whether the accuracy rose by more than chance explains.

        The whole interval of the drop is below 0, and McNemar's exact test agrees: of few changed images the interval
        is too narrow.
        """
        return self.drop.high < 0 and self.drop.p_value <= 1 - CONFIDENCE


def save_baseline(run_path: Path, out: Path) -> Accepted:
    """Keep the last check of a run, or of a folder that `check --out` wrote, as the accepted release.

    Raises:
        RunError: it was not checked, or not with this version.
    """
    checked = RunDir(run_path)
    if not checked.check.is_file() or not checked.predictions.is_file():
        raise RunError(
            f"expected a checked run in {run_path}, but it has no check; run `tledge check {run_path}` first"
        )
    check = read_record(checked.check, CheckFile)
    if checked.manifest.is_file() and (run := read_manifest(checked)).reference_sha256 != check.reference_sha256:
        raise RunError(
            f"expected a check of the model {run.reference_sha256[:12]} of this run in {checked.check}, but it is one "
            f"of {check.reference_sha256[:12]}; run `tledge check {run_path}` again"
        )
    if not check.wrote(checked.predictions):
        raise RunError(
            f"expected {checked.predictions} to be the file that {checked.check.name} describes, but its SHA-256 "
            "differs; run `tledge check` again"
        )
    columns, rows = read_rows(checked.predictions, ("path", "class"), CheckFile.REMEDY)
    if not rows or check.n != len(rows):
        raise RunError(
            f"expected answers to the {check.n} images of {checked.check.name} in {checked.predictions}, but it has "
            f"{len(rows)}; run `tledge check` again"
        )
    position = {name: index for index, name in enumerate(check.classes)}
    names = [item.name for item in check.artefacts]
    missing = [name for name in ("path", "class", *names) if name not in columns]
    missing += sorted({row[name] for row in rows for name in names if name in columns} - position.keys())
    if missing:
        raise RunError(
            f"expected {checked.check.name} and {checked.predictions.name} of the same check in {run_path}, but "
            f"{missing[0]!r} is missing; run `tledge check` again"
        )
    content = BaselineFile(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        # That of the answers that are kept: with `--on`, the check's own verdict is about other ones.
        verdict=worst([item.verdict for item in check.artefacts]),
        not_passed=tuple(item.name for item in check.artefacts if item.verdict != "pass"),
        n=check.n,
        data_fingerprint=check.data_fingerprint,
        classes=check.classes,
        images=tuple(row["path"] for row in rows),
        artefacts={
            item.name: BaselineArtefact(
                sha256=item.sha256,
                accuracy=sum(row[item.name] == row["class"] for row in rows) / len(rows),
                predicted=" ".join(str(position[row[item.name]]) for row in rows),
            )
            for item in check.artefacts
        },
    )
    write_record(out, content)
    return read_baseline(out)


def read_baseline(path: Path) -> Accepted:
    """Read what `save_baseline` wrote.

    Raises:
        RunError: missing, malformed or of another version.
    """
    if not path.is_file():
        raise RunError(
            f"expected a baseline, but {path} does not exist; make one with `tledge baseline save RUN -o {path}`"
        )
    content = read_record(path, BaselineFile)
    artefacts = {
        name: AcceptedArtefact(item.sha256, _indices(item.predicted, f"artefacts.{name}.predicted", path))
        for name, item in content.artefacts.items()
    }
    images, classes = content.images, content.classes
    wrong = "" if images and content.n == len(images) else f"{len(images)} images, but n is {content.n}"
    for name, item in artefacts.items():
        if len(item.predicted) != len(images):
            wrong = wrong or f"{name} answers for other images"
        if strange := set(item.predicted) - set(range(len(classes))):
            wrong = wrong or f"{name} names class {min(strange)} of 0..{len(classes) - 1}"
    if wrong:
        raise RunError(f"expected one class for each image in {path}, but {wrong}; {content.REMEDY}")
    verdict, not_passed = content.verdict, content.not_passed
    return Accepted(path, content.data_fingerprint, classes, images, artefacts, verdict, not_passed or ())


def _indices(text: str, field: str, path: Path) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split()))
    except ValueError as error:
        raise RunError(
            f"expected {field} as whole numbers in {path}, but got {text[:40]!r} ({error}); {BaselineFile.REMEDY}"
        ) from None


def require_same_data(accepted: Accepted, fingerprint: str, classes: Sequence[str], paths: Sequence[str]) -> None:
    """Refuse a comparison with other images, other classes, or the same in another order.

    Raises:
        RunError: they differ.
    """
    if accepted.data_fingerprint != fingerprint or accepted.images != tuple(paths):
        raise RunError(
            f"expected the images that {accepted.path} was saved for ({len(accepted.images)}, fingerprint "
            f"{accepted.data_fingerprint[:12]}), but these are others ({len(paths)}, {fingerprint[:12]}); "
            "check the same images or save a new baseline"
        )
    if accepted.classes != tuple(classes):
        raise RunError(
            f"expected the classes of {accepted.path} ({', '.join(accepted.classes)}), but got {', '.join(classes)}; "
            "save a new baseline"
        )


def change_since(
    before: AcceptedArtefact,
    predicted: NDArray[np.int64],
    paths: Sequence[str],
    labels: Labels,
    classes: Sequence[str],
) -> Change:
    """Compare class indices now (N,) with those of the baseline, image by image."""
    then = np.asarray(before.predicted, np.int64)
    was_right, is_right = then == labels, predicted == labels

    def flips(chosen: NDArray[np.bool_]) -> tuple[Flip, ...]:
        return tuple(
            Flip(paths[i], classes[int(labels[i])], classes[int(then[i])], classes[int(predicted[i])])
            for i in map(int, np.flatnonzero(chosen))
        )

    return Change(
        paired_drop(was_right, is_right),
        lost=flips(was_right & ~is_right),
        won=flips(~was_right & is_right),
        moved=flips(~was_right & ~is_right & (then != predicted)),
    )
