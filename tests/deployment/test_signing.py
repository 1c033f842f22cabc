"""Signatures: what minisign signs is verified, what tledge signs minisign verifies, and nothing else passes."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tledge
from tests.conftest import run_cli
from tests.deployment.test_kit import on_device, said_in_one_line
from tledge.core.errors import ArtefactError, MissingDependencyError, SettingsError
from tledge.core.files import sha256_file

# Two key pairs of `minisign -G -W` for these tests alone, and the first one's secret key with a password.
SECRET = """untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAATkXV60T3juNWzqmxdHsrNa797KtlMKiZXEamURUBHNd781iWlPh3T3LgR18hHBglUfxnxY+z2kq4146muzqhHtK1XG74Pt2yAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
"""
PASSWORD = "correct horse"
WITH_PASSWORD = """untrusted comment: its password is in the tests; n = 2^14 instead of minisign's 2^20
RWRTY0IyQhDZgIXTWUV2dRMLF3xwbQ+U98vFG8QP6oTFe+jbmIsAAAgAAAAAAAAAAAEAAAAAClctXyfJzFruVwu7uDgHRG9KeMypc4DrnJqHZg/crPeGD6HwPGeaGgS50Tg3KrdnOmAS+aUan8shN0VJNI+iDNOzSVlF+lYREB0MwfZqWroqzgsjSzxycN7mjJ8i5cEzDyGFnJMErjU=
"""
PUBLIC = """untrusted comment: minisign public key E38EF744EBD5454E
RWRORdXrRPeO43LgR18hHBglUfxnxY+z2kq4146muzqhHtK1XG74Pt2y
"""
OTHER_PUBLIC = """untrusted comment: minisign public key D230F5FC3FD68DEB
RWTrjdY//PUw0lcPIHX5JE+XfvCBH9PgSJkHSwZlDvQRZ92im3HFHko0
"""
needs_minisign = pytest.mark.skipif(shutil.which("minisign") is None, reason="needs minisign (apt install minisign)")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with keys, two files, and a signature of the first."""
    for name, text in (("release.key", SECRET), ("release.pub", PUBLIC), ("other.pub", OTHER_PUBLIC)):
        (tmp_path / name).write_text(text)
    (tmp_path / "password.key").write_text(WITH_PASSWORD)
    (tmp_path / "one.tflite").write_bytes(b"one" * 1000)
    (tmp_path / "two.tflite").write_bytes(b"two" * 1000)
    tledge.sign([tmp_path / "one.tflite"], tmp_path / "release.key")
    return tmp_path


def minisign(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["minisign", *arguments], cwd=folder, input=stdin, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_signed_file_passes_and_its_comment_says_what_it_is(here: Path) -> None:
    (verified,) = tledge.verify([here / "one.tflite"], here / "release.pub")
    assert (verified.verdict, verified.reason) == ("pass", "")
    assert verified.comment == f"file:one.tflite\tsha256:{sha256_file(here / 'one.tflite')}"
    text = (here / "one.tflite.minisig").read_bytes()
    tledge.sign([here / "one.tflite"], here / "release.key")
    assert (here / "one.tflite.minisig").read_bytes() == text


def _flip(path: Path, line: int, position: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    content = bytearray(base64.b64decode(lines[line]))
    content[position] ^= 1
    lines[line] = base64.b64encode(content) + b"\n"
    path.write_bytes(b"".join(lines))


def _flip_file(folder: Path) -> None:
    content = bytearray((folder / "one.tflite").read_bytes())
    content[1500] ^= 1
    (folder / "one.tflite").write_bytes(content)


def _swap(folder: Path) -> None:
    tledge.sign([folder / "two.tflite"], folder / "release.key")
    shutil.copy(folder / "two.tflite.minisig", folder / "one.tflite.minisig")


def _edit(old: bytes, new: bytes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        signature = folder / "one.tflite.minisig"
        assert old in signature.read_bytes()
        signature.write_bytes(signature.read_bytes().replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip_file, "do not belong together, or one was changed"),
        (lambda folder: _flip(folder / "one.tflite.minisig", 1, 30), "do not belong together, or one was changed"),
        (lambda folder: _flip(folder / "one.tflite.minisig", 3, 30), "do not belong together, or one was changed"),
        (lambda folder: _flip(folder / "one.tflite.minisig", 1, 5), "incompatible key identifiers"),
        (lambda folder: _flip(folder / "one.tflite.minisig", 1, 0), "no signature of minisign, or damaged"),
        (_swap, "do not belong together, or one was changed"),
        (_edit(b"file:one", b"file:two"), "do not belong together, or one was changed"),
        (_edit(b"\ntrusted comment: ", b"\nextra\ntrusted comment: "), "no signature of minisign, or damaged"),
        (lambda folder: (folder / "one.tflite.minisig").write_bytes(b"\xff" * 300), "no signature of minisign"),
        (lambda folder: (folder / "one.tflite.minisig").write_bytes(b""), "no signature of minisign"),
        (lambda folder: (folder / "one.tflite.minisig").unlink(), "there is no one.tflite.minisig"),
    ],
)
def test_what_does_not_fit_is_a_failed_verdict(here: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(here)
    (verified,) = tledge.verify([here / "one.tflite"], here / "release.pub")
    assert verified.verdict == ("missing" if reason.startswith("there is no") else "fail")
    assert reason in verified.reason
    assert verified.comment == ""
    result = run_cli("verify", here / "one.tflite", "--public-key", here / "release.pub")
    assert result.returncode == 1
    assert "0 of 1 signed by this key." in result.stdout


def test_another_key_is_refused_also_under_the_same_id(here: Path) -> None:
    (verified,) = tledge.verify([here / "one.tflite"], here / "other.pub")
    assert (verified.verdict, verified.comment) == ("fail", "")
    assert "incompatible key identifiers" in verified.reason
    other = base64.b64decode(OTHER_PUBLIC.splitlines()[1])
    claimed = base64.b64decode(PUBLIC.splitlines()[1])[:10] + other[10:]
    (here / "claims.pub").write_text(f"untrusted comment: a claim\n{base64.b64encode(claimed).decode()}\n")
    (verified,) = tledge.verify([here / "one.tflite"], here / "claims.pub")
    assert (verified.verdict, verified.comment) == ("fail", "")


@pytest.mark.parametrize(
    "content", [b"", PUBLIC.encode()[:-20], SECRET.encode(), b"\0" * 100, PUBLIC.encode().replace(b"RWRO", b"AAAO")]
)
def test_a_damaged_public_key_is_bad_usage(here: Path, content: bytes) -> None:
    (here / "release.pub").write_bytes(content)
    result = run_cli("verify", here / "one.tflite", "--public-key", here / "release.pub")
    assert result.returncode == 2, result.stdout
    assert "expected a public key of minisign, but" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "content", [b"", PUBLIC.encode(), SECRET.encode()[:-9], SECRET.encode().replace(b"EIy", b"EIx")]
)
def test_a_damaged_secret_key_signs_nothing(here: Path, content: bytes) -> None:
    (here / "release.key").write_bytes(content)
    result = run_cli("sign", here / "two.tflite", "--key", here / "release.key")
    assert result.returncode == 2, result.stdout
    assert "expected a secret key of minisign, but" in result.stderr
    assert not (here / "two.tflite.minisig").exists()


def test_a_secret_key_whose_parts_differ_is_refused(here: Path) -> None:
    _flip(here / "release.key", 1, 100)
    with pytest.raises(SettingsError, match=r"the two parts of .* differ"):
        tledge.sign([here / "two.tflite"], here / "release.key")


def test_a_key_with_a_password(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = here / "password.key"
    with pytest.raises(SettingsError, match=r"expected the password of .*, but got none"):
        tledge.sign([here / "two.tflite"], key)
    with pytest.raises(SettingsError, match=r"expected the password of .*, but it cannot be used: wrong password"):
        tledge.sign([here / "two.tflite"], key, password="battery staple")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\n"))
    assert run_cli("sign", here / "two.tflite", "--key", key).returncode == 0
    assert tledge.verify([here / "two.tflite"], here / "release.pub")[0].verdict == "pass"


def test_a_key_that_asks_for_more_memory_than_there_is(here: Path) -> None:
    content = bytearray(base64.b64decode(WITH_PASSWORD.splitlines()[1]))
    content[38:54] = b"\xff" * 16
    (here / "greedy.key").write_text(f"untrusted comment: greedy\n{base64.b64encode(content).decode()}\n")
    with pytest.raises(SettingsError, match=r"expected the password of .*, but it cannot be used"):
        tledge.sign([here / "two.tflite"], here / "greedy.key", password="x")


@needs_minisign
def test_what_tledge_signs_minisign_verifies(here: Path) -> None:
    looked = minisign(here, "-VHm", "one.tflite", "-p", "release.pub")
    assert looked.returncode == 0, looked.stderr
    assert f"sha256:{sha256_file(here / 'one.tflite')}" in looked.stdout
    (here / "ä\nb").write_bytes(b"named so")
    tledge.sign([here / "ä\nb"], here / "release.key")
    assert "file:\\xe4\\nb" in minisign(here, "-VHm", "ä\nb", "-p", "release.pub").stdout
    _flip_file(here)
    assert minisign(here, "-VHm", "one.tflite", "-p", "release.pub").returncode == 1


@needs_minisign
@pytest.mark.parametrize("how", [(), ("-l",)], ids=["hashed", "legacy"])
def test_what_minisign_signs_passes(here: Path, how: tuple[str, ...]) -> None:
    signed = minisign(here, "-S", *how, "-s", "password.key", "-m", "two.tflite", stdin=f"{PASSWORD}\n")
    assert signed.returncode == 0, signed.stderr
    (verified,) = tledge.verify([here / "two.tflite"], here / "release.pub")
    assert verified.verdict == "pass"
    assert "file:two.tflite" in verified.comment


@pytest.mark.slow
@needs_minisign
def test_keys_of_minisign_itself(here: Path) -> None:
    """Its own password-protected keys take 1 GiB of memory."""
    made = minisign(here, "-G", "-p", "made.pub", "-s", "made.key", stdin="pass\npass\n")
    assert made.returncode == 0, made.stderr
    tledge.sign([here / "two.tflite"], here / "made.key", password="pass")
    assert minisign(here, "-Vm", "two.tflite", "-p", "made.pub").returncode == 0


@needs_minisign
def test_a_hostile_comment_is_shown_escaped(here: Path) -> None:
    hostile = "\x1b[2Jcleared \u202egnorw"
    signed = minisign(here, "-S", "-s", "release.key", "-m", "two.tflite", "-t", hostile)
    assert signed.returncode == 0, signed.stderr
    assert tledge.verify([here / "two.tflite"], here / "release.pub")[0].comment == hostile
    result = run_cli("verify", here / "two.tflite", "--public-key", here / "release.pub")
    assert result.returncode == 0
    assert "\\x1b[2Jcleared \\u202egnorw" in result.stdout
    assert not {"\x1b", "\u202e"} & set(result.stdout)


def test_bad_usage_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (here / "nothing.tflite", here / "one.tflite.minisig"):
        result = run_cli("sign", here / "two.tflite", wrong, "--key", here / "release.key")
        assert result.returncode == 2
        assert "expected a run, or a file beside its signature" in result.stderr
    assert not (here / "two.tflite.minisig").exists()  # all are looked at before the first is signed
    assert run_cli("verify", here, "--public-key", here / "release.pub").returncode == 2  # a folder that is no run
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'tledge\[sign\]'"):
        tledge.sign([here / "two.tflite"], here / "release.key")


def test_a_run_is_signed_and_its_kit_refuses_other_models(run_copy: Path, here: Path) -> None:
    signed = tledge.sign([run_copy], here / "release.key")
    names = [path.name for path in (run_copy / "export").iterdir() if path.suffix in (".tflite", ".onnx")]
    assert len(names) == 6
    assert sorted(one.path.name for one in signed) == sorted(names)
    assert "\trecipe:tflite-int8\tmodel_sha256:" in next(one.comment for one in signed if "int8.tflite" in one.comment)
    assert {one.verdict for one in tledge.verify([run_copy], here / "release.pub")} == {"pass"}

    with zipfile.ZipFile(tledge.kit(run_copy, here / "kit.zip").path) as archive:
        archive.extractall(here / "kit")
    model, image = here / "kit/models/tflite-int8.tflite", here / "kit/images/00.rgb"
    if shutil.which("minisign"):
        classify = ("classify", str(image), "--model", "tflite-int8", "--public-key")
        accepted = on_device(here / "kit", *classify, str(here / "release.pub"))
        assert accepted.returncode == 0, accepted.stderr
        refused = on_device(here / "kit", *classify, str(here / "other.pub"))
        assert refused.returncode == 1
        assert "expected models/tflite-int8.tflite to be signed by this key" in said_in_one_line(refused)
        assert on_device(here / "kit", *classify, str(here / "no.pub")).returncode == 2
        model.with_name("onnx-int8.onnx.minisig").unlink()
        bench = on_device(here / "kit", "bench", "--rounds", "1", "--public-key", str(here / "release.pub"))
        assert bench.returncode == 1
        assert "expected models/onnx-int8.onnx to be signed by this key" in said_in_one_line(bench)
    with_model = model.read_bytes()
    model.write_bytes(with_model[:-1] + bytes([with_model[-1] ^ 1]))
    assert tledge.verify([model], here / "release.pub")[0].verdict == "fail"

    export = run_copy / "export"
    (export / "tflite-int8.tflite").write_bytes(with_model + b"\0")
    with pytest.raises(ArtefactError, match="to be this run's, as its sidecar describes it"):
        tledge.sign([run_copy], here / "release.key")
    (export / "tflite-int8.json").unlink()
    with pytest.raises(ArtefactError, match=r"expected tflite-int8\.json beside"):
        tledge.sign([run_copy], here / "release.key")
