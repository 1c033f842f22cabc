"""What a check comes to: numbers and verdict of every file, here and on other machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tledge.evaluation.answers import Answers
from tledge.evaluation.baseline import Change, Flip
from tledge.evaluation.gates.gate import Gate, Verdict, worst
from tledge.evaluation.settings import CheckSettings
from tledge.runs.check_json import AgainstHere, AnsweringEnvironment
from tledge.runs.images import CheckImages, UnlabelledImages
from tledge.runs.rundir import RunDir
from tledge.stats import metrics
from tledge.stats.paired import PairedDrop


@dataclass(frozen=True)
class ChangedAnswer:
    """An image for which an artefact names another class than the reference."""

    path: str
    reference: str
    artefact: str


@dataclass(frozen=True)
class Disagreement:
    """How an artefact answers images without labels.

    `share` are those named another class than by the reference, `changed` of them; `examples` of these are the ones
    whose probabilities differ most, at most 20.
    """

    share: metrics.Proportion
    changed: int
    examples: tuple[ChangedAnswer, ...]


@dataclass(frozen=True)
class Resized:
    """How a model answers where images are resized in another way, `resizer`, against its own answers to `resize`'s.

    `flips` are images that this loses, then such that it wins, at most 20.
    """

    resizer: str
    accuracy: metrics.Proportion
    drop: PairedDrop
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class ArtefactCheck:
    """How one artefact compares with the reference. Shares are in 0..1, drop is reference minus artefact.

    `passed` says what the verdict came to, undecided counted as the caller chose. `reason` is the likely cause of a
    failure, empty where none was looked for or found. `predicted` is the class index per image. `disagreement` is None
    without images that have no labels, `resized` empty where that was not asked for.
    """

    name: str
    path: Path
    sha256: str
    size_bytes: int
    runtime: str
    accuracy: metrics.Proportion
    drop: PairedDrop
    agreement: metrics.Proportion
    recall: dict[str, float | None]
    confusion: list[list[int]]
    max_probability_difference: float
    mean_probability_difference: float
    gates: tuple[Gate, ...]
    change: Change | None
    verdict: Verdict
    passed: bool
    predicted: tuple[int, ...]
    reason: str = ""
    disagreement: Disagreement | None = None
    resized: tuple[Resized, ...] = ()

    @property
    def accuracy_drop(self) -> float:
        """Accuracy of the reference minus that of the artefact."""
        return self.drop.value


@dataclass(frozen=True)
class CheckResult:
    """The verdict over all artefacts of one check, which `folder` holds as files; `notes` say what was left out.

    `unlabelled` are images without labels that the models answered too, None without such. `reference_resized` is how
    the reference answers where images are resized in other ways, empty where that was not asked for.
    `hosts` is what others answered, where it was their answers that were asked for: then these make the verdict, and
    `artefacts` is how the same files answer here.
    """

    folder: RunDir
    images: CheckImages
    classes: tuple[str, ...]
    reference_accuracy: metrics.Proportion
    answers: Answers
    artefacts: tuple[ArtefactCheck, ...]
    settings: CheckSettings
    missing: tuple[str, ...]
    reference_sha256: str
    unlabelled: UnlabelledImages | None
    reference_resized: tuple[Resized, ...] = ()
    notes: tuple[str, ...] = ()
    hosts: tuple[HostCheck, ...] = ()

    @property
    def judged(self) -> tuple[tuple[str, CheckResult], ...]:
        """What makes the verdict: the name of each host with its result, or this one, of no name."""
        return tuple((host.name, host.result) for host in self.hosts) or (("", self),)

    @property
    def n(self) -> int:
        """Images."""
        return self.images.n

    @property
    def verdict(self) -> Verdict:
        """The worst of the artefacts' verdicts, on every host that was asked."""
        return worst([artefact.verdict for _, one in self.judged for artefact in one.artefacts])

    @property
    def passed(self) -> bool:
        """Whether every artefact passed, undecided gates counted as the settings say."""
        return all(artefact.passed for _, one in self.judged for artefact in one.artefacts)


@dataclass(frozen=True)
class HostCheck:
    """The same check on answers of another machine, or of another runtime on this one.

    `on` is its address as `check.json` keeps it, `name` how tables call it. `against_here` says, in the order of the
    artefacts, how far the answers there are from those here.
    """

    on: str
    name: str
    environment: AnsweringEnvironment
    result: CheckResult
    against_here: tuple[AgainstHere, ...]
