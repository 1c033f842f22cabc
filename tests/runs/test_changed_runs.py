"""A run that was changed after it was made is refused where that matters; `doctor RUN` says how to get it back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import tledge
from tests.conftest import run_cli
from tledge.core.errors import RunError
from tledge.core.files import sha256_file
from tledge.runs import manifest as manifest_module
from tledge.runs.manifest import read_manifest, read_split
from tledge.runs.rundir import open_run

Rows = list[list[str]]


def rows_of(run: Path) -> Rows:
    return [line.split(",") for line in (run / "split.csv").read_text().splitlines()]


def first(rows: Rows, subset: str, other_than: str = "") -> list[str]:
    return next(row for row in rows[1:] if row[2] == subset and row[1] != other_than)


def swap_subsets(rows: Rows) -> None:
    """A training image and a test image of the same class change places."""
    one = first(rows, "train")
    other = next(row for row in rows[1:] if row[2] == "test" and row[1] == one[1])
    one[2], other[2] = "test", "train"


def exchange_labels(rows: Rows) -> None:
    one = first(rows, "test")
    other = first(rows, "test", other_than=one[1])
    one[1], other[1] = other[1], one[1]


def repeat(rows: Rows) -> None:
    rows.append(rows[1])


def leave_out(rows: Rows) -> None:
    del rows[1]


def another_digest(rows: Rows) -> None:
    rows[1][3] = "0" * 64


CHANGES = {
    "swapped subsets": (swap_subsets, "in other subsets"),
    "exchanged labels": (exchange_labels, "paths, classes or digests of some images are others"),
    "a repeated row": (repeat, "is there 2 times"),
    "a missing row": (leave_out, "images instead of"),
    "another digest": (another_digest, "paths, classes or digests of some images are others"),
}


def change(run: Path, how: Callable[[Rows], None]) -> None:
    rows = rows_of(run)
    how(rows)
    (run / "split.csv").write_text("".join(",".join(row) + "\n" for row in rows))


def refused(*arguments: object, says: str) -> None:
    ended = run_cli(*arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert says in ended.stderr


def health(run: Path) -> dict[str, tuple[str, str]]:
    return {finding.name: (finding.state, finding.detail) for finding in tledge.doctor(run)}


@pytest.mark.parametrize(("how", "says"), CHANGES.values(), ids=CHANGES)
def test_a_changed_split_is_refused(how: Callable[[Rows], None], says: str, run_copy: Path, tmp_path: Path) -> None:
    change(run_copy, how)
    for command in ("check", "export", "bench", "diagnose"):
        more = (run_copy / "export" / "tflite-float32.tflite",) if command == "diagnose" else ()
        refused(command, run_copy, *more, says=says)
    refused("optimize", run_copy, "--size-ratio", "4", "--out", tmp_path / "small", says=says)
    state, detail = health(run_copy)["split.csv"]
    assert state == "damaged"
    assert says in detail


def test_a_run_of_an_earlier_version_is_read_and_what_it_lacks_is_said_by_doctor(run_copy: Path) -> None:
    manifest = run_copy / "run.json"
    content = json.loads(manifest.read_text())
    del content["split_sha256"]
    manifest.write_text(json.dumps(content))
    assert read_split(open_run(run_copy))
    state, detail = health(run_copy)["split.csv"]
    assert (state, "kept no digest" in detail) == ("note", True)
    change(run_copy, swap_subsets)  # cannot be known without one
    assert read_split(open_run(run_copy))
    change(run_copy, exchange_labels)
    with pytest.raises(RunError, match="are others"):
        read_split(open_run(run_copy))


def test_the_order_of_rows_and_a_mark_of_an_editor_change_nothing(run_copy: Path) -> None:
    head, *rows = rows_of(run_copy)
    lines = "".join(",".join(row) + "\r\n" for row in [head, *reversed(rows)])
    (run_copy / "split.csv").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert len(read_split(open_run(run_copy))) == len(rows)


def test_a_split_that_changes_between_two_answers_is_seen(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(run_copy)
    parsed: list[int] = []
    difference = manifest_module._difference
    monkeypatch.setattr(manifest_module, "_difference", lambda *of: parsed.append(1) or difference(*of))
    rows = read_split(run)
    assert read_split(run, "test") == tuple(row for row in rows if row.subset == "test")
    assert len(parsed) == 1  # compared once
    times = run.split.stat()
    text = run.split.read_text()
    run.split.write_text(text.replace(rows[0].sha256, rows[1].sha256))
    os.utime(run.split, ns=(times.st_atime_ns, times.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(RunError, match="digests of some images are others"):
            read_split(run)
    run.split.write_text(text)
    assert read_split(run) == rows
    manifest = json.loads(run.manifest.read_text())
    run.manifest.write_text(json.dumps(manifest | {"split_sha256": "0" * 64}))
    with pytest.raises(RunError, match="some images are in other subsets"):
        read_split(run)


def test_predict_takes_the_classes_of_the_manifest(run_copy: Path, digits: Path) -> None:
    picture = next((digits / "digit 7").iterdir())
    before = run_cli("predict", run_copy, picture, "--json")
    labels = run_copy / "labels.txt"
    names = labels.read_text().splitlines()
    labels.write_text("\n".join(reversed(names)) + "\n")
    for model in (run_copy, run_copy / "model.keras"):
        ended = run_cli("predict", model, picture, "--json")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == json.loads(before.stdout)
    refused("check", run_copy, says="labels.txt")
    assert health(run_copy)["labels.txt"][0] == "damaged"
    labels.unlink()
    assert health(run_copy)["labels.txt"][0] == "missing"
    assert ", ".join(names) in health(run_copy)["labels.txt"][1]


def test_an_artefact_other_than_its_sidecar_says_is_refused_everywhere(
    run_copy: Path, finished_run: Path, digits: Path
) -> None:
    artefact = run_copy / "export" / "onnx-float32.onnx"
    content = bytearray(artefact.read_bytes())
    content[len(content) // 2] ^= 1
    artefact.write_bytes(content)
    picture = next((digits / "digit 7").iterdir())
    for words in (
        ("predict", artefact, picture),
        ("inspect", artefact),
        ("bench", artefact),
        ("check", run_copy),
        ("report", run_copy),
        ("compare", run_copy, finished_run),
        ("diagnose", run_copy, artefact),
        ("check", run_copy, "--artefact", artefact),
    ):
        refused(*words, says="SHA-256 differs")
    assert health(run_copy)["export/onnx-float32.onnx"][0] == "damaged"
    artefact.unlink()
    assert "is gone" in health(run_copy)["export/onnx-float32.json"][1]
    artefact.symlink_to(artefact)
    assert health(run_copy)["export/onnx-float32.onnx"] == ("damaged", "it is no file; export it again")


def test_a_changed_model_is_not_asked(run_copy: Path, digits: Path) -> None:
    with (run_copy / "model.keras").open("ab") as stream:
        stream.write(b"\0")
    refused("predict", run_copy, next((digits / "digit 7").iterdir()), says="SHA-256 differs")
    assert health(run_copy)["models"][0] == "damaged"


def test_changed_ranges_are_measured_again(run_copy: Path) -> None:
    from tledge.conversion.kept_calibration import CalibrationFile, RunCalibrations
    from tledge.core.records import read_record

    path = run_copy / "calibration.json"
    run = open_run(run_copy)
    kept = RunCalibrations(run, read_manifest(run), lambda: pytest.fail("nothing has to be measured"))
    (entry,) = read_record(path, CalibrationFile).calibrations
    assert kept._find(entry.sample_sha256, entry.method) == entry
    content = json.loads(path.read_text())
    layer = next(iter(content["calibrations"][0]["tensors"].values()))
    layer["max"] += 1
    path.write_text(json.dumps(content))
    assert kept._find(entry.sample_sha256, entry.method) is None
    state, detail = health(run_copy)["calibration.json"]
    assert (state, "measured again" in detail) == ("damaged", True)


def test_a_reference_that_was_changed_is_told_where_its_size_is_shown(run_copy: Path, finished_run: Path) -> None:
    with (run_copy / "model.keras").open("ab") as stream:
        stream.write(b"x")
    for words in (("report", run_copy), ("compare", finished_run, run_copy)):
        refused(*words, says="the model that run.json describes")
    (run_copy / "model.keras").unlink()
    assert run_cli("report", run_copy).returncode == 0, "results are readable where the models were left elsewhere"
    artefact = next(iter((run_copy / "export").glob("*.onnx")))
    artefact.unlink()
    assert run_cli("report", run_copy).returncode == 0
    text = (run_copy / "report.md").read_text()
    assert "model.keras is not in this run any more" in text
    assert f"The file that {artefact.stem}.json describes is gone" in text
    artefact.mkdir()
    refused("report", run_copy, says="but it is none")


def test_a_whole_run(finished_run: Path) -> None:
    digest = sha256_file(finished_run / "run.json")
    ended = run_cli("doctor", finished_run)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{finished_run} is whole." in ended.stdout
    assert sha256_file(finished_run / "run.json") == digest


def test_what_a_report_cannot_read_is_no_whole_run(run_copy: Path) -> None:
    files = ("history.csv", "search.json", "select.json", "model_card.toml", "diagnosis/onnx-float32.json")
    (run_copy / "diagnosis").mkdir(exist_ok=True)
    for name in files:
        path = run_copy / name
        before = path.read_bytes() if path.is_file() else None
        path.write_text("{")
        state, detail = health(run_copy)[name]
        assert (state, str(path) in detail) == ("damaged", True)
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert health(run_copy)["history.csv"][0] == "ok"


def test_doctor_of_a_damaged_run_ends_with_1(run_copy: Path) -> None:
    change(run_copy, leave_out)
    ended = run_cli("doctor", run_copy)
    assert ended.returncode == 1
    assert "Damaged: split.csv" in ended.stdout
