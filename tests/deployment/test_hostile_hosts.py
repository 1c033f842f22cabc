"""What another machine says is data: one line that names it, whatever it says."""

from __future__ import annotations

import base64
import json
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tledge.core.errors import RemoteError
from tledge.deployment.answering import RemoteAnswers
from tledge.deployment.hosts import host as host_module
from tledge.deployment.hosts.host import Access, session
from tledge.deployment.kit_bench import probe, remote_script


@dataclass(frozen=True)
class Lying:
    """A host that says what it was told to, whatever it is asked."""

    lines: Path
    on = "ssh://liar"
    name = "the liar"
    python = "python3"
    by_hand = "ssh liar"
    without_python = "install one"

    @classmethod
    def reach(cls, on: str, access: Access) -> Lying:
        raise NotImplementedError

    def command(self, arguments: Sequence[str]) -> list[str]:
        return [
            sys.executable,
            "-c",
            f"import sys; sys.stdout.write(open({str(self.lines)!r}).read()); sys.stdin.read()",
        ]

    def refusal(self, code: int, lines: Sequence[str]) -> str | None:
        return None


def saying(folder: Path, *messages: object) -> Lying:
    lines = [one if isinstance(one, str) else json.dumps({"tledge_remote": 1, **one}) for one in messages]  # type: ignore[dict-item]
    (folder / "lines").write_text("\n".join(lines) + "\n")
    return Lying(folder / "lines")


TRUE = {
    "python": "3.11",
    "architecture": "x86_64",
    "bits": 64,
    "cores": 2,
    "folder": "/",
    "free_bytes": 9,
    "problems": {},
}


def test_one_that_says_what_it_should(tmp_path: Path) -> None:
    assert probe(saying(tmp_path, TRUE)).cores == 2


@pytest.mark.parametrize(
    "message",
    [
        '{"tledge_remote":' + "[" * 200_000,
        '{"tledge_remote":' + "9" * 5000 + "}",
        '{"tledge_remote":NaN}',
        '{"tledge_remote":1,"tledge_remote":2}',
        '{"tledge_remote":1}',
        TRUE | {"cores": "all"},
        TRUE | {"problems": None},
        TRUE | {"python": ["\x1b[2J"]},
        {"error": "system"},
    ],
)
def test_words_that_nobody_expects(message: object, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="the liar"):
        probe(saying(tmp_path, message))


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_module, "_LINE_BYTES", 1000)
    with pytest.raises(RemoteError, match="cut or damaged"):
        probe(saying(tmp_path, TRUE | {"more": "a" * 2000}))


ANSWERS = (
    *({}, {"answers": 1}, {"answers": "abc"}, {"answers": base64.b64encode(b"12345").decode()}),
    {"answers": base64.b64encode(struct.pack("<2f", float("nan"), 1)).decode()},
    {"error": "ended"},
    {"error": "ended", "code": "x", "stderr": 1},
)


@pytest.mark.parametrize("message", ANSWERS)
def test_answers_that_are_none(message: dict[str, Any], tmp_path: Path) -> None:
    host = saying(tmp_path, message)
    file: Any = SimpleNamespace(name="a.onnx", classifier=SimpleNamespace(image_size_px=8, classes=2))
    store = SimpleNamespace(batches=lambda rows, size: [np.zeros((1, 8, 8, 3), np.uint8)])
    images: Any = SimpleNamespace(n=1, stores={8: store})
    with session(host, remote_script(), []) as opened, pytest.raises(RemoteError, match="the liar"):
        RemoteAnswers(host, 60.0)._answers(opened, file, images, lambda *_: None)
