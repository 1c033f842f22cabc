"""check.json: how accurate a run's files are against the reference; read by baselines and reports."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from tledge.core.environment import Machine
from tledge.core.files import sha256_file
from tledge.core.records import UNNUMBERED, Count, Document, Record, Share, read_record
from tledge.runs.bench_json import HostMachine

Verdict = Literal["pass", "fail", "undecided"]


class FlippedImage(Record, frozen=True, kw_only=True):
    """An image whose class changed, `before` and `after`; `label` is the true one."""

    path: str
    label: str
    before: str
    after: str


class CheckedResizing(Record, frozen=True, kw_only=True):
    """A model's answers where images are resized in another way; drop is from its own accuracy with the run's way.

    `flips` are images lost, then won, at most 20; `lost` and `won` count all.
    """

    resizer: str
    accuracy: Share
    accuracy_interval_95: tuple[float, float]
    accuracy_drop: float
    accuracy_drop_interval_95: tuple[float, float]
    lost: Count
    won: Count
    flips: tuple[FlippedImage, ...]


class CheckedReference(Record, frozen=True, kw_only=True):
    """The reference on `n` images; intervals are Wilson's, `recall` is None for a class without images."""

    accuracy: Share
    accuracy_interval_95: tuple[float, float]
    recall: dict[str, float | None]
    confusion: tuple[tuple[int, ...], ...]
    n: Count
    resized: tuple[CheckedResizing, ...] = ()


class CheckedGate(Record, frozen=True, kw_only=True):
    """One limit and what it was held against; `interval_95` is None where the value is exact or a maximum."""

    name: str
    value: float | None
    limit: float
    interval_95: tuple[float, float | None] | None
    n: Count
    verdict: Verdict
    passed: bool
    note: str


class SinceBaseline(Record, frozen=True, kw_only=True):
    """What changed since the baseline, image by image."""

    accuracy_drop: float
    accuracy_drop_interval_95: tuple[float, float]
    mcnemar_p: Share
    improved: bool
    lost: tuple[FlippedImage, ...]
    won: tuple[FlippedImage, ...]
    moved: tuple[FlippedImage, ...]


class ChangedImage(Record, frozen=True, kw_only=True):
    """An image without label for which the file names another class than the reference."""

    path: str
    reference: str
    artefact: str


class CheckedDisagreement(Record, frozen=True, kw_only=True):
    """`changed` of `n` images without labels are named another class; the interval is Wilson's.

    `examples` are those of them whose probabilities differ most.
    """

    n: Count
    changed: Count
    disagreement: Share
    disagreement_interval_95: tuple[float, float]
    examples: tuple[ChangedImage, ...]


class CheckedArtefact(Record, frozen=True, kw_only=True):
    """One file against the reference; drop is the reference's accuracy minus the file's, `reason` why it failed."""

    name: str
    path: str
    sha256: str
    size_bytes: Count
    runtime: str
    verdict: Verdict
    passed: bool
    reason: str
    accuracy: Share
    accuracy_interval_95: tuple[float, float]
    accuracy_drop: float
    accuracy_drop_interval_95: tuple[float, float]
    lost: Count
    won: Count
    mcnemar_p: Share
    agreement: Share
    agreement_interval_95: tuple[float, float]
    n: Count
    recall: dict[str, float | None]
    confusion: tuple[tuple[int, ...], ...]
    max_probability_difference: float
    mean_probability_difference: float
    gates: tuple[CheckedGate, ...]
    since_baseline: SinceBaseline | None
    unlabelled: CheckedDisagreement | None = None
    resized: tuple[CheckedResizing, ...] = ()


class CheckedUnlabelled(Record, frozen=True, kw_only=True):
    """Images without labels; `data_root` is relative to check.json, `copies` files there are the same as others."""

    data_root: str
    data_fingerprint: str
    n: Count
    copies: Count


class AnsweringEnvironment(Record, frozen=True, kw_only=True):
    """Where files answered: the machine, and versions of what computed them there."""

    machine: HostMachine
    versions: dict[str, str]


class AgainstHere(Record, frozen=True, kw_only=True):
    """How far a file's answers there are from its answers here, on the same images.

    Differences are of single probabilities, `other_class` counts images for which another class is named. `reason` is
    what explains a difference beyond rounding, empty where there is none beyond it.
    """

    max_probability_difference: float
    mean_probability_difference: float
    other_class: Count
    reason: str


class CheckedThere(CheckedArtefact, frozen=True, kw_only=True):
    """One file on a host: the same numbers from its answers there, and how far these are from those here."""

    against_here: AgainstHere


class CheckedHost(Record, frozen=True, kw_only=True):
    """The same images answered elsewhere; `on` is the address that was given to `--on`."""

    on: str
    passed: bool
    verdict: Verdict
    environment: AnsweringEnvironment
    artefacts: tuple[CheckedThere, ...]
    notes: tuple[str, ...]


class CheckFile(Document, frozen=True, kw_only=True):
    """check.json; `data_root` is relative to it. `predictions_sha256` is that of predictions.csv, since there is one.

    `hosts` is there where others answered: then `passed` and `verdict` are theirs, and `artefacts` is how the same
    files answered here.
    """

    UPGRADES = UNNUMBERED
    REMEDY: ClassVar[str] = "run `tledge check` again"

    passed: bool
    verdict: Verdict
    on_undecided: Literal["pass", "fail"]
    n: Count
    created: str
    data_root: str
    data_fingerprint: str
    predictions_sha256: str | None = None
    reference_sha256: str
    classes: tuple[str, ...]
    reference: CheckedReference
    artefacts: tuple[CheckedArtefact, ...]
    missing_from_baseline: tuple[str, ...]
    notes: tuple[str, ...]
    versions: dict[str, str]
    machine: Machine
    unlabelled: CheckedUnlabelled | None = None
    hosts: tuple[CheckedHost, ...] = ()

    def __post_init__(self) -> None:
        answered: list[CheckedReference | CheckedArtefact] = [self.reference, *self.artefacts]
        answered += [item for host in self.hosts for item in host.artefacts]
        for one in answered:
            # Readers put rows of several models beside each other.
            if one.confusion and {len(self.classes)} != {len(one.confusion), *map(len, one.confusion)}:
                raise ValueError(f"expected a confusion of {len(self.classes)} by {len(self.classes)} classes")
            if one.recall and set(one.recall) != set(self.classes):
                raise ValueError(f"expected recalls of {', '.join(self.classes)}, but got {', '.join(one.recall)}")

    def wrote(self, predictions: Path) -> bool:
        """Whether predictions.csv is still the one of this check; nobody knows it of a check without its digest."""
        return self.predictions_sha256 in (None, sha256_file(predictions))


def read_check(path: Path) -> CheckFile | None:
    """What a check found, None where there is no `check.json`.

    Raises:
        RunError: there is one that cannot be read.
    """
    return read_record(path, CheckFile) if path.is_file() else None
