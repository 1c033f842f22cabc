"""Compare classifiers with a reference on the same images: the heart of `check`, whoever made the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from tledge.core.cluster import HERE, Calls
from tledge.core.errors import SettingsError
from tledge.core.image_size import height_width
from tledge.core.progress import Progress, Steps, silent_steps
from tledge.core.types import Labels, Probabilities
from tledge.data.decode import stored_size
from tledge.data.resizers import other_resizers
from tledge.diagnosis.answers import FaultHypotheses, evenly, explain_answers, other_forms
from tledge.evaluation.baseline import Accepted, Change, Flip, change_since, require_same_data
from tledge.evaluation.gates import evaluate
from tledge.evaluation.gates.evidence import Evidence, PairedAnswers, RangeFit
from tledge.evaluation.gates.gate import Gate, Limits, OnUndecided, Verdict, worst
from tledge.evaluation.gates.properties import ARENA
from tledge.evaluation.invariants import invariants
from tledge.evaluation.settings import CheckSettings
from tledge.runs.bench_json import read_bench
from tledge.runs.check_json import AgainstHere, AnsweringEnvironment
from tledge.runs.images import CheckImages, ImageSet, UnlabelledImages
from tledge.runs.rundir import RunDir
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier
from tledge.runtimes.litert_micro import measure_arena
from tledge.runtimes.providers import as_text, require_taken
from tledge.stats import metrics
from tledge.stats.intervals import Interval
from tledge.stats.paired import PairedDrop, paired_drop

_BATCH = 16
_MOST_BATCHES_OF_A_PART = 16
_PARTS_PER_WORKER = 4
_IMAGES_TO_EXPLAIN = 48
_EXAMPLES = 20


@dataclass(frozen=True)
class Candidate:
    """An opened file to be compared, the facts about it, and its limits.

    `int8_share` is None where operators cannot be counted; `arena_bytes` as in `Evidence`; `latency` is p50 over
    Keras's, of `latency_n` inferences, None where it was not measured; `ranges` None where there are none to compare;
    `precision` as in `Evidence`.
    """

    name: str
    path: Path
    sha256: str
    size_bytes: int
    classifier: ImageClassifier
    limits: Limits
    int8_share: float | None
    arena_bytes: int | None = None
    latency: Interval | None = None
    latency_n: int = 0
    ranges: RangeFit | None = None
    precision: str | None = None


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
class Answers:
    """Probabilities (N, C) of the reference and of each candidate, images in the same order.

    `resized` are class indices (N,) to the same images resized in other ways, by the way's name: of the reference, then
    of each candidate; empty where that was not asked for.
    """

    reference: Probabilities
    candidates: tuple[Probabilities, ...]
    resized: Mapping[str, tuple[Labels, ...]] = field(default_factory=dict)


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


def compare_all(
    folder: RunDir,
    reference: ImageClassifier,
    reference_sha256: str,
    candidates: Sequence[Candidate],
    images: CheckImages,
    unlabelled: UnlabelledImages | None,
    classes: tuple[str, ...],
    settings: CheckSettings,
    accepted: Accepted | None,
    progress: Progress,
    calls: Calls = HERE,
) -> CheckResult:
    """Ask the models, hold every candidate against its limits, and say why one failed.

    `images` have labels, `unlabelled` have none; both have their pixels in every size that a model takes.

    Raises:
        RunError: the baseline was saved for other images or classes.
        SettingsError: other ways to resize are asked for where all images have the models' size already.
    """
    require_resizing(settings, candidates, images)
    if accepted is not None:
        require_same_data(accepted, images.fingerprint, classes, images.paths)
    answers = answer_labelled(reference, candidates, images, settings, progress, calls)
    further = None
    if unlabelled is not None:
        further = answer(reference, candidates, unlabelled, partial(progress, "checking without labels"), calls)
    return judge_all(
        folder,
        reference,
        reference_sha256,
        candidates,
        answers,
        further,
        images,
        unlabelled,
        classes,
        settings,
        accepted,
    )


def judge_all(
    folder: RunDir,
    reference: ImageClassifier,
    reference_sha256: str,
    candidates: Sequence[Candidate],
    answers: Answers,
    further: Answers | None,
    images: CheckImages,
    unlabelled: UnlabelledImages | None,
    classes: tuple[str, ...],
    settings: CheckSettings,
    accepted: Accepted | None,
) -> CheckResult:
    """Hold answers, whoever gave them, against the limits, and say why a candidate failed.

    `answers` are to `images`, `further` ones to `unlabelled`, None where there are no such images.
    """
    others: list[PairedAnswers | None] = [None] * len(candidates)
    if further is not None:
        others = [PairedAnswers(found, further.reference) for found in further.candidates]
    checks = []
    for number, (candidate, found, other) in enumerate(zip(candidates, answers.candidates, others, strict=True), 1):
        named = {way: predicted[number] for way, predicted in answers.resized.items()}
        item = compare(
            candidate, found, answers.reference, images, other, named, classes, accepted, settings.on_undecided
        )
        item = replace(item, resized=_resized(named, found, images, classes))
        if unlabelled is not None and other is not None:
            item = replace(item, disagreement=_disagreement(other, unlabelled.paths, classes))
        if item.verdict == "fail":
            item = replace(item, reason=_reason(candidate, reference, images, classes, found, answers.reference))
        checks.append(item)
    names = {candidate.name for candidate in candidates}
    missing = () if accepted is None else tuple(name for name in accepted.artefacts if name not in names)
    return CheckResult(
        folder=folder,
        images=images,
        classes=classes,
        reference_accuracy=metrics.accuracy(answers.reference, images.labels),
        answers=answers,
        artefacts=tuple(checks),
        settings=settings,
        missing=missing,
        reference_sha256=reference_sha256,
        unlabelled=unlabelled,
        reference_resized=_resized(
            {way: predicted[0] for way, predicted in answers.resized.items()}, answers.reference, images, classes
        ),
        notes=() if unlabelled is None or not unlabelled.copies else (_copies_left_out(unlabelled),),
    )


def _asks_for_resizing(settings: CheckSettings, candidates: Sequence[Candidate]) -> bool:
    return settings.resize_robustness or any("max_resize_drop" in each.limits for each in candidates)


def require_resizing(settings: CheckSettings, candidates: Sequence[Candidate], images: CheckImages) -> None:
    """Refuse to ask for other ways to resize, before slow work, where all of them give the same pixels.

    Raises:
        SettingsError: it is asked for, and all images have the models' size already.
    """
    if not _asks_for_resizing(settings, candidates):
        return
    for size, store in images.stores.items():
        if any(stored_size(path) != height_width(size) for path in store.paths):
            return
    raise SettingsError(
        f"expected images of another size than the models take, to be resized in other ways, but all {images.n:,} in "
        f"{images.root} have it already; leave --resize-robustness and resize_drop out, or pass larger ones with --data"
    )


def images_resized(
    settings: CheckSettings, candidates: Sequence[Candidate], images: CheckImages
) -> Mapping[str, ImageSet]:
    """The images resized in other ways, by the way's name; none where that is not asked for."""
    if not _asks_for_resizing(settings, candidates):
        return {}
    return {way: images.resized_by(resizer) for way, resizer in other_resizers(images.mode).items()}


def answer_labelled(
    reference: ImageClassifier,
    candidates: Sequence[Candidate],
    images: CheckImages,
    settings: CheckSettings,
    progress: Progress,
    calls: Calls = HERE,
) -> Answers:
    """Ask every model about every labelled image, and where that is asked for once more for each way to resize."""
    answers = answer(reference, candidates, images, partial(progress, "checking"), calls)
    resized = {}
    for way, same in images_resized(settings, candidates, images).items():
        found = answer(reference, candidates, same, partial(progress, f"resizing: {way}"), calls)
        resized[way] = tuple(np.asarray(each.argmax(axis=1)) for each in (found.reference, *found.candidates))
    return replace(answers, resized=resized)


def _resized(
    named: Mapping[str, Labels], answers: Probabilities, images: CheckImages, classes: Sequence[str]
) -> tuple[Resized, ...]:
    own, labels, found = answers.argmax(axis=1), images.labels, []
    for way, after in named.items():
        before_hits, hits = own == labels, after == labels
        lost, won = np.flatnonzero(before_hits & ~hits), np.flatnonzero(hits & ~before_hits)
        flips = tuple(
            Flip(images.paths[i], classes[labels[i]], classes[own[i]], classes[after[i]])
            for i in [*lost, *won][:_EXAMPLES]
        )
        accuracy = metrics.proportion(int(hits.sum()), len(labels))
        found.append(Resized(way, accuracy, paired_drop(before_hits, hits), flips))
    return tuple(found)


def _copies_left_out(unlabelled: UnlabelledImages) -> str:
    return f"{unlabelled.copies:,} images without labels: copies of others in {unlabelled.root}, each counts once"


def _disagreement(found: PairedAnswers, paths: Sequence[str], classes: Sequence[str]) -> Disagreement:
    changed = np.flatnonzero(found.changed)
    farthest = changed[np.argsort(-found.difference[changed].sum(axis=1), kind="stable")][:_EXAMPLES]
    reference, answers = found.reference.argmax(axis=1), found.answers.argmax(axis=1)
    examples = tuple(ChangedAnswer(paths[i], classes[reference[i]], classes[answers[i]]) for i in farthest)
    return Disagreement(metrics.proportion(len(changed), len(paths)), len(changed), examples)


def _reason(
    candidate: Candidate,
    reference: ImageClassifier,
    images: CheckImages,
    classes: Sequence[str],
    found: Probabilities,
    expected: Probabilities,
) -> str:
    """Likely cause of a failure, as far as answers tell; empty where these are right and something else failed."""
    faults = FaultHypotheses(classes)
    if candidate.classifier.form.source != MODEL_OF_A_RUN.source:
        transforms = other_forms(candidate.path.name, candidate.classifier.form)
        faults = FaultHypotheses(
            classes, transforms, "compare how the two were converted, on which calibration images."
        )
    chosen = evenly(len(found), _IMAGES_TO_EXPLAIN)
    pixels = images.stores[reference.image_size_px].take(chosen)
    dtype = candidate.classifier.input_dtype
    explained = explain_answers(dtype, reference, pixels, found[chosen], expected[chosen], faults)
    return "" if explained.cause == "none" else explained.sentence


def answer(
    reference: ImageClassifier,
    candidates: Sequence[Candidate],
    images: ImageSet,
    progress: Steps,
    calls: Calls = HERE,
) -> Answers:
    """Ask every model about every image in one pass; only answers are kept, so memory does not grow with pixels.

    With several workers each answers parts of whole batches: a model may round otherwise in a batch of another size.
    """
    classifiers = [reference, *(candidate.classifier for candidate in candidates)]
    if calls.workers == 1:
        first, *others = _answers_of(classifiers, images, progress)
        return Answers(first, tuple(others))
    batches = -(-images.n // _BATCH)
    size = _BATCH * max(1, min(_MOST_BATCHES_OF_A_PART, batches // (_PARTS_PER_WORKER * calls.workers)))
    parts = [(classifiers, images.part(start, start + size)) for start in range(0, images.n, size)]
    found = calls.map(_answers_of, parts, lambda done, _: progress(min(done * size, images.n), images.n))
    first, *others = (np.concatenate(answers) for answers in zip(*found, strict=True))
    return Answers(first, tuple(others))


def _answers_of(
    classifiers: Sequence[ImageClassifier], images: ImageSet, progress: Steps = silent_steps
) -> list[Probabilities]:
    found: list[list[Probabilities]] = [[] for _ in classifiers]
    done = 0
    for batch in images.batches(_BATCH):
        for answers, classifier in zip(found, classifiers, strict=True):
            answers.append(classifier.predict(batch[classifier.image_size_px]))
        done += len(found[0][-1])
        progress(done, images.n)
    return [np.concatenate(answers) for answers in found]


def compare(
    candidate: Candidate,
    answers: Probabilities,
    reference: Probabilities,
    images: CheckImages,
    unlabelled: PairedAnswers | None,
    resized: Mapping[str, Labels],
    classes: tuple[str, ...],
    accepted: Accepted | None,
    on_undecided: OnUndecided,
) -> ArtefactCheck:
    """Put together every number about one artefact and hold it against its limits."""
    labels = images.labels
    before = None if accepted is None else accepted.artefacts.get(candidate.name)
    evidence = Evidence(
        answers=answers,
        reference=reference,
        labels=labels,
        classes=classes,
        size_bytes=candidate.size_bytes,
        output_step=candidate.classifier.output_step,
        int8_share=candidate.int8_share,
        arena_bytes=candidate.arena_bytes,
        latency=candidate.latency,
        latency_n=candidate.latency_n,
        baseline_hits=None if before is None else np.asarray(before.predicted) == labels,
        same_as_baseline=before is not None and before.sha256 == candidate.sha256,
        ranges=candidate.ranges,
        precision=candidate.precision,
        unlabelled=unlabelled,
        resized={way: np.asarray(named == labels) for way, named in resized.items()},
    )
    gates = (*evaluate(evidence, candidate.limits), *invariants(evidence))
    verdict = worst([gate.verdict for gate in gates])
    predicted = answers.argmax(axis=1)
    recalls = metrics.recall_per_class(answers, labels, len(classes))
    return ArtefactCheck(
        name=candidate.name,
        path=candidate.path,
        sha256=candidate.sha256,
        size_bytes=candidate.size_bytes,
        runtime=candidate.classifier.runtime,
        accuracy=metrics.accuracy(answers, labels),
        drop=paired_drop(evidence.reference_hits, evidence.hits),
        agreement=metrics.agreement(answers, reference),
        recall=dict(zip(classes, recalls, strict=True)),
        confusion=metrics.confusion(answers, labels, len(classes)),
        max_probability_difference=float(evidence.difference.max()),
        mean_probability_difference=float(evidence.difference.mean()),
        gates=gates,
        change=None if before is None else change_since(before, predicted, images.paths, labels, classes),
        verdict=verdict,
        passed=verdict == "pass" or (verdict == "undecided" and on_undecided == "pass"),
        predicted=tuple(int(index) for index in predicted),
    )


def taken_by(provider: str | None, name: str, classifier: ImageClassifier) -> str:
    """A note on what a provider took of a file; empty without a provider.

    Raises:
        ArtefactError: it took nothing.
    """
    return f"{name}: {as_text(require_taken(name, provider, classifier.computed()))}" if provider else ""


def latency_of(bench: Path, sha256: str, provider: str | None = None) -> tuple[Interval | None, int]:
    """p50 of a file over Keras's with its interval, and the number of inferences, as `bench.json` has them.

    What another provider computed is not looked at.

    Raises:
        RunError: the file is damaged.
    """
    content = read_bench(bench)
    for item in () if content is None else content.results:
        computed_by = None if item.computed is None else item.computed.provider
        if (item.sha256, computed_by) == (sha256, provider) and item.speedup_vs_keras and item.speedup_interval_95:
            low, high = item.speedup_interval_95
            return Interval(1 / item.speedup_vs_keras, 1 / high, 1 / low), item.n
    return None, 0


def arena_if_asked(path: Path, limits: Limits) -> int | None:
    """The arena of a .tflite file in bytes, measured only for a gate that asks for it; None for other files.

    Raises:
        ArtefactError: LiteRT Micro refuses the file.
        MissingDependencyError: LiteRT Micro is not installed.
    """
    if ARENA.metric.key not in limits or path.suffix.lower() != ".tflite":
        return None
    return measure_arena(path).bytes
