"""The command line as a stranger meets it: bad input gets one clear line and exit code 2, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import run_cli, run_process, write_digits
from tests.runtimes.foreign_models import small
from tledge.cli.progress import progress
from tledge.model.weights import packaged_trunk
from tledge.reporting.doctor import fastest_runtime

TRAIN = ("--technique", "feature-extraction", "--weights", "random", "--image-size", "32", "--epochs", "1")


def reads_everything() -> bool:
    """Whether permissions do not bind this user, as they do not bind root."""
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0o000)
        return os.access(closed, os.R_OK)


def refused(*arguments: object, says: str, cwd: Path | None = None) -> None:
    """The command must exit with 2 and one line on stderr that holds `says`, without a traceback."""
    completed = run_cli(*arguments, cwd=cwd)
    assert completed.returncode == 2, completed.stdout + completed.stderr
    progress = ("tledge: data: ", "tledge: decoding")
    lines = [line for line in completed.stderr.splitlines() if not line.startswith(progress)]
    assert len(lines) == 1, completed.stderr
    assert "Traceback" not in completed.stderr
    assert says in lines[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "data", 6)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.mark.parametrize("empty", ["nothing at all", "folders without images", "missing"])
def test_empty_folder(empty: str, tmp_path: Path, out: Path) -> None:
    data = tmp_path / "data"
    if empty != "missing":
        data.mkdir()
    if empty == "folders without images":
        (data / "cats").mkdir()
        (data / "dogs").mkdir()
    refused("train", data, "--out", out, *TRAIN, says="data")
    assert not out.exists()


def test_one_class(tmp_path: Path, out: Path) -> None:
    data = write_digits(tmp_path / "data", 6, classes=(3,))
    refused("train", data, "--out", out, *TRAIN, says="at least two classes")


@pytest.mark.skipif(reads_everything(), reason="this user may read everything")
def test_no_permission(data: Path, out: Path) -> None:
    (data / "digit 0").chmod(0)
    try:
        refused("train", data, "--out", out, *TRAIN, says="permission")
    finally:
        (data / "digit 0").chmod(0o755)


@pytest.mark.skipif(reads_everything(), reason="this user may write everywhere")
def test_no_permission_to_write(data: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    refused("train", data, "--out", closed / "run", *TRAIN, says="not writable")


@pytest.mark.parametrize("kind", ["truncated", "text", "zero"])
def test_unreadable_image_is_named_or_skipped(kind: str, data: Path, out: Path) -> None:
    bad = data / "digit 7" / "bad picture.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(bad, quality=95)
    whole = bad.read_bytes()
    bad.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"hello, I am text\n", "zero": b""}[kind])
    refused("train", data, "--out", out, *TRAIN, says="digit 7/bad picture.jpg")
    assert not out.exists()
    completed = run_cli("train", data, "--out", out, *TRAIN, "--skip-unreadable")
    assert completed.returncode == 0, completed.stderr
    assert "bad picture.jpg" in completed.stderr
    assert "bad picture" not in (out / "split.csv").read_text()


def test_run_that_exists(data: Path, out: Path) -> None:
    out.mkdir()
    (out / "precious").write_text("keep me")
    refused("train", data, "--out", out, *TRAIN, says="exists")
    assert (out / "precious").read_text() == "keep me"


@pytest.mark.parametrize("command", ["export", "check", "bench", "report"])
def test_run_without_manifest(command: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    refused(command, tmp_path / "run", says="no run.json")
    refused(command, tmp_path / "nowhere", says="does not exist")


def test_damaged_manifest(run_copy: Path) -> None:
    manifest = run_copy / "run.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(manifest.read_text()[:100])
    refused("check", run_copy, says="cannot be parsed")
    manifest.write_text(json.dumps(content | {"schema_version": 99}))
    refused("check", run_copy, says="schema version")
    del content["classes"]
    manifest.write_text(json.dumps(content))
    refused("check", run_copy, says="classes")


def test_artefact_that_is_none(finished_run: Path, tmp_path: Path) -> None:
    text = tmp_path / "model.tflite"
    text.write_text("I am no model")
    refused("check", finished_run, "--artefact", text, says="model.tflite")
    refused("inspect", text, says="model.tflite")
    refused("predict", text, text, says="model.tflite")
    refused("inspect", tmp_path / "missing.onnx", says="does not exist")


def test_unknown_recipe(finished_run: Path) -> None:
    before = sorted((finished_run / "export").iterdir())
    refused("export", finished_run, "--recipe", "tflite-int4", says="tflite-int4")
    assert sorted((finished_run / "export").iterdir()) == before


def test_images_that_are_gone(run_copy: Path, digits: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(digits, moved)
    manifest = run_copy / "run.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"data_root": "../nowhere"}))
    refused("check", run_copy, says="gone")
    assert run_cli("check", run_copy, "--data", moved, "--max-drop", "0.3").returncode == 0


def test_wrong_options(data: Path, out: Path) -> None:
    refused("train", data, "--out", out, "--technique", "magic", says="feature-extraction")
    refused("train", data, "--out", out, says="--technique")
    refused("no-such-command", says="no-such-command")
    refused("train", data, "--out", out, *TRAIN, "--freeze-until", "block4_pool", says="--freeze-until")
    refused("train", data, "--out", out, *TRAIN[:2], "--image-size", "16", says="32 px")
    refused("train", data, "--out", out, *TRAIN[:2], "--weights", "nowhere.h5", "--image-size", "32", says="nowhere.h5")
    refused("train", data, "--out", out, *TRAIN, "--val-fraction", "0.7", "--test-fraction", "0.6", says="0.7")


def test_too_few_images(tmp_path: Path, out: Path) -> None:
    refused("train", write_digits(tmp_path / "few", 2), "--out", out, *TRAIN, says="at least 3 different images")


def test_help_is_fast() -> None:
    """Generous here, since CI machines stall; benchmarks/startup.py measures against the goal of 0.3 s."""
    started = time.perf_counter()
    assert run_process("--help").returncode == 0
    assert time.perf_counter() - started < 2


def test_predict_prints_labels(finished_run: Path, digits: Path) -> None:
    image = next((digits / "digit 0").glob("*.png"))
    for model in ("export/tflite-int8.tflite", "export/onnx-int8.onnx", "model.keras", "."):
        completed = run_cli("predict", finished_run / model, image, "--json", "--top", "2")
        assert completed.returncode == 0, completed.stderr
        answer = json.loads(completed.stdout)[0]
        assert len(answer["classes"]) == 2
        assert answer["classes"][0]["label"].startswith("digit ")
    assert "digit" in run_cli("predict", finished_run / "model.keras", image).stdout


def test_inspect_tells_inputs_labels_and_lineage(finished_run: Path) -> None:
    for model in ("export/tflite-int8.tflite", "export/onnx-int8.onnx"):
        facts = json.loads(run_cli("inspect", finished_run / model, "--json").stdout)
        assert facts["input"] == "uint8 (N, 32, 32, 3)"
        assert facts["labels"] == ["digit 0", "digit 1", "digit 7"]
        assert facts["lineage"]["technique"] == "feature-extraction"
        assert facts["operators"]
    assert json.loads(run_cli("inspect", finished_run, "--json").stdout)["head"] == "gap"
    assert "digit 7" in run_cli("inspect", finished_run / "export" / "onnx-float32.onnx").stdout


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as other tools write them, which want pixels of -1..1; labels lie beside them."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "labels.txt").write_text("dark\nbright\n")
    mean = np.full((3, 1), 40, np.float32)
    for name, classes, activation in (("softmax", 2, "softmax"), ("sigmoid", 1, "sigmoid"), ("logits", 2, None)):
        model = small(classes=classes, activation=activation)
        model.layers[-1].set_weights([np.concatenate([-mean, mean], axis=1)[:, -classes:], np.zeros(classes)])
        model.save(folder / f"{name}.keras")
        model.export(folder / name, verbose=False)
    for name, grey in (("dark", 100), ("bright", 155)):
        Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("name", ["softmax.keras", "sigmoid.keras", "softmax"])
def test_predict_takes_foreign_pixels_as_declared_or_refuses(foreign: Path, name: str) -> None:
    """Fed with 0..1 instead of -1..1, every picture would be bright."""
    images = (foreign / "dark.png", foreign / "bright.png")
    refused("predict", foreign / name, *images, says=f"add --input {name}=SCALING")
    completed = run_cli("predict", foreign / name, *images, "--json", "--input=-1..1")
    assert completed.returncode == 0, completed.stderr
    for answer, label in zip(json.loads(completed.stdout), ("dark", "bright"), strict=True):
        assert answer["classes"][0]["label"] == label
        assert answer["classes"][0]["probability"] > 0.99
        assert sum(one["probability"] for one in answer["classes"]) == pytest.approx(1)


def test_predict_never_prints_logits(foreign: Path, finished_run: Path) -> None:
    image, form = foreign / "dark.png", "--input=-1..1"
    refused("predict", foreign / "logits.keras", image, form, says="--output logits.keras=logits")
    given = ("predict", foreign / "logits.keras", image, form, "--output", "logits", "--json")
    assert json.loads(run_cli(*given).stdout)[0]["classes"][0] == {"label": "dark", "probability": pytest.approx(1)}
    refused("predict", foreign / "softmax.keras", image, form, "--output", "logits", says="leave --output logits out")
    refused("predict", finished_run, image, form, says="a run's models need no description")
    refused("predict", foreign / "logits.keras", image, "--input", "other.keras=0..1", says="other.keras")


def test_inspect_says_what_is_open(foreign: Path, finished_run: Path) -> None:
    completed = run_cli("inspect", foreign / "sigmoid.keras", "--json")
    assert completed.returncode == 2
    assert len(completed.stderr.splitlines()) == 1
    assert "add --input sigmoid.keras=SCALING" in completed.stderr
    assert json.loads(completed.stdout)["input"] == "float32 (N, 32, 32, 3)"
    completed = run_cli("inspect", foreign / "sigmoid.keras", "--json", "--input=-1..1")
    assert completed.returncode == 0, completed.stderr
    facts = json.loads(completed.stdout)
    assert facts["pixels"] == "rgb -1..1 nhwc (declared for all models)"
    assert facts["scores"] == "probability of the second class, 2 classes"
    completed = run_cli("inspect", foreign / "logits.keras", "--json", "--input=-1..1")
    assert completed.returncode == 2
    assert json.loads(completed.stdout)["pixels"] == "rgb -1..1 nhwc (declared for all models)"
    assert "--output logits.keras=logits" in json.loads(completed.stdout)["scores"]
    facts = json.loads(run_cli("inspect", foreign / "softmax", "--json", "--input=-1..1").stdout)
    assert (facts["runtime"], facts["scores"]) == ("tensorflow", "probabilities that sum to 1, 2 classes")
    refused("inspect", finished_run, "--output", "logits", says="a run's models need no description")


def test_train_notes_what_weights_expect(data: Path, out: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    trunk = packaged_trunk()
    assert trunk is not None, "the weights extra is part of the dev installation"
    model = onnx.load(trunk)
    model.producer_name = "pytorch"
    onnx.save(model, tmp_path / "torch.onnx")
    completed = run_cli("train", data, "--out", out, *TRAIN, "--weights", tmp_path / "torch.onnx")
    assert completed.returncode == 0, completed.stderr
    notes = [line for line in completed.stderr.splitlines() if line.startswith("tledge: note: ")]
    assert len(notes) == 1
    assert "torch.onnx: weights in PyTorch's convention" in notes[0]


def test_doctor_finds_everything_here() -> None:
    completed = run_cli("doctor")
    assert completed.returncode == 0, completed.stdout
    assert "tensorflow" in completed.stdout


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("avx2", "avx512_vnni", "amx_int8"), "measured on AMX: OpenVINO"),
        (("avx2", "avx_vnni"), "measured with VNNI: OpenVINO"),
        (("avx2",), "measured with AVX2 alone: onnx-int8"),
        (("asimddp",), ""),
    ],
)
def test_doctor_names_the_fastest_runtime_measured(flags: tuple[str, ...], says: str) -> None:
    assert says in fastest_runtime(flags)
    assert bool(fastest_runtime(flags)) == bool(says)


def test_run_does_the_whole_job(data: Path, out: Path) -> None:
    recipes = ("--recipe", "tflite-float32", "--recipe", "onnx-float32")
    completed = run_process("run", data, "--out", out, *TRAIN, *recipes)
    assert completed.returncode == 0, completed.stderr
    for name in ("run.json", "check.json", "bench.json", "report.md", "export/tflite-float32.tflite"):
        assert (out / name).is_file()
    assert "speed-up" in completed.stdout
    assert "\x1b[" not in completed.stdout + completed.stderr


def test_quiet_lines_without_a_terminal(data: Path, out: Path) -> None:
    completed = run_cli("train", data, "--out", out, *TRAIN)
    assert completed.returncode == 0
    assert all(line.startswith("tledge: ") for line in completed.stderr.splitlines())
    assert len(completed.stderr.splitlines()) < 12


def test_a_long_part_gives_a_sign_of_life_once_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr("tledge.cli.progress.time.monotonic", lambda: seconds[0])
    with progress() as show:
        for done in (*range(6), 5):  # the end is said twice where a training could have stopped early
            show("training", done, 5)
            seconds[0] += 25.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["tledge: training (5)", "tledge: training, 3 of 5, 75.0 s", "tledge: training done, 125.0 s"]


def test_flat_files_are_checked_by_their_names_once_that_is_said(run_copy: Path, tmp_path: Path) -> None:
    flat = tmp_path / "around" / "flat"
    flat.mkdir(parents=True)
    for file in sorted(write_digits(tmp_path / "digits", 4).glob("*/*.png")):
        file.rename(flat / f"{file.parent.name}.{file.name}")
    check = ("check", run_copy, "--artefact", run_copy / "export/tflite-int8.tflite", "--on-undecided", "pass")
    refused(*check, "--data", tmp_path / "around", says="add --labels-from names")
    done = run_cli(*check, "--data", tmp_path / "around", "--labels-from", "names")
    assert done.returncode == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith(
        f"tledge: data: 12 images of 3 classes (digit 0, digit 1, digit 7) in {tmp_path / 'around'}"
    )
    refused(*check, "--labels-from", "names", says="expected --labels-from together with --data")
