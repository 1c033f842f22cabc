"""Stage 3: is every artefact as accurate as the reference, in its own runtime, on the same pixels?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tledge.conversion.artefacts import RunArtefact, open_artefacts
from tledge.conversion.registry import format_of_suffix
from tledge.core.cluster import ALONE, HERE, Calls, ClusterSettings, connected
from tledge.core.errors import ArtefactError, SettingsError
from tledge.core.progress import Progress, silent
from tledge.data.label_source import FOLDERS, DataSettings
from tledge.evaluation.answers import Answers, answer, answer_labelled, require_resizing
from tledge.evaluation.baseline import Accepted, read_baseline, require_same_data
from tledge.evaluation.calibration import RangeCheck
from tledge.evaluation.candidates import Candidate, arena_if_asked, latency_of, taken_by
from tledge.evaluation.comparison import judge_all
from tledge.evaluation.files import write_check
from tledge.evaluation.gates.evidence import RangeFit
from tledge.evaluation.results import CheckResult
from tledge.evaluation.settings import STRICT, CheckSettings
from tledge.runs.images import (
    CheckImages,
    UnlabelledImages,
    holds_test_images,
    other_images,
    run_images,
    unlabelled_images,
)
from tledge.runs.manifest import Manifest, read_manifest, read_split, verify_run
from tledge.runs.rundir import RunDir, open_run, require_writable
from tledge.runtimes import MODEL_OF_A_RUN, ImageClassifier, open_classifier
from tledge.runtimes.providers import only_fitting, require_provider


@dataclass(frozen=True)
class OpenedCheck:
    """A check of a run before any image is answered: which files, on which images, against which limits.

    `candidates` stand in the order of `artefacts`. `notes` say what is left out.
    """

    run: RunDir
    manifest: Manifest
    settings: CheckSettings
    accepted: Accepted | None
    reference: ImageClassifier
    artefacts: tuple[RunArtefact, ...]
    candidates: tuple[Candidate, ...]
    images: CheckImages
    unlabelled: UnlabelledImages | None
    notes: tuple[str, ...]

    def only(self, names: Collection[str]) -> OpenedCheck:
        """The same check of some of its files, by name."""
        chosen = [one for one in zip(self.artefacts, self.candidates, strict=True) if one[0].name in names]
        return replace(
            self,
            artefacts=tuple(artefact for artefact, _ in chosen),
            candidates=tuple(candidate for _, candidate in chosen),
        )

    def answer_here(self, progress: Progress, calls: Calls = HERE) -> tuple[Answers, Answers | None]:
        """Answers of this machine, of the reference and of every file, to images with labels and to those without.

        With workers of a cluster, `calls`, they are those of its machines.
        """
        answers = answer_labelled(self.reference, self.candidates, self.images, self.settings, progress, calls)
        if self.unlabelled is None:
            return answers, None
        what = "checking without labels"
        return answers, answer(self.reference, self.candidates, self.unlabelled, partial(progress, what), calls)

    def judge(self, answers: Answers, further: Answers | None) -> CheckResult:
        """Hold answers, whoever gave them, against the limits; nothing is written.

        Args:
            answers: to the images with labels.
            further: to those without, None where there are none.
        """
        result = judge_all(
            self.run,
            self.reference,
            self.manifest.reference_sha256,
            self.candidates,
            answers,
            further,
            self.images,
            self.unlabelled,
            tuple(self.manifest.classes),
            self.settings,
            self.accepted,
        )
        return replace(result, notes=(*result.notes, *self.notes))


def check(
    run_path: Path,
    settings: CheckSettings = STRICT,
    *,
    artefacts: Sequence[Path] = (),
    data: Path | None = None,
    reading: DataSettings = FOLDERS,
    cluster: ClusterSettings = ALONE,
    progress: Progress = silent,
) -> CheckResult:
    """Compare artefacts with the reference and write `check.json` and `predictions.csv`.

    Args:
        run_path: the run.
        settings: limits and what to do with undecided ones.
        artefacts: files to check; empty for every artefact of the run.
        data: where the run's images are now, if its test images are there; otherwise another folder of labelled images,
            all of which are checked on. None for the run's test subset where it was at training.
        reading: how the classes of other images are told.
        cluster: whose machines share the images.
        progress: called with (what, images done, images in all).

    Raises:
        SettingsError: a file is given twice, or a limit on a baseline, or on images without labels, without such.
        RunError, DataError, ArtefactError: what is to be compared is missing, damaged or of another run.
        MissingDependencyError, RemoteError: as `tledge.core.cluster.connected`.
    """
    opened = open_check(run_path, settings, artefacts=artefacts, data=data, reading=reading, progress=progress)
    with connected(cluster) as calls:
        answers = opened.answer_here(progress, calls)
    result = opened.judge(*answers)
    write_check(result)
    return result


def open_check(
    run_path: Path,
    settings: CheckSettings = STRICT,
    *,
    artefacts: Sequence[Path] = (),
    data: Path | None = None,
    reading: DataSettings = FOLDERS,
    progress: Progress = silent,
) -> OpenedCheck:
    """Open what a check compares, and refuse what cannot be compared; arguments and errors as of `check`."""
    settings.require_evidence()
    require_provider(settings.provider)
    if data is None and reading != FOLDERS:
        raise SettingsError("expected --labels-from together with --data, but got no --data; leave it out")
    run = open_run(run_path)
    require_writable(run)
    if data is not None and holds_test_images(data, run):
        run, data = open_run(run_path, data), None
    manifest = read_manifest(run)
    verify_run(run, manifest)
    accepted = None if settings.baseline is None else read_baseline(settings.baseline)
    if repeated := [str(path) for path, times in Counter(artefacts).items() if times > 1]:
        raise SettingsError(f"expected each file once, but got {repeated[0]} more than once; remove one")
    opened = _with_own_names(tuple(open_artefacts(run, manifest, artefacts, settings.provider)))
    _, left_out = only_fitting(artefacts or run.artefacts(), settings.provider, asked=bool(artefacts))
    computed = [taken_by(settings.provider, artefact.name, classifier) for artefact, classifier in opened]
    for artefact, classifier in opened:
        _require_same_shape(artefact, classifier, manifest)
    reference = open_classifier(run.reference, MODEL_OF_A_RUN)
    sides = (reference.image_size_px, manifest.image_size_px)
    images = run_images(run, manifest, sides) if data is None else other_images(data, manifest, sides, reading)
    if accepted is not None:
        require_same_data(accepted, images.fingerprint, manifest.classes, images.paths)
    unlabelled = None
    if settings.unlabelled is not None:
        known = {row.sha256: row.subset for row in read_split(run)}
        unlabelled = unlabelled_images(
            settings.unlabelled, {**dict.fromkeys(images.digests, "labelled"), **known}, sides, images.mode
        )
    ranges = RangeCheck(run, manifest)
    fits = [ranges.fit(artefact, partial(progress, "ranges")) for artefact, _ in opened]
    # Of an optimized run the reference is another model, from which its files may differ.
    own = manifest.model_sha256 == manifest.reference_sha256
    candidates = [
        _candidate(artefact, classifier, settings, run.bench, fit if isinstance(fit, RangeFit) else None, own)
        for (artefact, classifier), fit in zip(opened, fits, strict=True)
    ]
    require_resizing(settings, candidates, images)
    notes = [
        *left_out,
        *(note for note in computed if note),
        *(artefact.note for artefact, _ in opened if artefact.note),
        *(fit for fit in fits if isinstance(fit, str)),
    ]
    return OpenedCheck(
        run=run,
        manifest=manifest,
        settings=settings,
        accepted=accepted,
        reference=reference,
        artefacts=tuple(artefact for artefact, _ in opened),
        candidates=tuple(candidates),
        images=images,
        unlabelled=unlabelled,
        notes=tuple(notes),
    )


def _with_own_names(
    opened: Sequence[tuple[RunArtefact, ImageClassifier]],
) -> tuple[tuple[RunArtefact, ImageClassifier], ...]:
    """Files that share the name of a recipe go by their path, or columns and baselines would mix them up."""
    shared = Counter(artefact.name for artefact, _ in opened)
    return tuple(
        (artefact if shared[artefact.name] == 1 else replace(artefact, name=str(artefact.path)), classifier)
        for artefact, classifier in opened
    )


def _candidate(
    artefact: RunArtefact,
    classifier: ImageClassifier,
    settings: CheckSettings,
    bench: Path,
    ranges: RangeFit | None,
    of_reference: bool,
) -> Candidate:
    limits = settings.limits_of(artefact.limits)
    # What no gate asks for cannot stop a check by being damaged.
    latency, latency_n = (
        latency_of(bench, artefact.sha256, settings.provider) if "max_latency_ratio" in limits else (None, 0)
    )
    return Candidate(
        name=artefact.name,
        path=artefact.path,
        sha256=artefact.sha256,
        size_bytes=artefact.size_bytes,
        classifier=classifier,
        limits=limits,
        # Counting opens the file once more, so only for a gate that asks for it.
        int8_share=_int8_share(artefact.path) if "min_int8_share" in limits else None,
        arena_bytes=arena_if_asked(artefact.path, limits),
        latency=latency,
        latency_n=latency_n,
        ranges=ranges,
        precision=artefact.precision if of_reference else None,
    )


def _int8_share(path: Path) -> float:
    fmt = format_of_suffix(path.suffix)
    assert fmt is not None  # `open_artefacts` refuses other files
    return fmt.count_ops(path).int8_share


def _require_same_shape(artefact: RunArtefact, classifier: ImageClassifier, manifest: Manifest) -> None:
    found = (classifier.image_size_px, classifier.classes, classifier.labels)
    expected = (manifest.image_size_px, len(manifest.classes), tuple(manifest.classes))
    if found != expected:
        raise ArtefactError(
            f"expected size, classes and labels {expected} in {artefact.path.name}, but found {found}; export it again"
        )
