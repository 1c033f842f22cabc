"""Settings of the user's environment: fixed for the call, given back after it, or told in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tledge
from tests.conftest import run_cli, run_process
from tledge.core import surroundings
from tledge.core.environment import command_line
from tledge.core.errors import SettingsError, TledgeError
from tledge.core.files import write_json, write_zip


def keras_json(home: Path, **settings: object) -> Path:
    (home / ".keras").mkdir(parents=True)
    content = {"floatx": "float32", "epsilon": 1e-7, "backend": "tensorflow", "image_data_format": "channels_last"}
    (home / ".keras" / "keras.json").write_text(json.dumps(content | settings))
    return home


def test_every_setting_at_once_trains_and_exports_as_usual(digits: Path, tmp_path: Path) -> None:
    """Another backend, channels first, half precision, Keras 2 in Keras 3's place, and an output that is ASCII."""
    home = keras_json(tmp_path / "home", image_data_format="channels_first", floatx="float16", backend="jax")
    env = {"HOME": str(home), "KERAS_BACKEND": "torch", "TF_USE_LEGACY_KERAS": "1", "PYTHONIOENCODING": "ascii"}
    env |= {"OMP_NUM_THREADS": "many", "CUDA_VISIBLE_DEVICES": "none of them"}
    env |= {"KERAS_MAX_EPOCHS": "1", "KERAS_MAX_STEPS_PER_EPOCH": "few"}
    env |= {"XLA_FLAGS": "--of_another_xla", "TF_XLA_FLAGS": "--of_another_tensorflow"}
    out = tmp_path / "run"
    options = ("--technique", "feature-extraction", "--weights", "random", "--image-size", "32", "--epochs", "2")
    ended = run_process("train", digits, "--out", out, *options, env=env)
    assert ended.returncode == 0, ended.stderr
    assert len((out / "history.csv").read_text().splitlines()) == 3, "a head and two epochs"
    ended = run_process("export", out, "--recipe", "onnx-int8", env=env)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii()
    assert "->" in ended.stdout
    sidecar = json.loads((out / "export" / "onnx-int8.json").read_text())
    assert sidecar["input"]["shape"][1:] == [32, 32, 3]
    told = run_process("doctor", env=env).stdout
    for name in ("KERAS_BACKEND=torch", "KERAS_MAX_EPOCHS=1", "TF_XLA_FLAGS=", "OMP_NUM_THREADS", "'none of them'"):
        assert name in told


def test_a_call_gives_keras_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = pytest.importorskip("keras")
    from tledge.core.dependencies import require_tensorflow

    try:
        keras.config.set_image_data_format("channels_first")
        keras.config.set_floatx("float16")
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.config.set_max_epochs(1)
        monkeypatch.setenv("TF_XLA_FLAGS", "--of_another_tensorflow")
        require_tensorflow()
        assert "TF_XLA_FLAGS" not in os.environ
        assert keras.config.max_epochs() is None
        assert keras.config.image_data_format() == "channels_last"
        assert (keras.config.floatx(), keras.config.dtype_policy().name) == ("float32", "float32")
        with pytest.raises(TledgeError):
            tledge.report(tmp_path)
        assert keras.config.image_data_format() == "channels_first"
        assert (keras.config.floatx(), keras.config.dtype_policy().name) == ("float16", "mixed_bfloat16")
        assert (keras.config.max_epochs(), os.environ["TF_XLA_FLAGS"]) == (1, "--of_another_tensorflow")
    finally:
        keras.config.set_max_epochs(None)
        keras.config.set_image_data_format("channels_last")
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        surroundings._users.clear()


def test_variables_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    with surroundings.importing_keras():
        assert os.environ["KERAS_BACKEND"] == "tensorflow"
    assert os.environ["KERAS_BACKEND"] == "torch"
    assert "TF_USE_LEGACY_KERAS" not in os.environ


@pytest.mark.parametrize(
    "content", ["[]", "null", '{"epsilon": 1}', '{"floatx": "bfloat16"}', '{"floatx": [1]}', "[" * 200_000]
)
def test_settings_over_which_keras_fails(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keras.json"
    path.write_text(content)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    with pytest.raises(SettingsError) as caught, surroundings.importing_keras():
        pytest.fail("Keras would be imported")
    assert str(path) in str(caught.value)
    path.write_text("{")  # Keras goes on without it
    with surroundings.importing_keras():
        pass


def test_doctor_knows_that_keras_will_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keras.json").write_text('{"floatx": "bfloat16"}')
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (found,) = (one for one in tledge.doctor() if one.name == "Keras settings")
    assert (found.state, "floatx is 'bfloat16'" in found.detail) == ("missing", True)


@pytest.mark.parametrize("name", ["a – b → c", "Grün", "猫", "a\udcffb"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_output_of_any_encoding(name: str, encoding: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tledge", "report", tmp_path / name],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "does not exist" in ended.stderr.decode(encoding)


def test_the_command_of_a_run_is_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/tledge", "train", "Grün", "--out", "a\udcffb"])
    assert command_line("tledge.train") == r"tledge train 'Grün' --out 'a\udcffb'"
    write_json(tmp_path / "found.json", {"run": "a\udcffb"})
    assert json.loads((tmp_path / "found.json").read_text()) == {"run": "a\udcffb"}


def test_closed_streams() -> None:
    for closed in ("0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"):
        line = f"{sys.executable} -m tledge targets {closed}"
        assert subprocess.run(["sh", "-c", line], capture_output=True, check=False, timeout=60).returncode == 0


def test_no_place_for_temporary_files(tmp_path: Path) -> None:
    """`doctor` says it; a command that needs one ends in one line."""
    nowhere = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']"
    script = f"{nowhere}; from tledge.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", script, "doctor"], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path
    )
    assert ended.returncode == 1
    assert "temporary files" in ended.stdout
    assert "set TMPDIR" in ended.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_disk_is_told_with_file_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        return opened(Path("/dev/full") if mode == "wb" else self, mode, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    path = tmp_path / "x.json"
    with pytest.raises(OSError, match=r"No space left on device, and [0-9,]+ bytes are needed") as caught:
        write_json(path, {"a": "b" * 5000})
    assert caught.value.filename == str(path)
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_while_a_zip_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import zipfile

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OSError, match="and 5 bytes are needed") as caught:
        write_zip(tmp_path / "x.zip", {"a": b"12345"})
    assert caught.value.filename == str(tmp_path / "x.zip")
    assert not [*tmp_path.iterdir()]


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in the place of each folder, since permissions do not bind every user who runs tests."""
    (tmp_path / "home").write_text("no folder")
    env = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / "c")}
    ended = run_cli("doctor", env=env | {"XDG_DATA_HOME": str(tmp_path / "home" / "d")})
    assert ended.returncode == 0, ended.stdout
    assert "set XDG_CACHE_HOME or HOME" in ended.stdout
