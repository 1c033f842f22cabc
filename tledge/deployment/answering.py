"""Files that answer images on a machine behind ssh or adb, with the code that kits have for devices."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from tledge.conversion.artefacts import RunArtefact
from tledge.conversion.recipe import recipe_folder
from tledge.core.errors import RemoteError
from tledge.core.image_size import height_width
from tledge.core.progress import Progress
from tledge.core.types import Json, Probabilities
from tledge.deployment.hosts.host import PythonHost, Session, session
from tledge.deployment.kit_bench import (
    READY_S,
    RUNTIMES,
    SLACK_S,
    lacking,
    probe,
    remote_script,
    require_space,
    runtime_for,
)
from tledge.evaluation.candidates import Candidate
from tledge.evaluation.hosts import HostAnswers
from tledge.runs.check_json import AnsweringEnvironment
from tledge.runs.images import ImageSet

_CHUNK_BYTES = 4 << 20
"""Of images in one message: what a board can hold beside a model, and answers within seconds."""


@dataclass(frozen=True)
class RemoteAnswers:
    """A machine that answers for a check, as `tledge.evaluation.hosts.AnsweringHost`.

    `time_limit` is how many seconds it may take for all files.
    """

    host: PythonHost
    time_limit: float
    wants = f"a .{', .'.join(RUNTIMES)} file"

    @property
    def on(self) -> str:
        """The host's address."""
        return self.host.on

    @property
    def name(self) -> str:
        """The host's name."""
        return self.host.name

    def require_ready(self, files: Sequence[Path]) -> None:
        """Look at the machine, and refuse files that it cannot answer with.

        Raises:
            RemoteError: it cannot be reached, lacks Python 3.10, numpy or a file's runtime, or has no space.
        """
        found = probe(self.host)
        require_space(self.host, found, max((path.stat().st_size for path in files if path.is_file()), default=0))
        if "numpy" in found.problems:
            raise lacking(self.host, found, ["numpy"])
        for path in files:
            runtime = runtime_for(path)
            if runtime in found.problems:
                raise lacking(self.host, found, [str(runtime)], f" to answer with {path.name}")

    def takes(self, artefact: RunArtefact) -> bool:
        """As `AnsweringHost`: every file of a run has a runtime for computers."""
        return runtime_for(artefact.path) is not None

    def answer(self, files: Sequence[Candidate], images: Sequence[ImageSet], progress: Progress) -> HostAnswers:
        """Answer every image with every file; each file, then all images, go there and nothing stays.

        Raises:
            RemoteError: the connection or the machine failed, a file does not run there, or the time was not enough.
            DataError: an image has changed since it was listed.
        """
        found: list[list[Probabilities]] = [[] for _ in images]
        said = None
        with session(self.host, remote_script(), ["answer", str(self.time_limit)]) as opened:
            opened.read(READY_S)
            _send(opened, {"what": "code"}, (recipe_folder() / "device" / "tledge_device.py").read_bytes())
            for file in files:
                said = self._told(opened, file, {"what": "file", "name": file.path.name}, file.path.read_bytes())
                for answers, several in zip(found, images, strict=True):
                    answers.append(self._answers(opened, file, several, progress))
            _send(opened, {"what": "end"}, b"")
            opened.read(READY_S)
        assert said is not None  # a check has files
        try:
            environment = msgspec.convert({name: said[name] for name in ("machine", "versions")}, AnsweringEnvironment)
        except (KeyError, msgspec.ValidationError) as error:
            raise RemoteError(f"expected {self.name} to say what it is, but {error}; run it again") from None
        return HostAnswers(environment, tuple(file.classifier.runtime for file in files), tuple(map(tuple, found)))

    def _answers(self, opened: Session, file: Candidate, images: ImageSet, progress: Progress) -> Probabilities:
        size, total = file.classifier.image_size_px, images.n
        height, width = height_width(size)
        rows: list[Probabilities] = []
        for pixels in images.stores[size].batches(np.arange(total), max(1, _CHUNK_BYTES // (3 * height * width))):
            done = sum(map(len, rows))
            progress(f"{file.name} on {self.name}", done, total)
            told = self._told(opened, file, {"what": "images", "images": len(pixels)}, pixels.tobytes())
            try:
                values = np.frombuffer(base64.b64decode(told["answers"]), "<f4")
            except (KeyError, TypeError, ValueError):
                values = np.empty(0, "<f4")
            if not np.isfinite(values).all():
                raise RemoteError(
                    f"expected finite probabilities from {file.name} on {self.name}, but got others; run it again"
                )
            if values.size != len(pixels) * file.classifier.classes:
                raise RemoteError(
                    f"expected {file.classifier.classes} probabilities of each of {len(pixels)} images from "
                    f"{file.name} on {self.name}, but got {values.size} numbers; run it again"
                )
            rows.append(values.reshape(len(pixels), -1).astype(np.float32))
        progress(f"{file.name} on {self.name}", total, total)
        return np.concatenate(rows)

    def _told(self, opened: Session, file: Candidate, head: Json, content: bytes) -> Json:
        _send(opened, head, content)
        told = opened.read(self.time_limit + SLACK_S)
        if told.get("error") == "time":
            raise RemoteError(
                f"expected {self.name} to answer within {self.time_limit:g} s, but it did not; allow more with "
                "--time-limit, or check fewer files with --artefact"
            )
        if told.get("error") == "ended":
            lines = [line for line in str(told.get("stderr", "")).splitlines() if line.strip()]
            code = told.get("code")
            reason = lines[-1].strip().removeprefix("tledge_device: ") if lines else f"code {code}"
            killed = f"it was ended by signal {-code}" if isinstance(code, int) and code < 0 else reason
            raise RemoteError(
                f"expected {file.name} to answer on {self.name}, but {killed}; look at its memory and its runtime, or "
                "leave the file out with --artefact"
            )
        return told


def _send(opened: Session, head: Json, content: bytes) -> None:
    text = json.dumps({**head, "bytes": len(content)}).encode()
    opened.send(struct.pack(">I", len(text)) + text)
    opened.send(content)
