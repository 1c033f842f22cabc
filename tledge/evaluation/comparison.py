"""Compare classifiers with a reference on the same images: the heart of `check`, whoever made the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from tledge.core.cluster import HERE, Calls
from tledge.core.progress import Progress
from tledge.core.types import Labels, Probabilities
from tledge.diagnosis.answers import FaultHypotheses, evenly, explain_answers, other_forms
from tledge.evaluation.answers import Answers, answer, answer_labelled, require_resizing
from tledge.evaluation.baseline import Accepted, Flip, change_since, require_same_data
from tledge.evaluation.candidates import Candidate
from tledge.evaluation.gates import evaluate
from tledge.evaluation.gates.evidence import Evidence, PairedAnswers
from tledge.evaluation.gates.gate import OnUndecided, worst
from tledge.evaluation.invariants import invariants
from tledge.evaluation.results import ArtefactCheck, ChangedAnswer, CheckResult, Disagreement, Resized
from tledge.evaluation.settings import CheckSettings
from tledge.runs.images import CheckImages, UnlabelledImages
from tledge.runs.rundir import RunDir
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier
from tledge.stats import metrics
from tledge.stats.paired import paired_drop

_IMAGES_TO_EXPLAIN = 48
_EXAMPLES = 20


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
