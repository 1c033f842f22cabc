"""Gates: each limit against evidence made by hand, and the three verdicts."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tledge.core.errors import SettingsError
from tledge.evaluation import gates
from tledge.evaluation.gates import GATES, parse_drop, parse_limits
from tledge.evaluation.gates.evidence import Evidence, PairedAnswers
from tledge.evaluation.gates.gate import Gate, Limits, at_least, at_most, worst
from tledge.evaluation.invariants import invariants
from tledge.stats.changes import Changes, largest_drop
from tledge.stats.intervals import Interval

CLASSES = ("cat", "dog", "owl")


def evaluate(found: Evidence, limits: Limits) -> tuple[Gate, ...]:
    """As a check does: the gates with limits, then the invariants."""
    return (*gates.evaluate(found, limits), *invariants(found))


def certain(classes: np.ndarray | list[int]) -> np.ndarray:
    return (np.eye(3)[classes] * 0.7 + 0.1).astype(np.float32)


def evidence(n: int = 600, lost: int = 0, won: int = 0, wrong: int = 30) -> Evidence:
    """Images in turn of each class; of the `wrong` ones that the reference misses, the artefact wins some."""
    labels = np.arange(n) % 3
    reference = np.where(np.arange(n) < wrong, (labels + 1) % 3, labels)
    answers = reference.copy()
    answers[:won] = labels[:won]
    answers[wrong : wrong + lost] = (labels[wrong : wrong + lost] + 1) % 3

    return Evidence(certain(answers), certain(reference), labels, CLASSES, 2_000_000, 0.0)


def gate(found: Evidence, name: str, limit: float) -> Gate:
    result = evaluate(found, {name: limit})[0]
    assert result.name == name
    assert result.limit == limit
    return result


@pytest.mark.parametrize(
    ("lost", "verdict"), [(0, "pass"), (2, "pass"), (9, "undecided"), (40, "fail")], ids=lambda value: str(value)
)
def test_drop(lost: int, verdict: str) -> None:
    found = gate(evidence(lost=lost), "max_drop", 0.02)
    assert found.verdict == verdict
    assert found.value == pytest.approx(lost / 600)
    assert found.n == 600
    assert ("needs about" in found.note) == (verdict == "undecided")


def test_equal_answers_pass_however_few_images_there_are() -> None:
    limits = {"max_drop": 0.02, "max_relative_drop": 0.02, "max_error_ratio": 1.5, "max_class_recall_drop": 0.1}
    limits["min_agreement"] = 0.98
    few = evidence(n=9, wrong=1)
    assert {item.verdict for item in evaluate(few, limits)[:5]} == {"pass"}
    other = replace(few, answers=few.reference + np.float32([0.01, -0.01, 0.0]))
    assert {item.verdict for item in evaluate(other, limits)[:5]} == {"undecided"}


def test_relative_drop_and_error_ratio() -> None:
    found = gate(evidence(n=3000, lost=60, wrong=300), "max_relative_drop", 0.05)
    assert found.value == pytest.approx(60 / 2700)
    assert found.verdict == "pass"
    ratio = gate(evidence(n=3000, lost=300, wrong=100), "max_error_ratio", 1.5)
    assert ratio.value == pytest.approx(4, rel=0.01)
    assert ratio.verdict == "fail"


def test_class_recall_names_the_class() -> None:
    found = evidence(n=900, wrong=0)
    answers = found.answers.copy()
    owls = np.flatnonzero(found.labels == 2)[:60]
    answers[owls] = np.float32([0.8, 0.1, 0.1])
    worst_class = gate(replace(found, answers=answers), "max_class_recall_drop", 0.1)
    assert worst_class.verdict == "fail"
    assert worst_class.note.startswith("owl")
    assert worst_class.value == pytest.approx(0.2)
    assert worst_class.n == 300
    assert gate(replace(found, answers=answers), "max_drop", 0.1).verdict == "pass", "the average hides it"


def test_class_recall_shows_a_class_that_its_verdict_is_about() -> None:
    """Cats lost a little, of many; owls lost nothing, of too few to tell."""
    cats, owls = 3000, 20
    labels = np.r_[np.zeros(cats, np.int64), np.full(owls, 2)]
    reference = (np.eye(3)[labels] * 0.7 + 0.1).astype(np.float32)
    answers = reference.copy()
    answers[:30] = np.float32([0.1, 0.8, 0.1])
    found = gate(Evidence(answers, reference, labels, CLASSES, 1, 0.0), "max_class_recall_drop", 0.1)
    assert (found.verdict, found.value, found.n) == ("undecided", 0.0, owls)
    assert found.note.startswith("owl, 1 of 2 classes undecided, needs about ")


@pytest.mark.parametrize(
    ("name", "limit", "of"),
    [
        ("max_drop", 0.02, "images"),
        ("max_relative_drop", 0.02, "images"),
        ("max_error_ratio", 1.15, "images"),
        ("max_class_recall_drop", 0.05, "images of a class"),
        ("min_agreement", 0.98, "images"),
    ],
)
def test_an_undecided_gate_says_how_many_images_would_decide(name: str, limit: float, of: str) -> None:
    """The same shares of as many images, rounded up to a whole multiple, are decided; of half as many they are not."""
    few = gate(evidence(n=300, lost=3, won=1, wrong=30), name, limit)
    assert few.verdict == "undecided"
    needed = re.fullmatch(rf".*needs about ([\d,]+) {of}", few.note)
    assert needed is not None, few.note
    factor = int(needed[1].replace(",", "")) / few.n
    verdicts = [
        gate(evidence(*(count * times for count in (300, 3, 1, 30))), name, limit).verdict
        for times in (math.ceil(factor * 1.05), max(1, math.floor(factor / 2)))
    ]
    assert verdicts[0] != "undecided"
    assert verdicts[1] == "undecided"


def test_what_no_number_of_images_decides() -> None:
    found = gate(evidence(n=300, lost=6), "max_drop", 0.02)
    assert found.note == "too close to the limit for any number of images"


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("max_drop", 0.0),
        ("max_relative_drop", 0.0),
        ("max_error_ratio", 1.0),
        ("max_class_recall_drop", 0.0),
        ("min_agreement", 1.0),
    ],
)
def test_that_nothing_differs_is_shown_by_no_number_of_images(name: str, limit: float) -> None:
    found = evidence(n=300)
    found = replace(found, answers=found.answers + np.float32([0.02, -0.01, -0.01]))
    undecided = gate(found, name, limit)
    assert undecided.verdict == "undecided"
    assert "shows that nothing differs: bound probability_difference instead" in undecided.note
    assert gate(replace(found, answers=found.reference), name, limit).verdict == "pass", "the very same answers"


def test_no_share_of_nothing() -> None:
    found = gate(evidence(n=300, wrong=300), "max_relative_drop", 0.02)
    assert (found.value, found.verdict) == (None, "pass"), "equal answers"
    other = gate(evidence(n=300, wrong=300, won=9), "max_relative_drop", 0.02)
    assert (other.value, other.low, other.verdict) == (None, None, "undecided")
    assert other.note.startswith("the reference is right on no image")


def test_agreement_and_differences() -> None:
    found = evidence(lost=30)
    assert gate(found, "min_agreement", 0.9).verdict == "pass"
    assert gate(found, "min_agreement", 0.99).verdict == "fail"
    assert gate(found, "max_probability_difference", 0.5).value == pytest.approx(0.7)
    assert gate(found, "max_mean_probability_difference", 0.1).value == pytest.approx(0.7 * 2 / 3 * 30 / 600)


def test_properties_of_the_file() -> None:
    found = replace(evidence(), int8_share=0.8, latency=Interval(0.25, 0.2, 0.3), latency_n=50)
    assert gate(found, "max_size_mb", 2.0).verdict == "pass"
    assert gate(found, "max_size_mb", 1.9).verdict == "fail"
    assert gate(found, "min_int8_share", 0.9).verdict == "fail"
    assert [gate(found, "max_latency_ratio", limit).verdict for limit in (0.35, 0.25, 0.1)] == [
        "pass",
        "undecided",
        "fail",
    ]
    unmeasured = gate(replace(found, latency=None), "max_latency_ratio", 0.5)
    assert (unmeasured.verdict, unmeasured.value) == ("undecided", None)
    assert "tledge bench" in unmeasured.note


def test_baseline_drop() -> None:
    before = np.ones(600, bool)
    found = replace(evidence(wrong=60), baseline_hits=before)
    assert gate(found, "max_baseline_drop", 0.02).verdict == "fail"
    same = replace(evidence(n=9, wrong=1), baseline_hits=evidence(n=9, wrong=1).hits, same_as_baseline=True)
    assert gate(same, "max_baseline_drop", 0.02).verdict == "pass"
    assert gate(replace(same, same_as_baseline=False), "max_baseline_drop", 0.02).verdict == "undecided"
    assert gate(evidence(), "max_baseline_drop", 0.02).verdict == "undecided"


def failed(found: Evidence) -> list[str]:
    return [item.name for item in evaluate(found, {}) if item.verdict == "fail"]


def test_what_no_classifier_may_do() -> None:
    found = evidence()
    assert failed(found) == []
    assert failed(replace(found, answers=np.full_like(found.answers, np.nan)))[0] == "non_finite_probabilities"
    assert failed(replace(found, answers=found.answers * 2)) == ["probabilities_off_one"]
    one = np.tile(np.float32([0.8, 0.1, 0.1]), (600, 1))
    assert failed(replace(found, answers=one)) == ["collapsed_to_one_class", "dead_classes"]
    no_owl = np.where(found.answers.argmax(1)[:, None] == 2, np.float32([0.8, 0.1, 0.1]), found.answers)
    assert failed(replace(found, answers=no_owl)) == ["dead_classes"]


def test_a_class_is_gone_only_where_the_reference_was_right_about_it() -> None:
    def failures(labels: list[int], reference: list[int], answers: list[int]) -> list[str]:
        return failed(Evidence(certain(answers), certain(reference), np.asarray(labels), CLASSES, 1, 0.0))

    rare = [0] * 295 + [1] * 5
    assert failures(rare, [0] * 295 + [0, 0, 0, 0, 1], [0] * 300) == [], "one image of a rare class"
    assert failures([0, 1], [0, 1], [0, 0]) == [], "one flip of two"
    absent = [0] * 100 + [1] * 100
    assert failures(absent, [2] * 5 + absent[5:], absent) == [], "owls that no image shows"
    assert failures(rare, rare, [0] * 300) == ["collapsed_to_one_class", "dead_classes"]
    owls = [0] * 40 + [1] * 40 + [2] * 5
    assert failures(owls, owls, [0] * 40 + [1] * 45) == ["dead_classes"]
    assert failures(owls, [*owls[:-1], 0], [0] * 40 + [1] * 45) == [], "four of them may be chance"
    assert failures(owls, owls, [2] + [0] * 39 + [1] * 45) == [], "it is still named"


def test_a_float_file_answers_as_its_model_does() -> None:
    """Even where the classes stay right, so that no gate on accuracy notices."""
    found = evidence()
    moved = found.answers + np.float32([-0.03, 0.02, 0.01]) * np.sign(found.answers[:, :1] - 0.5)
    assert np.array_equal(moved.argmax(axis=1), found.answers.argmax(axis=1))
    for precision, names in (("float32", ["float_differs"]), ("float16", []), ("dynamic", []), (None, [])):
        assert failed(replace(found, answers=moved, precision=precision)) == names
    assert failed(replace(found, precision="float32")) == []


def test_a_reference_that_guesses_proves_nothing() -> None:
    """However well a file agrees with it; a rare class does not hide it, a hard one does not cause it."""
    rare = np.r_[np.zeros(90, np.int64), np.ones(10, np.int64)]
    one = np.tile(np.float32([0.8, 0.1, 0.1]), (100, 1))
    guessing = evaluate(Evidence(one, one, rare, CLASSES, 1, 0.0), {"max_drop": 0.02})
    assert {item.name: item.verdict for item in guessing if item.verdict != "pass"} == {
        "reference_above_guessing": "undecided"
    }
    (item,) = (item for item in guessing if item.name == "reference_above_guessing")
    needed = re.fullmatch(r"the reference may only guess: .*; needs about ([\d,]+) images", item.note)
    assert needed is not None, item.note
    times = math.ceil(int(needed[1].replace(",", "")) / 100)
    assert 1 < times < 10
    many, labels = np.tile(one, (times, 1)), np.tile(rare, times)
    assert failed(Evidence(many, many, labels, CLASSES, 1, 0.0)) == ["reference_above_guessing"]
    better = np.where(np.arange(100)[:, None] >= 95, np.float32([0.1, 0.8, 0.1]), one)
    assert worst([item.verdict for item in evaluate(Evidence(better, better, rare, CLASSES, 1, 0.0), {})]) == "pass"
    alone = evaluate(Evidence(one, one, np.zeros(100, np.int64), CLASSES, 1, 0.0), {})
    assert worst([item.verdict for item in alone]) == "pass"


def test_rounding_of_integer_outputs_is_no_fault() -> None:
    rounded = (evidence().answers * 256).round() / np.float32(256) + np.float32(1 / 512)
    found = replace(evidence(), answers=rounded, output_step=1 / 256)
    assert failed(found) == []


def many_classes(classes: int, images: int = 40, noise: float = 0.0) -> np.ndarray:
    """Softmax of logits of which one stands out, as a trained classifier's does."""
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 1, (images, classes))
    logits[np.arange(images), rng.integers(0, classes, images)] += 2 + np.log(classes)
    logits += np.random.default_rng(5).normal(0, noise, logits.shape)
    exponentials = np.exp(logits)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("images", [3, 40])
@pytest.mark.parametrize("classes", [5, 20, 100, 1000])
def test_a_wrong_output_scale_shows_with_any_number_of_classes(classes: int, images: int) -> None:
    reference = many_classes(classes, images)
    names, labels = tuple(map(str, range(classes))), reference.argmax(axis=1)
    step = 1 / 256

    def off(answers: np.ndarray, scale: float) -> bool:
        rounded = np.asarray(np.clip(np.round(answers / step), 0, 255) * step * scale, np.float32)
        found = Evidence(rounded, reference, labels, names, 1, step * scale)
        return "probabilities_off_one" in failed(found)

    for answers in (reference, many_classes(classes, images, noise=0.2)):
        assert not off(answers, 1.0)
        assert off(answers, 0.5)
        assert off(answers, 2.0)


def test_the_same_answers_are_told_by_all_classes_together() -> None:
    """A thousand small differences are a large one."""
    labels = np.arange(30) % 10
    reference = np.full((30, 1000), 0.5 / 999, np.float32)
    reference[np.arange(30), labels] = 0.5
    answers = reference.copy()
    answers[:, 500:] *= 0.1
    answers[:, 10:500] += (1 - answers.sum(axis=1, keepdims=True)) / 490
    found = Evidence(answers, reference, labels, tuple(map(str, range(1000))), 1, 0.0)
    assert found.difference.max() < 1e-3
    assert found.largest_variation == pytest.approx(0.225, rel=0.01)
    assert gate(found, "max_drop", 0.02).verdict == "undecided"


def test_verdicts() -> None:
    assert [at_most(low, high, 0.5) for low, high in ((0.1, 0.5), (0.4, 0.6), (0.6, 0.7))] == [
        "pass",
        "undecided",
        "fail",
    ]
    assert [at_least(low, high, 0.5) for low, high in ((0.5, 0.6), (0.4, 0.6), (0.1, 0.4))] == [
        "pass",
        "undecided",
        "fail",
    ]
    assert worst(["pass", "undecided", "fail"]) == "fail"
    assert worst(["pass", "undecided"]) == "undecided"
    assert worst([]) == "pass"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("max_dorp=0.1", "expected one of drop, relative_drop, "),
        ("p50 < 10 ms", "expected one of drop, relative_drop, .* in --gate, but got 'p50'"),
        ("max_drop", "such as"),
        ("max_drop=x", "such as"),
        ("", "got none"),
        ("max_drop < 0.1", "such as .drop < 0.1. in"),
        ("drop = 0.1", "such as .drop < 0.1. in"),
        ("drop > 0.1", "turn the comparison"),
        ("agreement < 0.98", "turn the comparison"),
        ("agreement > 1", "at most 1"),
        ("drop < 2", r"at most 1 in --gate, but got drop < 2.0 \(2 % is 0.02\)"),
        ("size < 2", r"a unit \(MB, kB, B\)"),
        ("size < 2 ms", r"a unit \(MB, kB, B\)"),
        ("max_drop=2", "at most 1"),
        ("max_error_ratio=0.5", "at least 1"),
        ("max_size_mb=inf", "max_size_mb"),
        ("max_drop=nan", "max_drop"),
    ],
)
def test_limits_that_make_no_sense(given: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_limits([given])


def test_limits_are_read() -> None:
    assert parse_limits(["max_drop = 0.02", "min_int8_share=1"]) == {"max_drop": 0.02, "min_int8_share": 1.0}
    for twice in (["max_drop=0.1", "max_drop=0.2"], ["drop < 1 %, drop < 2 %"], ["drop < 0.1", "max_drop=0.1"]):
        with pytest.raises(SettingsError, match="drop again"):
            parse_limits(twice)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("drop < 2 %, class_recall_drop <= 10 points", "max_drop=0.02, max_class_recall_drop=0.1"),
        ("Relative_Drop<0.05,", "max_relative_drop = 0.05"),
        ("error_ratio < 1.5x, latency_ratio < 0.5", "max_error_ratio=1.5, max_latency_ratio=0.5"),
        ("agreement > 98 %, int8_share >= 1", "min_agreement=0.98, min_int8_share=1"),
        ("probability_difference <= 0", "max_probability_difference=0"),
        ("mean_probability_difference < 1e-3", "max_mean_probability_difference=0.001"),
        ("size < 2 MB", "max_size_mb=2"),
        ("size < 300kB", "max_size_mb=0.3"),
        ("drop <= 1, baseline_drop < 0.1", "max_drop=1, max_baseline_drop=0.1"),
    ],
)
def test_old_spellings_and_tables_say_the_same(new: str, old: str) -> None:
    limits = parse_limits(new)
    assert limits == parse_limits([old]) == parse_limits(limits)
    assert limits == parse_limits({GATES[name].metric.name: limit for name, limit in limits.items()})


def test_the_largest_drop_is_read() -> None:
    assert [parse_drop(text) for text in ("0.02", "2 %", "2points", "0", "1")] == [0.02, 0.02, 0.02, 0, 1]
    for wrong in ("", "x", "2", "-0.1", "2 MB", "0.1, size < 2 MB"):
        with pytest.raises(SettingsError, match=r"--max-drop|after the number"):
            parse_drop(wrong)


def test_a_table_of_limits_holds_numbers() -> None:
    assert parse_limits({"max_size_mb": 500}) == {"max_size_mb": 500}
    for wrong in ("0.02", True, None, math.nan):
        with pytest.raises(SettingsError, match=r"of at least 0 and at most 1 in \[check\]"):
            parse_limits({"max_drop": wrong}, "[check]")


def test_every_gate_can_be_evaluated() -> None:
    """A name in GATES without a function would end a check in a KeyError."""
    limits = dict.fromkeys(GATES, 1.0)
    assert {item.name for item in evaluate(evidence(), limits)} >= GATES.keys()


def unlabelled(n: int, changed: int) -> PairedAnswers:
    """Answers to images without labels, the first ones named another class and no probability quite the same."""
    named = np.arange(n) % 3
    answers = certain(np.where(np.arange(n) < changed, (named + 1) % 3, named)) + np.float32([0.01, -0.01, 0])
    return PairedAnswers(answers, certain(named))


FEW = evidence(n=33, lost=1, wrong=2)


def test_images_without_labels_decide_what_labelled_ones_cannot() -> None:
    assert gate(FEW, "max_drop", 0.02).verdict == "undecided"
    decided = gate(replace(FEW, unlabelled=unlabelled(500, 3)), "max_drop", 0.02)
    assert (decided.verdict, decided.n) == ("pass", 33)
    assert decided.note == (
        "the images without labels decide: 4 of 533 answers change, 500 of them without labels, so at most 0.0191 can "
        "be lost"
    )
    assert decided.low == gate(FEW, "max_drop", 0.02).low, "the interval is that of the labelled images"


def test_images_without_labels_may_be_too_few() -> None:
    found = gate(replace(FEW, unlabelled=unlabelled(500, 6)), "max_drop", 0.02)
    assert found.verdict == "undecided"
    more = re.search(r"or ([\d,]+) without labels \(7 of 533", found.note)
    assert more is not None, found.note
    n = 33 + int(more[1].replace(",", ""))
    assert largest_drop(Changes(7 / 533 * n, n)) <= 0.02 < largest_drop(Changes(7 / 533 * (n - 1), n - 1))
    many = gate(replace(FEW, unlabelled=unlabelled(500, 60)), "max_drop", 0.02)
    assert "none without labels would decide (61 of 533" in many.note


def test_images_without_labels_neither_fail_a_file_nor_take_a_verdict_back() -> None:
    for lost in (1, 40):
        found = evidence(lost=lost)
        alone = gate(found, "max_drop", 0.02)
        for changed in (0, 300):
            both = gate(replace(found, unlabelled=unlabelled(400, changed)), "max_drop", 0.02)
            assert both == replace(alone, note=both.note)
            assert both.note == "the labelled images decide"


def test_images_of_another_kind_do_not_count() -> None:
    """Three of 33 labelled images change: in 5,000 that are like them, none would not."""
    found = evidence(n=33, lost=2, won=1, wrong=2)
    strange = gate(replace(found, unlabelled=unlabelled(5000, 0)), "max_drop", 0.02)
    assert strange.verdict == "undecided"
    assert strange.note.endswith(
        "they seem to be of another kind: answers to 0 of 5,000 of them change, and to 3 of 33 labelled ones"
    )


def test_disagreement_is_that_on_images_without_labels() -> None:
    for changed, verdict in ((5, "pass"), (23, "undecided"), (60, "fail")):
        found = gate(replace(FEW, unlabelled=unlabelled(500, changed)), "max_disagreement", 0.05)
        assert (found.verdict, found.value, found.n) == (verdict, changed / 500, 500)
        assert ("needs about" in found.note) == (verdict == "undecided")
    same = PairedAnswers(certain([0, 1]), certain([0, 1]))
    assert gate(replace(FEW, unlabelled=same), "max_disagreement", 0.05).verdict == "pass", "the same model"
    assert gate(FEW, "max_disagreement", 0.05).verdict == "undecided"
    assert parse_limits("disagreement < 5 %") == {"max_disagreement": 0.05}


def test_resize_drop_is_that_of_the_worst_way() -> None:
    found = evidence(n=600, lost=5)
    fewer, more = found.hits.copy(), found.hits.copy()
    fewer[100:160], more[100:102] = False, False
    both = gate(replace(found, resized={"area": more, "letterbox": fewer}), "max_resize_drop", 0.05)
    assert (both.verdict, both.value, both.n) == ("fail", pytest.approx(0.1), 600)
    assert both.note == "letterbox, 0 of 2 ways to resize undecided"
    assert gate(replace(found, resized={"area": more}), "max_resize_drop", 0.05).verdict == "pass"
    few = gate(replace(found, resized={"area": fewer}), "max_resize_drop", 0.1)
    assert few.verdict == "undecided"
    assert few.note.startswith("area, 1 of 1 ways to resize undecided, ")
    assert gate(found, "max_resize_drop", 0.05).note == "not measured: --resize-robustness"
