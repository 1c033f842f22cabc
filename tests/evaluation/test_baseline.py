"""Baselines: the last release image by image, what flipped since, and what may not be compared."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tledge
from tests.conftest import run_cli, write_digits
from tests.evaluation.test_check import sicken
from tledge.core.errors import RunError
from tledge.core.records import plain
from tledge.evaluation.baseline import AcceptedArtefact, change_since, read_baseline, save_baseline
from tledge.evaluation.candidates import latency_of
from tledge.evaluation.outputs import as_annotations, as_junit, flip_sentence
from tledge.reporting.check import as_markdown
from tledge.runs.bench_json import LatencyMs, Measurement
from tledge.stats.intervals import Interval

pytest.importorskip("onnx")
pytest.importorskip("junit_xml")


def test_the_same_release_passes_and_a_worse_one_names_the_images(run_copy: Path, tmp_path: Path) -> None:
    file = run_copy / "export" / "onnx-float32.onnx"
    tledge.check(run_copy, on_undecided="pass")
    baseline = tmp_path / "baseline.json"
    accepted = tledge.save_baseline(run_copy, baseline)
    assert len(accepted.artefacts) == 6
    assert len(accepted.images) == 12
    same = tledge.check(run_copy, baseline=baseline, on_undecided="pass")
    gates = {gate.name: gate for gate in same.artefacts[0].gates}
    assert gates["max_baseline_drop"].verdict == "pass"
    assert gates["max_baseline_drop"].note == "the very same file"
    assert all(item.change and not (item.change.lost or item.change.won) for item in same.artefacts)

    sicken(run_copy)
    worse = tledge.check(run_copy, artefacts=[file], baseline=baseline, on_undecided="pass")
    change = worse.artefacts[0].change
    assert change is not None
    assert {flip.path for flip in change.lost} <= set(accepted.images)
    assert len(change.lost) > 6
    assert all(flip.before == flip.label != flip.after for flip in change.lost)
    assert not change.improved
    assert {gate.name: gate.verdict for gate in worse.artefacts[0].gates}["max_baseline_drop"] == "fail"
    assert set(worse.missing) == accepted.artefacts.keys() - {"onnx-float32"}
    told = replace(worse, notes=("m.onnx: its calibration is not checked: no images",))
    sentences = [f"{name}: in the baseline, but not checked now" for name in worse.missing] + list(told.notes)
    page = as_markdown(told).splitlines()
    drop = worse.artefacts[0].drop
    assert f"### onnx-float32 against the reference: {drop.lost} lost, {drop.won} won" in page
    assert f"- lost: {flip_sentence(change.lost[0])}" in page
    assert [line for line in page if line[2:] in sentences] == [f"- {sentence}" for sentence in sentences]
    warnings = [line for line in as_annotations(told) if line.startswith("::warning title=tledge check::not checked: ")]
    assert [line.partition("not checked: ")[2] for line in warnings] == sentences
    suite = ElementTree.fromstring(as_junit(told)).find("testsuite[@name='tledge check: not checked']")
    assert suite is not None
    assert [case.attrib["message"] for case in suite.findall("testcase/skipped")] == sentences
    assert "not checked" not in as_junit(same) + as_markdown(same) + "".join(as_annotations(same))
    written = json.loads((run_copy / "check.json").read_text())
    assert len(written["artefacts"][0]["since_baseline"]["lost"]) == len(change.lost)
    shown = run_cli("check", run_copy, "--artefact", file, "--baseline", baseline)
    assert shown.returncode == 1
    assert f"onnx-float32 since the baseline: {len(change.lost)} lost, 0 won" in shown.stdout
    assert f"lost: {change.lost[0].path}" in shown.stdout


def test_improvement_beyond_chance_is_told() -> None:
    labels = np.zeros(200, np.int64)
    before = AcceptedArtefact("0" * 64, tuple([1] * 30 + [0] * 170))
    now = np.asarray([0] * 25 + [1] * 3 + [2] * 2 + [0] * 170)
    paths = [f"{i}.png" for i in range(200)]
    change = change_since(before, now, paths, labels, ("cat", "dog", "owl"))
    assert (len(change.won), len(change.lost), len(change.moved)) == (25, 0, 2)
    assert change.improved
    assert change.drop.value == pytest.approx(-25 / 200)
    assert (change.moved[0].before, change.moved[0].after) == ("dog", "owl")
    narrow = AcceptedArtefact("0" * 64, tuple([1] * 4 + [0] * 496))
    zeros = np.zeros(500, np.int64)
    four = change_since(narrow, zeros, [f"{i}.png" for i in range(500)], zeros, ("cat", "dog"))
    assert four.drop.high < 0
    assert four.drop.p_value == pytest.approx(0.125)
    assert not four.improved, "four of four may be chance"
    few = change_since(before, np.asarray([0, *before.predicted[1:]]), paths, labels, ("cat", "dog", "owl"))
    assert len(few.won) == 1
    assert not few.improved


def test_other_images_or_classes_are_not_compared(run_copy: Path, tmp_path: Path) -> None:
    tledge.check(run_copy, on_undecided="pass")
    baseline = tmp_path / "baseline.json"
    tledge.save_baseline(run_copy, baseline)
    other = write_digits(tmp_path / "other", 5)
    refused = run_cli("check", run_copy, "--baseline", baseline, "--data", other)
    assert refused.returncode == 2
    assert "these are others (15," in refused.stderr
    assert refused.stderr.count("\n") <= 2
    before = (run_copy / "check.json").read_text()
    content = json.loads(baseline.read_text()) | {"classes": ["a", "b", "c"]}
    baseline.write_text(json.dumps(content))
    with pytest.raises(RunError, match="a, b, c"):
        tledge.check(run_copy, baseline=baseline)
    assert (run_copy / "check.json").read_text() == before, "nothing is lost"


def test_damaged_baselines(run_copy: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    with pytest.raises(RunError, match="tledge check"):
        tledge.save_baseline(run_copy, baseline)
    assert not baseline.exists()
    with pytest.raises(RunError, match="does not exist"):
        read_baseline(baseline)
    for content in ("{}", '{"schema_version": 99}', "[1]", "not json"):
        baseline.write_text(content)
        with pytest.raises(RunError):
            read_baseline(baseline)


def accepted(predicted: str) -> dict[str, object]:
    return {"sha256": "0" * 64, "accuracy": 1.0, "predicted": predicted}


def written(folder: Path, **changes: object) -> Path:
    """A baseline of two images and one file, with some of its content replaced."""
    content = {"schema_version": 1, "created": "", "versions": {}, "n": 2, "data_fingerprint": "f"}
    content |= {"classes": ["cat", "dog"], "images": ["a", "b"], "artefacts": {"m": accepted("0 1")}}
    path = folder / "baseline.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_a_whole_baseline_is_read(tmp_path: Path) -> None:
    assert read_baseline(written(tmp_path)).artefacts["m"].predicted == (0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artefacts": {"m": accepted("0 2")}}, "m names class 2 of 0..1"),
        ({"artefacts": {"m": accepted("0 -1")}}, "m names class -1 of 0..1"),
        ({"artefacts": {"m": accepted("0 one")}}, r"artefacts\.m\.predicted as whole numbers in .*, but got '0 one'"),
        ({"artefacts": {"m": accepted("0")}}, "m answers for other images"),
        ({"artefacts": {"m": None}}, r"expected artefacts\.m as an object in .*baseline\.json, but got null; save it"),
        ({"artefacts": {"m": {}}}, r"expected artefacts\.m\.sha256 as text in .*, but it is missing; save it again"),
        ({"artefacts": None}, "expected artefacts as an object in .*, but got null"),
        ({"images": None}, "expected images as a list of texts in .*, but got null"),
        ({"images": [], "n": 0}, "0 images"),
        ({"n": 3}, "2 images, but n is 3"),
        (
            {"schema_version": 0},
            "expected schema version 1 in .*, but it says 0; use the tledge that wrote it, or save",
        ),
    ],
)
def test_a_damaged_baseline_is_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        read_baseline(written(tmp_path, **changes))
    assert "\n" not in str(error.value)


ROWS = "path,class,reference,m\na.png,cat,cat,cat\nb.png,dog,dog,dog\n"


def artefact_of_check(verdict: str = "pass") -> Any:
    shares = dict.fromkeys(("accuracy", "agreement", "mcnemar_p"), 1.0)
    shares |= {"accuracy_drop": 0.0}
    intervals = {f"{name}_interval_95": [0.0, 1.0] for name in ("accuracy", "accuracy_drop", "agreement")}
    counts = dict.fromkeys(("size_bytes", "lost", "won"), 0)
    differences = dict.fromkeys(("max_probability_difference", "mean_probability_difference"), 0)
    names = {"name": "m", "path": "m.onnx", "sha256": "", "runtime": "", "verdict": verdict, "reason": ""}
    rest = {"passed": True, "n": 2, "recall": {}, "confusion": [], "gates": [], "since_baseline": None}
    return names | shares | intervals | counts | differences | rest


def checked(folder: Path, rows: str = ROWS, changes: dict[str, object] | None = None) -> Path:
    """A folder with a check of two images and one file, with some of its content replaced."""
    machine = {"cpu": "", "cpu_flags": [], "architecture": "", "cores": 1, "memory_gb": 1, "system": ""}
    reference = {"accuracy": 1, "accuracy_interval_95": [0, 1], "recall": {}, "confusion": [], "n": 2}
    check = {"passed": True, "verdict": "pass", "on_undecided": "fail", "n": 2, "created": "", "data_root": "."}
    check |= {"data_fingerprint": "f", "reference_sha256": "", "classes": ["cat", "dog"], "reference": reference}
    check |= {"artefacts": [artefact_of_check()], "missing_from_baseline": [], "notes": []}
    check |= {"versions": {}, "machine": machine} | (changes or {})
    (folder / "check.json").write_text(json.dumps(check))
    (folder / "predictions.csv").write_text(rows)
    return folder


def test_a_check_that_did_not_pass_is_kept_with_a_warning(tmp_path: Path) -> None:
    out = tmp_path / "baseline.json"
    passed = run_cli("baseline", "save", checked(tmp_path), "-o", out)
    assert (passed.returncode, passed.stderr) == (0, "")
    item = artefact_of_check("undecided")
    kept = run_cli(
        "baseline", "save", checked(tmp_path, ROWS, {"verdict": "undecided", "artefacts": [item]}), "-o", out
    )
    assert kept.returncode == 0
    assert kept.stderr == (
        "Warning: the verdict of this check is undecided (m), and it is kept as the accepted release\n"
    )
    assert (read_baseline(out).verdict, read_baseline(out).not_passed) == ("undecided", ("m",))


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({}, "path,class,reference,m\n", "the 2 images of check.json .* has 0"),
        (
            {},
            "",
            r"expected CSV with path, class in .*predictions\.csv, but .* no column path.*; run `tledge check` again",
        ),
        ({"n": 3}, ROWS, "the 3 images of check.json .* has 2"),
        ({"artefacts": None}, ROWS, r"expected artefacts as a list of objects in .*check\.json, but got null; run"),
        ({"artefacts": [None]}, ROWS, r"expected artefacts\[0\] as an object in .*, but got null; run `tledge check`"),
        ({"classes": None}, ROWS, "expected classes as a list of texts in .*, but got null; run `tledge check` again"),
        ({}, ROWS.replace(",m", ",other"), "'m' is missing"),
        ({}, ROWS.replace("dog,dog,dog", "dog,dog,owl"), "'owl' is missing"),
    ],
)
def test_a_damaged_check_is_not_kept(tmp_path: Path, changes: dict[str, object], rows: str, message: str) -> None:
    checked(tmp_path, rows, changes)
    with pytest.raises(RunError, match=message):
        tledge.save_baseline(tmp_path, tmp_path / "baseline.json")
    assert not (tmp_path / "baseline.json").exists()


MEASUREMENT = Measurement(
    name="m",
    runtime="litert",
    precision="int8",
    size_bytes=1,
    sha256="s",
    batch=1,
    threads=1,
    n=30,
    latency_ms=LatencyMs(p50=1, p90=1, p99=1, mean=1, min=1),
    p50_interval_95=(1, 1),
    stable=None,
    load_ms=1,
    first_ms=1,
    peak_rss_mb=1,
    model_rss_mb=1,
    energy_j=None,
    energy_interval_95=None,
    speedup_vs_keras=4.0,
    speedup_interval_95=(2.0, 5.0),
    samples_ms=(),
)
BENCH = {"schema_version": 1, "created": "", "environment": None, "settings": None, "notes": []} | {
    "other_settings": [],
    "hosts": [],
    "runtime_options": [],
}


@pytest.mark.parametrize(
    ("results", "says"),
    [
        (None, "expected results as a list of objects in {}, but got null"),
        ([None], "expected results[0] as an object in {}, but got null"),
        ([{}], "expected results[0].name as text in {}, but it is missing"),
        ([plain(MEASUREMENT) | {"latency_ms": {}}], "results[0].latency_ms.p50 as a number in {}, but it is missing"),
        ([plain(MEASUREMENT) | {"speedup_vs_keras": "fast"}], "as a number or null in {}, but got 'fast'"),
    ],
)
def test_damaged_latencies_are_one_line(tmp_path: Path, results: object, says: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(BENCH | {"results": results}))
    with pytest.raises(RunError) as caught:
        latency_of(path, "s")
    assert says.replace("{}", str(path)) in str(caught.value)
    assert str(caught.value).endswith("; run `tledge bench` again")
    assert "\n" not in str(caught.value)


def test_latencies_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert latency_of(path, "s") == (None, 0)
    item = plain(MEASUREMENT)
    path.write_text(json.dumps(BENCH | {"results": [item | {"sha256": "other", "speedup_vs_keras": 3.0}, item]}))
    assert latency_of(path, "s") == (Interval(0.25, 0.2, 0.5), 30)


def test_answers_that_were_changed_after_the_check_are_not_kept(tmp_path: Path) -> None:
    digest = hashlib.sha256(ROWS.encode()).hexdigest()
    checked(tmp_path, ROWS, {"predictions_sha256": digest})
    assert save_baseline(tmp_path, tmp_path / "baseline.json").images == ("a.png", "b.png")
    (tmp_path / "predictions.csv").write_text(ROWS.replace("dog,dog,dog", "dog,dog,cat"))
    with pytest.raises(RunError, match=r"predictions\.csv to be the file that check\.json describes"):
        save_baseline(tmp_path, tmp_path / "baseline.json")
