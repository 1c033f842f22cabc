"""Sabotaged artefacts are refused, and for the right reason; healthy ones pass."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import tledge
from tests.conftest import make_vgg16_thin
from tests.integration import sabotage
from tests.integration.sabotage import FaultContext, Maker, write_coloured_digits
from tledge.core.errors import ArtefactError
from tledge.diagnosis.answers import FaultHypotheses, explain_answers
from tledge.diagnosis.diagnose import Examiner
from tledge.evaluation.results import ArtefactCheck, CheckResult
from tledge.runs.images import run_images
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run
from tledge.runtimes import MODEL_OF_A_RUN, open_classifier

pytest.importorskip("tensorflow")
pytest.importorskip("onnx")

FORMATS = ("tflite-float32", "onnx-int8", "tflite-int8", "onnx-float32")
FLOAT = ("tflite-float32", "onnx-float32")
INT8 = ("onnx-int8", "tflite-int8")
DAMAGED = "whole|truncated|cut|damaged"
# Answers of an int8 file must be worse to be noticed, those of a float file only others.
_ANSWERS = ("max_drop", "float_differs")


@dataclass(frozen=True)
class Fault:
    """What a maker breaks, in which recipes, and the cause or the error's words that must come of it.

    `by_answers` are the causes that answers alone may lead to, where they cannot see the real one. Of the `gates` at
    least one must fail in a check.
    """

    maker: Maker
    expected: str
    recipes: tuple[str, ...]
    by_answers: tuple[str, ...] = ()
    gates: tuple[str, ...] = _ANSWERS


REFUSED = (
    Fault(sabotage.permuted_labels, "classes and labels", FLOAT),
    Fault(sabotage.other_run, "another model", FLOAT),
    Fault(sabotage.truncated, DAMAGED, FORMATS),
    Fault(sabotage.without_its_end, DAMAGED, FORMATS),
)
# Nearly black pixels give one answer to all images, which eight bits do not always keep exact enough to be told apart.
# Rounding is not to blame for a float file; of an integer one that cannot be known without its layers.
_ROUGHLY = ("quantization-loss", "unknown")
# A good head may answer nearly as before where the mean is wrong: then answers alone cannot tell, layers can.
_BORNE = ("none", "quantization-loss")
WRONG = (
    Fault(sabotage.permuted_outputs, "permuted-classes", FORMATS),
    Fault(sabotage.swapped_pair, "permuted-classes", FLOAT, gates=("float_differs",)),
    Fault(sabotage.bgr, "channel-order", FORMATS),
    Fault(sabotage.divided_by_255, "scaled-input", FORMATS, ("scaled-input", "unknown")),
    Fault(
        sabotage.mean_twice,
        "mean-subtracted-twice",
        FORMATS,
        ("mean-subtracted-twice", *_BORNE),
        (*_ANSWERS, "ranges_off"),
    ),
    Fault(
        sabotage.mean_missing, "missing-preprocessing", FLOAT, ("missing-preprocessing", *_BORNE), ("float_differs",)
    ),
    Fault(sabotage.dead_class, "dead-class", FORMATS, gates=("dead_classes",)),
    Fault(sabotage.noise_calibration, "calibration", INT8, ("none", *_ROUGHLY), ("ranges_off",)),
    Fault(sabotage.scrambled_layer, "damaged-layer", FORMATS, _ROUGHLY),
    Fault(sabotage.scrambled_prediction, "damaged-layer", FLOAT, _ROUGHLY, ("float_differs",)),
    Fault(sabotage.not_a_number, "not-finite", FLOAT, gates=("non_finite_probabilities",)),
    Fault(sabotage.output_scale, "output-scale", FORMATS, gates=("probabilities_off_one",)),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one broken file: `checked` in a check, the rest in a diagnosis and by its answers alone."""

    name: str
    fault: Fault
    cause: str
    sentence: str
    by_answers: str
    expected_by_answers: tuple[str, ...]
    checked: ArtefactCheck

    @property
    def failed(self) -> set[str]:
        """Names of the gates that failed."""
        return {gate.name for gate in self.checked.gates if gate.verdict == "fail"}


@dataclass(frozen=True)
class Shop:
    """Two runs on the same images, and how much of each fault to try.

    To be quick, they have an eighth of VGG16's filters; a thorough shop has the whole net with ImageNet weights.
    """

    folder: Path
    seed: int
    thorough: bool

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def check(self, artefacts: list[Path]) -> CheckResult:
        """As a pipeline would: on many images, with the default limit; or, to be quick, on fewer with a wider one."""
        limit = 0.02 if self.thorough else 0.05
        return tledge.check(self.run, artefacts=artefacts, data=self.folder / "check-images", max_drop=limit)

    def files(self, faults: tuple[Fault, ...]) -> list[tuple[Fault, Path]]:
        """Broken files: of every fault in half of its recipes by turns, or in one."""
        made = []
        for index, fault in enumerate(faults):
            step = 2 if self.thorough else 4
            for recipe in fault.recipes[index % min(step, len(fault.recipes)) :: step]:
                # Every file has chances of its own, whatever else was made before it.
                rng = np.random.default_rng([self.seed, zlib.crc32(f"{fault.maker.__name__} {recipe}".encode())])
                context = FaultContext(self.run, self.folder / "other", self.folder / "broken", rng)
                made.append((fault, fault.maker(context, recipe)))
        return made


SEEDS = [(0, False), *(pytest.param((seed, True), marks=pytest.mark.slow) for seed in range(5))]


@pytest.fixture(scope="module", params=SEEDS, ids=lambda param: f"seed{param[0]}{'-all' if param[1] else ''}")
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    seed, thorough = request.param
    folder = tmp_path_factory.mktemp(f"sabotage-{seed}")
    data = write_coloured_digits(folder / "data", seed)
    settings = {"technique": "feature-extraction", "image_size": 32}
    with pytest.MonkeyPatch.context() as patch:
        if not thorough:
            make_vgg16_thin(patch)
        weights = "imagenet" if thorough else "random"
        tledge.train(data, weights=weights, out=folder / "run", epochs=80, seed=seed, **settings)
        tledge.train(data, weights="random", out=folder / "other", epochs=1, **settings)
    write_coloured_digits(folder / "check-images", seed, 170 if thorough else 60, drawing=1)
    tledge.export(folder / "run", recipes=FORMATS)
    tledge.export(folder / "other", recipes=FLOAT)
    return Shop(folder, seed, thorough)


@pytest.fixture(scope="module")
def examiner(context: Shop) -> Examiner:
    run = open_run(context.run)
    return Examiner(run, read_manifest(run))


@pytest.fixture(scope="module")
def outcomes(context: Shop, examiner: Examiner) -> list[Outcome]:
    files = context.files(WRONG if context.thorough else WRONG[::2])
    checks: dict[Path, ArtefactCheck] = {}
    for recipe in FORMATS:
        paths = [path for _, path in files if path.stem == recipe]
        if not paths:
            continue
        checked = context.check(paths).artefacts
        checks |= dict(zip(paths, checked, strict=True))
    explained = explain(context.run, [path for _, path in files])
    result = []
    for (fault, path), by_answers in zip(files, explained, strict=True):
        diagnosis = examiner.examine(path)
        name = f"{fault.maker.__name__} {path.stem}"
        alone = fault.by_answers or (fault.expected,)
        result.append(Outcome(name, fault, diagnosis.cause, diagnosis.sentence, by_answers, alone, checks[path]))
    return result


def explain(run_path: Path, paths: list[Path]) -> list[str]:
    """What the answers to the test images alone tell, as `check` would ask."""
    run = open_run(run_path)
    reference, faults = open_classifier(run.reference, MODEL_OF_A_RUN), FaultHypotheses(read_manifest(run).classes)
    images = run_images(run, read_manifest(run), (reference.image_size_px,))
    pixels = images.stores[reference.image_size_px].take(np.arange(len(images.labels)))
    expected = reference.predict(pixels)
    causes = []
    for path in paths:
        artefact = open_classifier(path, MODEL_OF_A_RUN)
        answers = artefact.predict(pixels)
        causes.append(explain_answers(artefact.input_dtype, reference, pixels, answers, expected, faults).cause)
    return causes


def test_healthy_files_pass_and_nothing_is_found(context: Shop, examiner: Examiner) -> None:
    assert context.check([]).verdict == "pass"
    paths = open_run(context.run).artefacts()
    found = {path.stem: (diagnosis := examiner.examine(path)).cause + ": " + diagnosis.sentence for path in paths}
    assert len(found) == 4
    assert not [sentence for sentence in found.values() if not sentence.startswith("none")]
    assert set(explain(context.run, paths)) <= {"none", "quantization-loss"}


def test_foreign_and_damaged_files_are_refused(context: Shop, examiner: Examiner) -> None:
    for fault, path in context.files(REFUSED):
        with pytest.raises(ArtefactError, match=fault.expected):
            tledge.check(context.run, artefacts=[path])
        if fault.maker is sabotage.permuted_labels:
            assert examiner.examine(path).cause == "permuted-classes"
        else:
            with pytest.raises(ArtefactError, match=fault.expected):
                examiner.examine(path)


def test_every_fault_gets_its_name(outcomes: list[Outcome]) -> None:
    assert len(outcomes) >= 6
    wrong = [outcome for outcome in outcomes if outcome.cause != outcome.fault.expected]
    assert not wrong, "\n".join(f"{o.name}: {o.cause}: {o.sentence}" for o in wrong)


def test_answers_alone_name_what_they_can(outcomes: list[Outcome]) -> None:
    wrong = [outcome for outcome in outcomes if outcome.by_answers not in outcome.expected_by_answers]
    assert not wrong, "\n".join(f"{o.name}: {o.by_answers} instead of {o.expected_by_answers}" for o in wrong)


def test_the_check_refuses_every_fault(outcomes: list[Outcome]) -> None:
    missed = [o for o in outcomes if o.checked.verdict != "fail" or not o.failed & set(o.fault.gates)]
    assert not missed, "\n".join(
        f"{o.name}: {o.checked.verdict} by {o.failed}, not by {o.fault.gates}, although {o.cause}" for o in missed
    )


def test_the_check_gives_a_reason_where_answers_show_one(outcomes: list[Outcome]) -> None:
    silent = [o for o in outcomes if "none" not in o.expected_by_answers and not o.checked.reason]
    assert not silent, "\n".join(f"{o.name}: no reason, although {o.cause}" for o in silent)
